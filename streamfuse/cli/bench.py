"""`streamfuse bench`: what models and whole runs cost on this machine."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streamfuse.cli._types import parse_seconds
from streamfuse.cli.model import parse_size

PAGE_COLUMNS = 180
"""Of tables that go into a file."""


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser("bench", help="what models and runs cost here")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    models = actions.add_parser(
        "models",
        help="registrars and fusers in turns, against the plain network and classical methods",
        description="Times register and fuse at several sizes and precisions, all in turns, after a warm-up.",
    )
    models.add_argument("--model", dest="models", action="append", metavar="NAME", help="registrar or fuser")
    models.add_argument("--repeats", type=_positive, default=25, metavar="N", help="default: %(default)s")
    models.add_argument("--threads", type=_positive, metavar="N", help="default: the cores but one")
    models.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1; default: cpu")
    models.add_argument("--weights", metavar="FILE", help="of networks that come without: mepma")
    models.add_argument(
        "--backend",
        dest="backends",
        action="append",
        metavar="NAME",
        choices=("eager", "compile", "openvino"),
        help="of networks; may be repeated; default: eager, and openvino where it is installed",
    )
    pipeline = actions.add_parser(
        "pipeline",
        help="whole runs, file to H.264 file, each in a process of its own",
        description="Runs each case several times in turns and once in real time: frames a second, latency "
        "by stage, processor time, peak memory.",
    )
    pipeline.add_argument(
        "--case",
        dest="cases",
        action="append",
        metavar="'A.B=VALUE ...'",
        help="settings of one run, separated by spaces; may be given several times",
    )
    pipeline.add_argument("--rounds", type=_positive, default=3, metavar="N", help="default: %(default)s")
    pipeline.add_argument(
        "--seconds", type=parse_seconds, metavar="S", help="repeat the clips to this length"
    )
    pipeline.add_argument("--no-live", action="store_true", help="leave out the run in real time")
    for action in (models, pipeline):
        action.add_argument(
            "clips", nargs="*", metavar="IR VIS", help="two clips; default: the bundled sample"
        )
        action.add_argument(
            "--size", dest="sizes", action="append", type=parse_size, metavar="WxH", help="may be repeated"
        )
        action.add_argument("--json", metavar="FILE", help="write all figures")
        action.add_argument("--plot", metavar="PNG", help="draw them")
        action.add_argument("--record", metavar="NOTE", help="append them to tests/benchmarks.jsonl")
    parser.set_defaults(run=run)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def run(args: argparse.Namespace) -> int:
    from streamfuse.bench import models, pipeline, report
    from streamfuse.bench.clips import first_pair, sample_clips
    from streamfuse.bench.machine import describe_machine
    from streamfuse.clock import RealClock
    from streamfuse.errors import ConfigError
    from streamfuse.outputs import check_writable

    if len(args.clips) not in (0, 2):
        raise ConfigError(f"bench takes two clips, infrared and visible, or none; got {len(args.clips)}")
    check_writable(args.json, args.plot)
    clips = (Path(args.clips[0]), Path(args.clips[1])) if args.clips else sample_clips()
    machine = describe_machine()
    rows: Sequence[Any]
    if args.action == "models":
        rows = models.bench_models(
            first_pair(clips),
            models=args.models or models.DEFAULT_MODELS,
            sizes=args.sizes or models.DEFAULT_SIZES,
            repeats=args.repeats,
            threads=args.threads,
            device=args.device,
            weights=args.weights,
            backends=args.backends,
            clock=RealClock(),
        )
        tables, bars = [report.model_table(rows)], report.model_bars(rows)
        figures = report.model_figures(rows)
    else:
        rows = pipeline.bench_pipeline(
            clips,
            cases=args.cases or pipeline.DEFAULT_CASES,
            sizes=args.sizes or pipeline.DEFAULT_SIZES,
            rounds=args.rounds,
            seconds=args.seconds,
            live=not args.no_live,
        )
        tables = [report.pipeline_table(rows), report.stage_table(rows)]
        bars = report.pipeline_bars(rows)
        figures = report.pipeline_figures(rows)
    _print(machine, tables)
    _write(args, machine, rows, bars, figures)
    return 0


def _print(machine: dict[str, Any], tables: Sequence[tuple[list[str], list[list[str]]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    print(", ".join(f"{name} {value}" for name, value in machine.items() if name != "wall_s"))
    console = Console()
    if not console.is_terminal:
        console = Console(width=PAGE_COLUMNS)
    for headings, cells in tables:
        table = Table(*headings)
        for row in cells:
            table.add_row(*row)
        console.print(table)


def _write(
    args: argparse.Namespace,
    machine: dict[str, Any],
    found: Sequence[Any],
    bars: list[tuple[str, float, float]],
    figures: dict[str, float],
) -> None:
    import json
    from dataclasses import asdict

    from streamfuse.bench import report
    from streamfuse.outputs import write_text
    from streamfuse.pictures import write_picture

    if args.json:
        text = json.dumps({"machine": machine, "rows": [asdict(row) for row in found]}, indent=2) + "\n"
        write_text(text, args.json)
    if args.plot:
        write_picture(args.plot, report.plot(bars, title=f"streamfuse bench {args.action}"))
    if args.record:
        report.record(report.HISTORY, args.record, machine, figures)
