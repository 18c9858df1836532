"""`streamfuse eval motion`: what motion compensation is worth on a clip of one's own."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "motion",
        help="hold against motion compensation on thinned infrared",
        description="Keeps every N-th infrared frame of a pair of clips of one rate and compares holding it "
        "with moving it to the visible time (see pairing.motion); the frames left out are the truth.",
    )
    parser.add_argument("ir", metavar="IR")
    parser.add_argument("vis", metavar="VIS")
    parser.add_argument("--every", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="rig calibration")
    parser.add_argument("--start", type=float, metavar="SECONDS")
    parser.add_argument("--end", type=float, metavar="SECONDS")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from streamfuse.errors import ConfigError
    from streamfuse.evaluation.motion import MIN_EVERY, compare_motion
    from streamfuse.outputs import check_writable, write_text

    if args.every < MIN_EVERY:
        raise ConfigError(f"--every {args.every}: must be {MIN_EVERY} or more, or no frame is left out")
    check_writable(args.json)
    result = compare_motion(
        args.ir,
        args.vis,
        every=args.every,
        calibration=args.calibration,
        start_s=args.start,
        end_s=args.end,
    )
    print(f"{result.frames} frames judged, {result.moving:.1%} of the picture moves")
    print("error, grey levels  moving (of hold)  elsewhere (of hold)   moved  motion ms  warp ms")
    for name, one in result.methods.items():
        inside = f"{one.inside:6.2f} ({one.inside_ratio:6.1%})"
        outside = f"{one.outside:8.3f} ({one.outside_ratio:7.1%})"
        times = f"{one.motion_ms:9.1f}  {one.warp_ms:7.1f}"
        print(f"{name:18}  {inside}  {outside}  {one.compensated:6.0%}  {times}")
    if args.json:
        write_text(json.dumps(asdict(result), indent=2) + "\n", args.json)
        print(f"written: {args.json}")
    return 0
