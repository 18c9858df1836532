"""`streamfuse run`: whatever the YAML file describes, until the end of the streams or Ctrl-C."""

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "run",
        help="run a configuration file, live or not",
        description="Runs what CONFIG.yaml describes. Ctrl-C once finishes what is under way and closes the "
        "files; twice stops at once.",
    )
    parser.add_argument("config", metavar="CONFIG.yaml")
    parser.add_argument(
        "--set", dest="overrides", metavar="A.B=VALUE", action="append", default=[], help="change a value"
    )
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="stop after this long")
    parser.add_argument(
        "--log-json", action="store_true", help="one JSON line a second instead of a status line"
    )
    parser.add_argument("--report", metavar="FILE", help="write the final counts as JSON")
    parser.add_argument(
        "--profile", metavar="FILE", help="write a trace of where the time goes, for ui.perfetto.dev"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from streamfuse.cli._progress import finish_on_interrupt, print_report, status_line, write_report
    from streamfuse.config import load_config
    from streamfuse.pipeline import Pipeline
    from streamfuse.spans import recorded

    pipeline = Pipeline.from_config(load_config(args.config, args.overrides))
    with (
        recorded(args.profile),
        finish_on_interrupt(pipeline),
        status_line(pipeline, as_json=args.log_json, duration_s=args.duration),
    ):
        report = pipeline.run()
    print_report(report, as_json=args.log_json)
    if args.report:
        write_report(report, args.report)
    return 1 if pipeline.failed_sinks else 0
