"""`streamfuse demo`: the bundled sample, fused on the CPU with the defaults."""

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "demo", help="fuse the bundled sample and show what happened"
    )
    parser.add_argument("-o", "--out", default="streamfuse-demo", metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--profile", metavar="FILE", help="write a trace of where the time goes, for ui.perfetto.dev"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from streamfuse.cli._progress import frame_progress, print_report
    from streamfuse.demo import Demo
    from streamfuse.spans import recorded

    demo = Demo(args.out)
    with recorded(args.profile):
        frame_progress(demo.pipeline, each=demo.keep)
    report = demo.finish()
    print_report(report)
    for path in demo.written:
        print(f"  written: {path}")
    return 0
