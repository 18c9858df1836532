"""`streamfuse offset`: how much later the same event is stamped in the visible clip than in the infrared
one."""

import argparse
from pathlib import Path
from typing import Any

MAX_LAG_LIMIT_S = 60.0
"""A search wider than that compares minutes of video with minutes of video."""


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "offset",
        help="measure the time offset between two recorded clips",
        description="Measures how much later the same event is stamped in the visible clip than in the "
        "infrared one, from what moves in both. Nothing is said where nothing moves. The number goes into a "
        "configuration's `pairing.offset_ms`; `pairing.offset_ms: auto` measures it by itself.",
    )
    parser.add_argument("ir", metavar="IR")
    parser.add_argument("vis", metavar="VIS")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result, with each second's own")
    parser.add_argument(
        "--max-lag",
        type=float,
        default=1.5,
        metavar="S",
        help="largest offset looked for, in seconds (default: %(default)s)",
    )
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", help="the rig's geometry, from `streamfuse calibrate`"
    )
    parser.add_argument("--set", dest="overrides", metavar="A.B=VALUE", action="append", default=[])
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from streamfuse.batch import clip_config
    from streamfuse.cli import EXIT_FAILED
    from streamfuse.config import apply_override, parse_config
    from streamfuse.errors import ConfigError
    from streamfuse.inputs import Job
    from streamfuse.outputs import check_writable, refuse_overwriting
    from streamfuse.pairing.correlation import BLOCK_S
    from streamfuse.pairing.offset import OffsetStatus
    from streamfuse.pipeline.offset import measure_recording, written

    if not BLOCK_S / 2 <= args.max_lag <= MAX_LAG_LIMIT_S:
        reach = f"{BLOCK_S / 2:g} to {MAX_LAG_LIMIT_S:g}"
        raise ConfigError(f"--max-lag {args.max_lag:g}: must be {reach} seconds")
    if args.json is not None:
        refuse_overwriting([args.json], {"infrared": args.ir, "visible": args.vis})
        check_writable(args.json)
    settings: dict[str, Any] = {}
    for override in args.overrides:
        apply_override(settings, override)
    if args.calibration is not None:
        settings["calibration"] = str(args.calibration)
    config = parse_config(clip_config(Job(name="offset", ir=args.ir, vis=args.vis), settings))
    found = measure_recording(config, max_lag_s=args.max_lag)
    overall, measured = found.measurement.overall, found.measurement
    if args.json is not None:
        written(found, args.json)
    print(f"  status: {overall.status}{': ' if overall.reason else ''}{overall.reason}")
    print(f"geometry: {found.geometry}")
    if overall.status is not OffsetStatus.OK or overall.offset_s is None or overall.uncertainty_s is None:
        return EXIT_FAILED
    later = "visible" if overall.offset_s > 0 else "infrared"
    offset = f"{overall.offset_s * 1000:+.1f} +- {overall.uncertainty_s * 1000:.1f} ms"
    print(f"  offset: {offset}: the same event is later in the {later}")
    if measured.drift is None or measured.drift_uncertainty is None:
        print(f"   drift: not known, {measured.drift_reason}")
    else:
        print(f"   drift: {measured.drift * 1e6:+.0f} +- {measured.drift_uncertainty * 1e6:.0f} ppm")
    print(f" to use: --set pairing.offset_ms={overall.offset_s * 1000:.1f}")
    return 0
