"""`streamfuse calibrate`: the rig's geometry from recorded clips, without a target."""

import argparse
from pathlib import Path
from typing import Any

MIN_FRAMES = 1


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "calibrate",
        help="find the geometry of a rig from recorded clips",
        description="Finds how the infrared camera sees what the visible camera sees, from a pair of clips "
        "without any target: things with edges in both, spread over the picture, at the distances that "
        "matter; the longer and livelier the clips, the better. The file goes into a configuration's "
        "`calibration:`, or to `streamfuse fuse --calibration`.",
    )
    parser.add_argument("ir", metavar="IR")
    parser.add_argument("vis", metavar="VIS")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help="calibration, .yaml or .json"
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=40,
        metavar="N",
        help="pairs to use, spread over the clips (default: %(default)s)",
    )
    parser.add_argument("--model", choices=("affine", "homography"), default="homography")
    parser.add_argument("--set", dest="overrides", metavar="A.B=VALUE", action="append", default=[])
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from streamfuse.calibration.clips import matched_pairs
    from streamfuse.calibration.estimate import estimate_calibration
    from streamfuse.errors import ConfigError
    from streamfuse.outputs import check_writable, refuse_overwriting

    if args.frames < MIN_FRAMES:
        raise ConfigError(f"--frames {args.frames}: must be {MIN_FRAMES} or more")
    refuse_overwriting([args.out], {"infrared": args.ir, "visible": args.vis})
    check_writable(args.out)
    pairs = matched_pairs(args.ir, args.vis, count=args.frames, overrides=args.overrides)
    found = estimate_calibration(
        pairs, model=args.model, made_by=f"streamfuse calibrate {args.ir} {args.vis}"
    )
    found.calibration.save(args.out)
    print(f"  residual: {found.residual_px:.2f} px of the visible picture, over {len(pairs)} pairs of frames")
    print(f"   inliers: {found.inliers:.0%} of the textured blocks agree")
    print(f"  coverage: the infrared covers {found.coverage:.0%} of the visible picture")
    print(f"   written: {args.out}")
    return 0
