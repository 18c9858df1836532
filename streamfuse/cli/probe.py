"""`streamfuse probe`: what a source delivers, and what may cause trouble."""

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "probe",
        help="look at a source",
        description="Open a source, watch it for a moment (100 pictures or 5 s), and say what it delivers.",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="video file, folder of pictures, URL, /dev/videoN, v4l2:DEVICE or synthetic:[key=value,...]",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from streamfuse.capture.probe import probe

    report = probe(args.source)
    if args.json:
        print(json.dumps(asdict(report), default=str))
        return 0
    info = report.info
    rate = f"{info.fps:.6g} fps" if info.fps else "rate unknown"
    known = ", ".join(filter(None, (info.codec, info.pixel_format, info.detail)))
    print(f"{report.source}: {report.kind}, {'live' if report.live else 'recorded'}")
    print(f"  picture   {info.width}x{info.height}, {rate}" + (f", {known}" if known else ""))
    if info.frame_count is not None:
        print(f"  length    {info.frame_count} pictures")
    print(f"  delivers  {report.pixels}, values {report.low}..{report.high}, {_looks(report)}")
    if report.pts_interval_ms is not None:
        median, longest = report.pts_interval_ms
        print(f"  stamps    from {report.first_pts_s:.6f} s, every {median:.3f} ms, at most {longest:.3f} ms")
    if report.arrival_interval_ms is not None:
        median, longest = report.arrival_interval_ms
        print(f"  arrival   every {median:.1f} ms, at most {longest:.1f} ms")
    print(f"  opened in {report.open_ms:.0f} ms, {report.pictures} pictures watched")
    for remark in report.remarks:
        print(f"  ! {remark}")
    return 0


def _looks(report: Any) -> str:
    if report.pixels == "gray16":
        return f"a thermal sensor's {report.unit}"
    return "without colour, as infrared is" if report.neutral else "in colour, as visible light is"
