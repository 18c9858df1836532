"""`streamfuse run`: whatever the YAML files describe, until the end of the streams or Ctrl-C."""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from streamfuse.cli._types import parse_seconds


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "run",
        help="run a configuration file, live or not, or several side by side",
        description="Runs what CONFIG.yaml describes. Several files are several rigs, side by side in one "
        "process: each has its own cameras, state and sinks, one that fails leaves the others alone, and on "
        "a CUDA device frames of rigs that are alike are computed together. Ctrl-C once finishes what is "
        "under way and closes the files, as SIGTERM and a closed terminal do; twice stops at once.",
    )
    parser.add_argument("config", metavar="CONFIG.yaml", nargs="+")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="A.B=VALUE",
        action="append",
        default=[],
        help="change a value, in every file",
    )
    parser.add_argument("--duration", type=parse_seconds, metavar="SECONDS", help="stop after this long")
    parser.add_argument(
        "--log-json", action="store_true", help="one JSON line a second instead of a status line"
    )
    parser.add_argument("--report", metavar="FILE", help="write the final counts as JSON")
    parser.add_argument(
        "--profile", metavar="FILE", help="write a trace of where the time goes, for ui.perfetto.dev"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from streamfuse.config import load_config
    from streamfuse.outputs import check_writable

    check_writable(args.report)
    configs = {name: load_config(path, args.overrides) for name, path in _named(args.config).items()}
    if len(configs) == 1:
        return _run_one(args, *configs.values())
    return _run_several(args, configs)


def _run_one(args: argparse.Namespace, config: Any) -> int:
    from streamfuse.cli._progress import finish_on_interrupt, print_report, status_line, write_report
    from streamfuse.pipeline import Pipeline
    from streamfuse.spans import recorded

    pipeline = Pipeline.from_config(config)
    with (
        recorded(args.profile),
        finish_on_interrupt(pipeline),
        status_line({"": pipeline}, as_json=args.log_json, duration_s=args.duration),
    ):
        report = pipeline.run()
    if args.report:
        write_report(report, args.report)
    print_report(report, as_json=args.log_json)
    return 1 if pipeline.failed_sinks else 0


def _run_several(args: argparse.Namespace, configs: dict[str, Any]) -> int:
    from streamfuse.cli._progress import finish_on_interrupt, print_report, status_line, write_report
    from streamfuse.pipeline import Rigs
    from streamfuse.spans import recorded

    rigs = Rigs(configs)
    with (
        recorded(args.profile),
        finish_on_interrupt(*rigs.pipelines.values()),
        status_line(rigs.pipelines, as_json=args.log_json, duration_s=args.duration),
    ):
        rigs.run()
    reports = {name: pipeline.report() for name, pipeline in rigs.pipelines.items()}
    if args.report:
        write_report(reports, args.report)
    for name, report in reports.items():
        print_report(report, name=name, as_json=args.log_json)
    if rigs.batches and not args.log_json:
        counts = ", ".join(f"{count} of {size}" for size, count in rigs.batches.items())
        print(f"   device: batches of frames: {counts}")
    for name, error in rigs.errors.items():
        print(f"streamfuse run: {name}: {error}", file=sys.stderr)
    return 1 if rigs.failed else 0


def _named(paths: list[str]) -> dict[str, str]:
    """Each file by its name without folder and suffix, or by its path where two have the same."""
    from streamfuse.errors import ConfigError

    stems = Counter(Path(path).stem for path in paths)
    named = {Path(path).stem if stems[Path(path).stem] == 1 else path: path for path in paths}
    if len(named) < len(paths):
        raise ConfigError(f"{' '.join(paths)}: the same file twice; each rig has one of its own")
    return named
