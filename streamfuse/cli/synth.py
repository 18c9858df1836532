"""`streamfuse synth`: render a pair of clips of which everything is known."""

import argparse
import sys
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "synth",
        help="render a pair of clips with known truth",
        description="Render a street filmed by an infrared and a visible camera: DIR/vis.mkv, DIR/ir.mkv, "
        "the cameras' true times (times.json) and, for each visible frame, where the infrared camera sees "
        "the same (truth/).",
    )
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, help="folder to write")
    parser.add_argument("-c", "--config", metavar="FILE", type=Path, help="options as YAML")
    parser.add_argument(
        "--set", dest="overrides", metavar="A.B=VALUE", action="append", default=[],
        help="change an option, e.g. duration_s=10, scene.light=night, rig.ir_width=160, timing.ir_fps=8.7",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, metavar="N", help="another street: the same as --set scene.seed=N"
    )
    parser.add_argument("--no-truth", action="store_true", help="the same as --set truth=false")
    parser.add_argument("--options", action="store_true", help="print all options as YAML and stop")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import yaml
    from rich.progress import Progress

    from streamfuse.errors import ConfigError
    from streamfuse.synth.clip import load_clip_options
    from streamfuse.synth.writer import write_clip

    overrides = list(args.overrides)
    if args.seed is not None:
        overrides.append(f"scene.seed={args.seed}")
    if args.no_truth:
        overrides.append("truth=false")
    options = load_clip_options(args.config, overrides)
    if args.options:
        print(yaml.safe_dump(options.model_dump(mode="json"), sort_keys=False), end="")
        return 0
    if args.output is None:
        raise ConfigError("needs the folder to write, -o DIR")
    with Progress(disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("rendering", total=None)
        written = write_clip(
            args.output, options, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    for path in written:
        print(path)
    return 0
