"""`streamfuse model info`: what a network costs."""

import argparse
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamfuse.nn.cost import ModeCost

DEFAULT_SIZE = (640, 480)


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser("model", help="what a network costs")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    info = actions.add_parser(
        "info", help="parameters, multiply-accumulates, memory and time here, part by part"
    )
    info.add_argument("name", metavar="NAME", help="for example mepma")
    info.add_argument("--size", metavar="WxH", type=parse_size, default=DEFAULT_SIZE, help="default: 640x480")
    info.add_argument("--device", default="cpu", help="where it is timed: cpu, cuda, cuda:1; default: cpu")
    info.add_argument("--no-time", action="store_true", help="count only, do not run it")
    info.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def parse_size(text: str) -> tuple[int, int]:
    """`WxH` as (width, height), for argparse."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 640x480")
    return int(match[1]), int(match[2])


def run(args: argparse.Namespace) -> int:
    import json
    import sys
    from dataclasses import asdict

    import torch

    from streamfuse.clock import RealClock
    from streamfuse.nn.cost import count_cost, measure_seconds

    width, height = args.size
    modes = count_cost(args.name, width=width, height=height)
    seconds: dict[str, float] = {}
    if not args.no_time:
        print(f"timing {args.name} at {width}x{height} on {args.device}", file=sys.stderr)
        seconds = measure_seconds(
            args.name, width=width, height=height, device=args.device, clock=RealClock()
        )
    if args.json:
        print(json.dumps([{**asdict(mode), "seconds": seconds.get(mode.mode)} for mode in modes], indent=2))
        return 0
    threads = f", {torch.get_num_threads()} threads" if args.device == "cpu" else ""
    print(f"{args.name} at {width}x{height}")
    for mode in modes:
        _print_mode(mode)
        if mode.mode in seconds:
            print(f"  time here: {_duration(seconds[mode.mode])} ({args.device}{threads}, float32, eager)")
    return 0


def _print_mode(mode: "ModeCost") -> None:
    print(f"\n{mode.mode}\n  {'part':<22}{'parameters':>12}{'GMAC':>10}{'share':>8}")
    for part in mode.parts:
        share = part.macs / mode.macs if mode.macs else 0.0
        print(f"  {part.name:<22}{part.parameters:>12,}{part.macs / 1e9:>10.2f}{share:>8.1%}")
    parameters = sum(part.parameters for part in mode.parts)
    print(f"  {'total':<22}{parameters:>12,}{mode.macs / 1e9:>10.2f}  = {2 * mode.macs / 1e9:.1f} GFLOP")
    print(
        f"  memory: {4 * parameters / 1e6:.1f} MB of parameters in float32, "
        f"{mode.peak_bytes / 1e6:.0f} MB of intermediate results at the peak"
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
