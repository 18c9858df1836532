"""`streamfuse eval models`: registrars and fusers run on a folder of pairs, and judged, in one go."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "models",
        help="run registrars and fusers on pairs of pictures and judge them, all fusers on one infrared",
        description="Every pair stands alone (cold). Registrars need a truth to be judged by: --ir-truth or "
        "--flow-truth. All fusers and the trivial fusions get the same infrared.",
    )
    parser.add_argument("--ir", type=Path, required=True, metavar="DIR", help="infrared to register")
    parser.add_argument("--vis", type=Path, required=True, metavar="DIR")
    parser.add_argument("--ir-truth", type=Path, metavar="DIR", help="infrared where it should lie")
    parser.add_argument("--flow-truth", type=Path, metavar="DIR", help="known fields (see eval)")
    parser.add_argument("--registrars", default="", metavar="LIST", help="kinds, e.g. ecc,blocks,live")
    parser.add_argument("--fusers", default="", metavar="LIST", help="kinds, e.g. laplacian,guided,live")
    parser.add_argument(
        "--infrared",
        default="unregistered",
        metavar="WHICH",
        help="what is fused: one of the registrars, truth, or unregistered (default)",
    )
    parser.add_argument(
        "--registered", action="append", default=[], metavar="NAME=DIR", help="of another method"
    )
    parser.add_argument("--fused", action="append", default=[], metavar="NAME=DIR", help="of another method")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    parser.add_argument("--html", type=Path, metavar="FILE")
    parser.add_argument("--pictures", type=int, default=6, metavar="N", help="on the page (default: 6)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from streamfuse.cli.eval import report
    from streamfuse.evaluation.models import evaluate_models, make_fuser, make_registrar, read_pairs
    from streamfuse.evaluation.sets import EvaluationSet
    from streamfuse.outputs import check_writable

    registrars, fusers = (
        [kind for kind in word.split(",") if kind] for word in (args.registrars, args.fusers)
    )
    _check(args, registrars, fusers)
    check_writable(args.json, args.csv, args.html)
    given = EvaluationSet(
        ir=args.ir,
        vis=args.vis,
        ir_truth=args.ir_truth,
        flow_truth=args.flow_truth,
        registered=_named(args.registered),
        fused=_named(args.fused),
    )
    evaluation = evaluate_models(
        read_pairs(given),
        registrars={kind: make_registrar(kind) for kind in registrars},
        fusers={kind: make_fuser(kind) for kind in fusers},
        infrared=args.infrared,
        name=args.vis.resolve().parent.name,
        samples=args.pictures if args.html else 0,
    )
    report(evaluation, args)
    return 0


def _check(args: argparse.Namespace, registrars: list[str], fusers: list[str]) -> None:
    """Raise ConfigError where a model would not be judged."""
    from streamfuse.errors import ConfigError
    from streamfuse.evaluation.judge import TRIVIAL_FUSIONS

    if not (registrars or fusers or args.registered or args.fused):
        raise ConfigError("nothing to judge: give --registrars or --fusers (or --registered, --fused)")
    if args.pictures < 0:
        raise ConfigError(f"--pictures {args.pictures}: must be at least 0")
    for kind in fusers:
        if kind in TRIVIAL_FUSIONS:
            raise ConfigError(f"--fusers {kind}: is shown anyway, as a trivial method; leave it out")
    unjudged = [kind for kind in registrars if kind != args.infrared]
    if unjudged and args.ir_truth is None and args.flow_truth is None:
        raise ConfigError(
            f"--registrars {unjudged[0]}: judged by --ir-truth or --flow-truth; give one of them"
        )


def _named(values: list[str]) -> dict[str, Path]:
    from streamfuse.errors import ConfigError

    found = {}
    for value in values:
        name, separator, path = value.partition("=")
        if not separator or not name or not path:
            raise ConfigError(f"{value}: must read NAME=DIR")
        found[name] = Path(path)
    return found
