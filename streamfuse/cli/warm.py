"""`streamfuse warm`: registration in time against frame by frame, under known deformations."""

import argparse
from pathlib import Path
from typing import Any

BOUNDS_MISSED = 1
EVERY_FRAME = 10**9
RENDERED_FRAMES = 45
SEEDS = 2**32
"""As many as a rendered scene takes."""


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "warm",
        help="measure registration in time: warm against cold, jitter, harm, confidence",
        description="Puts a known deformation, once standing and once drifting, on clips of a rig that "
        "stands still, and compares registration in time with frame by frame; then says whether the "
        "confidences meant what they said. Exit code 1 when a bound is missed.",
    )
    parser.add_argument(
        "clips", nargs="*", metavar="IR VIS", help="pairs of recorded clips; one reliability curve over all"
    )
    parser.add_argument(
        "--rendered",
        type=int,
        action="append",
        default=[],
        metavar="SEED",
        help="a rendered street, truth known",
    )
    parser.add_argument("--model", default="live", metavar="NAME", help="registrar (default: %(default)s)")
    parser.add_argument(
        "--frames", type=int, metavar="N", help="of each clip, spread over it (default: all; rendered: 45)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the deformation")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    parser.add_argument(
        "--columns", type=Path, metavar="DIR", help="pictures: one pixel column over time, cold above warm"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from streamfuse.errors import ConfigError
    from streamfuse.evaluation.warm import measure
    from streamfuse.evaluation.warm_report import enlarged, figures, reliability_lines, write_json
    from streamfuse.outputs import check_writable
    from streamfuse.pictures import write_picture
    from streamfuse.registration import REGISTRARS

    if len(args.clips) % 2 or not (args.clips or args.rendered):
        raise ConfigError(f"needs pairs IR VIS or --rendered SEED, got {len(args.clips)} clips")
    if args.frames is not None and args.frames < 2:
        raise ConfigError(f"--frames {args.frames}: must be at least 2")
    for option, seeds in (("seed", [args.seed]), ("rendered", args.rendered)):
        for seed in seeds:
            if not 0 <= seed < SEEDS:
                raise ConfigError(f"--{option} {seed}: must be 0 to {SEEDS - 1}")
    check_writable(args.json, args.columns and args.columns / "any.png")
    kind = REGISTRARS.load(args.model)
    registrar = kind(kind.Options(), device="cpu")
    reports, passed = [], True
    for footage in _footage(args):
        for drifting in (False, True):
            report = measure(footage, registrar, seed=args.seed, drifting=drifting)
            reports.append(report)
            print(
                f"\n{report.name}, {'drifting' if drifting else 'standing'} deformation of "
                f"{report.deformation_px:.1f} px, {len(report.status)} frames"
            )
            for figure in figures(report):
                print(f"  {figure}", flush=True)
                passed &= figure.passed
            if args.columns is not None:
                name = f"{report.name}-{'drifting' if drifting else 'standing'}.png"
                write_picture(args.columns / name, enlarged(report.column))
    lines, calibrated = reliability_lines(reports)
    print("\n" + "\n".join(lines))
    if args.json is not None:
        write_json(reports, args.json)
        print(f"written: {args.json}")
    return 0 if passed and calibrated else BOUNDS_MISSED


def _footage(args: argparse.Namespace) -> Any:
    from streamfuse.calibration.clips import matched_pairs
    from streamfuse.evaluation.warm_footage import clip_footage, rendered_footage

    for ir, vis in zip(args.clips[::2], args.clips[1::2], strict=True):
        count = args.frames or EVERY_FRAME
        yield clip_footage(Path(vis).stem, matched_pairs(ir, vis, count=count))
    for seed in args.rendered:
        yield rendered_footage(seed, frames=args.frames or RENDERED_FRAMES)
