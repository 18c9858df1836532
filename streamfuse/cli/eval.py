"""`streamfuse eval`: judge fused and registered pictures or clips by many metrics."""

import argparse
import sys
from pathlib import Path
from typing import Any

from streamfuse.cli import _eval_models, _eval_motion

DEFAULT_METHOD = "result"
FAMILIES = ("fusion", "film", "registration", "epe", "temporal")


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "eval",
        help="judge results by many metrics, beside trivial methods",
        description="Judges folders of pictures, clips, or folders of clips; what belongs together has one "
        "stem. --fused, --registered and --flow may be repeated as NAME=PATH: the methods stand side by side "
        "with copy-visible, copy-ir, max and average. The fusion is judged against the true "
        "infrared where it is given, otherwise against --ir.",
    )
    one = parser.add_argument_group("one set")
    one.add_argument("--ir", type=Path, metavar="PATH", help="infrared")
    one.add_argument("--vis", type=Path, metavar="PATH", help="visible")
    one.add_argument("--fused", action="append", default=[], metavar="[NAME=]PATH", help="fused pictures")
    one.add_argument(
        "--registered", action="append", default=[], metavar="[NAME=]PATH", help="registered infrared"
    )
    one.add_argument("--ir-truth", type=Path, metavar="PATH", help="infrared where it should lie")
    one.add_argument(
        "--flow", action="append", default=[], metavar="[NAME=]DIR", help="displacement fields found"
    )
    one.add_argument(
        "--flow-truth",
        type=Path,
        metavar="DIR",
        help="known fields: what a registrar should find, or (disp, disp_q64) how the infrared was deformed",
    )
    one.add_argument("--name", metavar="NAME", help="name of the set; default: that of the data's folder")
    several = parser.add_argument_group("several sets")
    several.add_argument(
        "--sets",
        type=Path,
        metavar="FILE",
        help="YAML: sets: {NAME: {ir: ..., vis: ..., fused: {NAME: ...}}}",
    )
    how = parser.add_argument_group("what is computed")
    how.add_argument("--families", metavar="LIST", default=",".join(FAMILIES), help="default: %(default)s")
    how.add_argument("--no-trivial", action="store_true", help="leave the trivial methods out")
    how.add_argument("--common", action="store_true", help="judge the stems that all folders have")
    how.add_argument("--frames", action="store_true", help="pictures of a folder are the frames of a clip")
    how.add_argument(
        "--every",
        type=int,
        default=10,
        metavar="N",
        help="clips: judge each N-th frame (default: %(default)s)",
    )
    how.add_argument("--jobs", type=int, metavar="N", help="pictures at a time (default: one a core)")
    out = parser.add_argument_group("output")
    out.add_argument("--json", type=Path, metavar="FILE", help="means and every value")
    out.add_argument("--csv", type=Path, metavar="FILE", help="one line a picture and method")
    out.add_argument("--html", type=Path, metavar="FILE", help="one page with pictures and distributions")
    out.add_argument(
        "--pictures",
        type=int,
        default=6,
        metavar="N",
        help="pictures a set on the page (default: %(default)s)",
    )
    parser.set_defaults(run=run)
    special = parser.add_subparsers(title="special judgements", metavar="WHAT")
    _eval_models.add_parser(special)
    _eval_motion.add_parser(special)


def run(args: argparse.Namespace) -> int:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from streamfuse.evaluation.runner import evaluate
    from streamfuse.outputs import check_writable

    check_writable(args.json, args.csv, args.html)
    sets = _sets(args)
    families = _families(args)
    for option, least in (("every", 1), ("jobs", 1), ("pictures", 0)):
        value = getattr(args, option)
        if value is not None and value < least:
            _refuse(f"--{option} {value}: must be at least {least}")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, disable=not sys.stderr.isatty(), transient=True) as progress:
        bars: dict[str, Any] = {}

        def tell(name: str, done: int, total: int | None) -> None:
            if name not in bars:
                bars[name] = progress.add_task(name, total=total)
            progress.update(bars[name], completed=done)

        evaluation = evaluate(
            sets,
            families=families,
            trivial=not args.no_trivial,
            frames=args.frames,
            common=args.common,
            every=args.every,
            samples=args.pictures if args.html else 0,
            jobs=args.jobs,
            progress=tell,
        )
    report(evaluation, args)
    return 0


def report(evaluation: Any, args: argparse.Namespace) -> None:
    """Print the tables and write what was asked for by --json, --csv and --html."""
    from streamfuse.evaluation.report_html import write_html
    from streamfuse.evaluation.report_terminal import print_tables
    from streamfuse.evaluation.results import write_csv, write_json

    print_tables(evaluation)
    for path, write in ((args.json, write_json), (args.csv, write_csv), (args.html, write_html)):
        if path is not None:
            write(evaluation, path)
            print(f"written: {path}")


def _sets(args: argparse.Namespace) -> dict[str, Any]:
    from streamfuse.evaluation.sets import EvaluationSet, load_sets

    single = [
        args.ir,
        args.vis,
        args.fused,
        args.registered,
        args.ir_truth,
        args.flow,
        args.flow_truth,
        args.name,
    ]
    if args.sets is not None:
        if any(single):
            _refuse("--sets describes whole sets: give the folders in that file, or without --sets")
        return dict(load_sets(args.sets))
    if args.ir is None or args.vis is None:
        _refuse("needs --ir and --vis, or --sets")
    one = EvaluationSet(
        ir=args.ir,
        vis=args.vis,
        fused=_named(args.fused, "--fused"),
        registered=_named(args.registered, "--registered"),
        flow=_named(args.flow, "--flow"),
        ir_truth=args.ir_truth,
        flow_truth=args.flow_truth,
    )
    return {args.name or _set_name(args.vis.resolve()): one}


def _set_name(vis: Path) -> str:
    from streamfuse.inputs import VIS_FOLDERS

    return vis.parent.name if vis.name in VIS_FOLDERS else vis.stem


def _named(values: list[str], option: str) -> dict[str, Path]:
    """`NAME=PATH`; a path alone is the one method without a name."""
    found: dict[str, Path] = {}
    for value in values:
        name, separator, path = value.partition("=")
        if not separator or "/" in name:
            name, path = DEFAULT_METHOD, value
        if not name or not path:
            _refuse(f"{option} {value}: must read NAME=PATH")
        if name in found:
            _refuse(f"{option} {value}: a second {name!r}; give each its own NAME=")
        found[name] = Path(path)
    return found


def _families(args: argparse.Namespace) -> list[Any]:
    chosen = [name for name in args.families.split(",") if name]
    unknown = [name for name in chosen if name not in FAMILIES]
    if unknown or not chosen:
        what = f"unknown {', '.join(unknown)}" if unknown else "nothing to compute"
        _refuse(f"--families {args.families}: {what}; known: {','.join(FAMILIES)}")
    return chosen


def _refuse(message: str) -> None:
    from streamfuse.errors import ConfigError

    raise ConfigError(message)
