"""`streamfuse train`: train a network, write its weights, measure what it can do."""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

DATA = Path("../shared/data")
CHECK_FAILED = 1
NETWORKS = {
    "registration": "the live registration network",
    "fusion": "the live fusion network",
    "mepma": "the ME-PMA network: fusion first, then its alignment",
}
"""Each has a recipe in the module of its name in `streamfuse.training`."""


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "train",
        help="train a network, write its weights, measure what it can do",
        description="A run lives in one folder and goes on from the state found there. Its best weights "
        "become a weight file, with its provenance beside it, by --export.",
    )
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    for name, summary in NETWORKS.items():
        network = what.add_parser(name, help=summary)
        _data(network)
        network.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML; see configs/")
        network.add_argument("--run", type=Path, required=True, metavar="DIR", dest="folder", help="the run")
        network.add_argument("--weights", metavar="NAME|FILE", help="start from these weights")
        network.add_argument(
            "--export",
            type=Path,
            metavar="FILE",
            help="train no further: write the best weights of the run here",
        )
        network.set_defaults(run=run_training)
    render = what.add_parser("render", help="render pairs to train on: exactly aligned, day to night")
    render.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="gets ir/, vis/ and people/"
    )
    render.add_argument("--count", type=int, default=100, metavar="N", help="pairs (default: %(default)s)")
    render.add_argument("--seed", type=int, default=7, metavar="N")
    render.set_defaults(run=run_render)
    residuals = what.add_parser("residuals", help="how far the training pairs are off themselves")
    _data(residuals)
    residuals.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML; see configs/")
    residuals.add_argument("--weights", required=True, metavar="NAME|FILE", help="of the live registration")
    residuals.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="JSON")
    residuals.set_defaults(run=run_residuals)
    confidence = what.add_parser("confidence", help="fit the confidence of a registrar, and judge it")
    _data(confidence)
    confidence.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="says which pairs are held back"
    )
    confidence.add_argument("--model", default="live", metavar="NAME", help="default: %(default)s")
    confidence.add_argument(
        "--weights", default="live-registration", metavar="NAME|FILE", help="of the model `live`"
    )
    confidence.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FILE",
        help="write the weights of `live` with the fitted confidence",
    )
    confidence.set_defaults(run=run_confidence)
    check = what.add_parser(
        "check", help="measure the live registration network; exit code 1 if it falls short"
    )
    _data(check)
    check.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="says which pairs are held back"
    )
    check.add_argument("--weights", default="live-registration", metavar="NAME|FILE")
    check.add_argument("--passes", type=int, default=2, metavar="N", help="of the fine stage")
    check.set_defaults(run=run_check)
    fusers = what.add_parser(
        "check-fusion",
        help="the live fusion network beside other fusers; exit code 1 if it falls short",
        description="Judges all fusers on the pairs that were held back. The network is to be as good as the "
        "pixel-wise maximum in the metrics that no trivial method wins together, and nearly so in the rest.",
    )
    _data(fusers)
    fusers.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="says which pairs are held back"
    )
    fusers.add_argument("--weights", default="live-fusion", metavar="NAME|FILE")
    fusers.add_argument("--html", type=Path, metavar="FILE", help="a page with pictures and distributions")
    fusers.set_defaults(run=run_check_fusion)


def _data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, default=DATA, metavar="DIR", help="folder of data sets (default: %(default)s)"
    )


def run_training(args: argparse.Namespace) -> int:
    from rich.progress import Progress

    from streamfuse.training.options import read_training

    recipe = importlib.import_module(f"streamfuse.training.{args.what}").RECIPE
    config = read_training(args.config, recipe.options)
    if args.export is not None:
        command = "streamfuse " + " ".join(sys.argv[1:])
        written = recipe.export(config, args.data, args.folder, args.export, command=command)
        print(f"{written.path}: {written.size} bytes")
        return 0
    for loop in recipe.loops(config, args.data, args.folder, weights=args.weights):
        with Progress(disable=not sys.stderr.isatty()) as progress:
            loop.run(progress=progress)
        print(f"{loop.folder}: {loop.step} steps, best score {loop.best:.3f}")
    return 0


def run_render(args: argparse.Namespace) -> int:
    from streamfuse.errors import ConfigError
    from streamfuse.training.rendered import render_pairs

    for option, least in (("count", 1), ("seed", 0)):
        if getattr(args, option) < least:
            raise ConfigError(f"--{option} {getattr(args, option)}: must be {least} or more")
    render_pairs(args.out, count=args.count, seed=args.seed)
    print(f"{args.out}: {args.count} pairs")
    return 0


def run_residuals(args: argparse.Namespace) -> int:
    from streamfuse.outputs import check_writable
    from streamfuse.training.options import read_training
    from streamfuse.training.registration import RegistrationTraining, load_live
    from streamfuse.training.residuals import estimate_residuals, write_residuals

    check_writable(args.out)
    train, _ = read_training(args.config, RegistrationTraining).split_pairs(args.data)
    residuals = estimate_residuals(load_live(args.weights), train)
    write_residuals(residuals, args.out)
    print(f"{args.out}: {len(residuals)} pairs")
    return 0


def run_confidence(args: argparse.Namespace) -> int:
    from streamfuse.errors import ConfigError
    from streamfuse.outputs import check_writable
    from streamfuse.registration import REGISTRARS
    from streamfuse.registration.live import LiveOptions, LiveRegistrar
    from streamfuse.training.confidence import calibrate_confidence, save_calibrated
    from streamfuse.training.options import read_training
    from streamfuse.training.registration import RegistrationTraining, load_live
    from streamfuse.training.trust import reliability_lines, training_cases, trust_lines

    check_writable(args.out)
    config = read_training(args.config, RegistrationTraining)
    train, held = config.split_pairs(args.data)
    if args.model == "live":
        network = load_live(args.weights)
        calibration = calibrate_confidence(network, train, seed=config.loop.seed)
        print(", ".join(f"{name} {value:.3g}" for name, value in calibration.items()), flush=True)
        if args.out is not None:
            command = "streamfuse " + " ".join(sys.argv[1:])
            save_calibrated(network, args.weights, args.out, calibration=calibration, command=command)
            print(f"written: {args.out}", flush=True)
        registrar: Any = LiveRegistrar(LiveOptions(), network=network)
    else:
        if args.out is not None:
            raise ConfigError(f"--out {args.out}: the confidence of {args.model} is not in a weight file")
        kind = REGISTRARS.load(args.model)
        registrar = kind(kind.Options(), device="cpu")
        print("\n".join(trust_lines(training_cases(registrar, train, seed=config.loop.seed))), flush=True)
    lines, passed = reliability_lines(registrar, held)
    print("\n".join(lines))
    return 0 if passed else CHECK_FAILED


def run_check(args: argparse.Namespace) -> int:
    from streamfuse.registration.live import LiveOptions, LiveRegistrar
    from streamfuse.training.options import read_training
    from streamfuse.training.registration import RegistrationTraining
    from streamfuse.training.registration_check import check_registration

    held = read_training(args.config, RegistrationTraining).held(args.data)
    registrar = LiveRegistrar(LiveOptions(weights=args.weights, passes=args.passes))
    passed = True
    for figure in check_registration(registrar, held, args.data):
        print(figure, flush=True)
        passed &= figure.passed
    return 0 if passed else CHECK_FAILED


def run_check_fusion(args: argparse.Namespace) -> int:
    from streamfuse.evaluation.report_html import write_html
    from streamfuse.evaluation.report_terminal import print_tables
    from streamfuse.outputs import check_writable
    from streamfuse.training.fusion import FusionTraining
    from streamfuse.training.fusion_check import SAMPLES, below_bar, compare_fusers
    from streamfuse.training.options import read_training

    check_writable(args.html)
    _, held = read_training(args.config, FusionTraining).pairs(args.data)
    evaluation = compare_fusers(args.weights, held, samples=SAMPLES if args.html else 0)
    print_tables(evaluation)
    if args.html is not None:
        write_html(evaluation, args.html)
        print(f"written: {args.html}")
    missed = below_bar(evaluation)
    for name, ratio in missed.items():
        print(f"{name}: {ratio:.3f} of the pixel-wise maximum, below the bar")
    return CHECK_FAILED if missed else 0
