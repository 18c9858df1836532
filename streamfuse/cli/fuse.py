"""`streamfuse fuse`: clips, folders of clips or pictures, offline."""

import argparse
import sys
from contextlib import closing
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "fuse",
        help="fuse recorded clips or pictures",
        description="IR and VIS are each a video file or a folder of pictures (OUT is a file), or both are "
        "pictures (OUT is one as well), or folders of same-named clips (OUT is a folder). One argument: the "
        "root of a data set with infrared/ + visible/ or ir/ + vis/. What is finished is not done again.",
    )
    parser.add_argument("ir", metavar="IR")
    parser.add_argument("vis", metavar="VIS", nargs="?")
    parser.add_argument(
        "-o", "--out", required=True, metavar="OUT", help="clip (.mkv, .mp4), picture (.png, .jpg) or folder"
    )
    parser.add_argument("--set", dest="overrides", metavar="A.B=VALUE", action="append", default=[])
    parser.add_argument("--calibration", metavar="FILE", help="rig calibration (see `streamfuse calibrate`)")
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="of a model that registers and fuses (mepma); else --set registration.weights=FILE",
    )
    parser.add_argument("--start", type=float, metavar="SECONDS")
    parser.add_argument("--end", type=float, metavar="SECONDS")
    parser.add_argument("--independent", action="store_true", help="folders of pictures: no temporal state")
    parser.add_argument(
        "--ir-move", action="store_true", help="data set root: take ir_move/, the deformed set"
    )
    parser.add_argument("--save-registered", metavar="PATH", help="also write the registered infrared")
    parser.add_argument("--pairing-table", metavar="CSV", help="which frames were paired")
    parser.add_argument("--frame-log", metavar="JSONL", help="one line a frame: stamps, status, latencies")
    parser.add_argument("--report", metavar="FILE", help="write the final counts as JSON")
    parser.add_argument("--container", choices=("mkv", "mp4"), help="of the clips of a folder (default: mkv)")
    parser.add_argument("--jobs", type=int, metavar="N", help="clips of a folder at a time (default: 1)")
    parser.add_argument("--shard", metavar="I/N", help="only every N-th clip of a folder")
    parser.add_argument("--overwrite", action="store_true", help="do finished clips of a folder again")
    parser.add_argument(
        "--profile", metavar="FILE", help="write a trace of where the time goes, for ui.perfetto.dev"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from streamfuse.config import apply_override, section
    from streamfuse.errors import ConfigError
    from streamfuse.inputs import VIDEO_SUFFIXES, find_inputs

    if args.ir_move and args.vis is not None:
        raise ConfigError("--ir-move is for the root of a data set, not for two inputs")
    inputs = find_inputs(args.ir, args.vis, moving=args.ir_move, independent=args.independent)
    if inputs.single:
        _refuse(args, ("container", "jobs", "shard", "overwrite"), "folders, not for one pair")
    settings: dict[str, Any] = {}
    if args.calibration:
        settings["calibration"] = args.calibration
    if args.independent:
        settings["worker"] = {"temporal": False}
    for override in args.overrides:
        apply_override(settings, override)
    if args.weights:
        for part in ("registration", "fusion"):
            settings[part] = {**section(settings, part), "weights": args.weights}
    if inputs.pictures and inputs.single and Path(args.out).suffix.lower() not in VIDEO_SUFFIXES:
        return _fuse_pictures(args, inputs.jobs[0], settings)
    if inputs.single:
        return _fuse_one(args, inputs.jobs[0], settings)
    return _fuse_many(args, inputs, settings)


def _fuse_one(args: argparse.Namespace, job: Any, settings: dict[str, Any]) -> int:
    from streamfuse.batch import clip_config
    from streamfuse.cli import EXIT_INTERRUPTED
    from streamfuse.cli._progress import (
        finish_on_interrupt,
        frame_progress,
        print_report,
        unfused,
        write_report,
    )
    from streamfuse.outputs import check_writable
    from streamfuse.pipeline import Pipeline
    from streamfuse.spans import recorded

    check_writable(args.report)
    tree = clip_config(job, settings, start_s=args.start, end_s=args.end)
    tree["sinks"].append(_output(args.out, picture="fused"))
    if args.save_registered:
        tree["sinks"].append(_output(args.save_registered, picture="registered_ir"))
    if args.pairing_table:
        tree["sinks"].append({"kind": "pairing-table", "path": args.pairing_table})
    if args.frame_log:
        tree["sinks"].append({"kind": "frame-log", "path": args.frame_log})
    pipeline = Pipeline.from_config(tree)
    with recorded(args.profile), finish_on_interrupt(pipeline):
        frame_progress(pipeline)
    report = pipeline.report()
    print_report(report)
    if args.report:
        write_report(report, args.report)
    if pipeline.failed_sinks:
        return 1
    if not report.frames_out:
        print(f"{args.out}: not written, no frame could be fused", file=sys.stderr)
        return 1
    if pipeline.stopping:
        print(f"{args.out}: stopped early, holds the first {report.frames_out} frames", file=sys.stderr)
        return EXIT_INTERRUPTED
    if reason := unfused(report):
        print(f"{args.out}: the visible picture alone: {reason}", file=sys.stderr)
    print(f"  written: {args.out}")
    return 0


def _fuse_pictures(args: argparse.Namespace, job: Any, settings: dict[str, Any]) -> int:
    from streamfuse.batch import fuse_pictures
    from streamfuse.outputs import check_writable, refuse_overwriting
    from streamfuse.pictures import write_picture

    clips = ("start", "end", "pairing_table", "frame_log", "report", "profile")
    _refuse(args, clips, "clips, not for single pictures")
    out = Path(args.out)
    if out.is_dir() or not out.suffix:
        out /= f"{job.name}.png"
    outputs = [out] if args.save_registered is None else [out, args.save_registered]
    refuse_overwriting(outputs, {"infrared": job.ir, "visible": job.vis})
    check_writable(*outputs)
    frame = fuse_pictures(job, settings)
    write_picture(out, frame.image)
    if args.save_registered:
        write_picture(args.save_registered, frame.registered_ir)
    reason = f" ({frame.reason})" if frame.reason else ""
    print(f"   status: {frame.status}{reason}, confidence {frame.confidence:.2f}")
    print(f"  written: {out}")
    return 0


def _refuse(args: argparse.Namespace, names: tuple[str, ...], purpose: str) -> None:
    """Raise ConfigError on the first of these options that was given."""
    from streamfuse.errors import ConfigError

    for name in names:
        value = getattr(args, name)
        if value is not None and value is not False:
            raise ConfigError(f"--{name.replace('_', '-')} is for {purpose}")


def _output(path: str, *, picture: str) -> dict[str, Any]:
    from streamfuse.errors import ConfigError
    from streamfuse.inputs import IMAGE_SUFFIXES

    suffix = Path(path).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        raise ConfigError(
            f"{path}: a picture holds no clip; use .mkv or .mp4, or a folder for one picture a frame"
        )
    kind = "file" if suffix else "images"
    return {"kind": kind, "path": path, "picture": picture}


def _fuse_many(args: argparse.Namespace, inputs: Any, settings: dict[str, Any]) -> int:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from streamfuse.batch import parse_shard, plan, run_batch
    from streamfuse.cli import EXIT_INTERRUPTED
    from streamfuse.cli._progress import interrupt_on_terminate
    from streamfuse.errors import ConfigError, SinkError

    one = ("save_registered", "pairing_table", "frame_log", "report", "profile")
    _refuse(args, one, "one pair of clips, not for a folder of them")
    if inputs.pictures:
        _refuse(args, ("start", "end", "container"), "clips, not for single pictures")
    if args.jobs is not None and args.jobs < 1:
        raise ConfigError(f"--jobs {args.jobs}: must be 1 or more")
    out = Path(args.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"{out}: the output folder cannot be made: {error.strerror}") from error
    tasks, done = plan(
        inputs,
        out,
        settings,
        container=args.container or "mkv",
        shard=parse_shard(args.shard or "1/1"),
        overwrite=args.overwrite,
        start_s=args.start,
        end_s=args.end,
    )
    if done:
        print(f"{done} finished before, {len(tasks)} to do")
    failed = []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    try:
        with (
            interrupt_on_terminate(),
            Progress(*columns, disable=not sys.stderr.isatty(), transient=True) as progress,
            closing(run_batch(tasks, jobs=args.jobs or 1)) as outcomes,
        ):
            bar = progress.add_task("fusing", total=len(tasks))
            for outcome in outcomes:
                progress.advance(bar)
                if outcome.error:
                    failed.append(outcome)
                    text = f"{outcome.name}: FAILED: {outcome.error}"
                else:
                    speed = f" at {outcome.fps:.1f} fps" if outcome.fps else ""
                    text = f"{outcome.name}: {outcome.frames} frames{speed}"
                progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(f"{len(tasks) - len(failed)} done, {done} finished before, {len(failed)} failed; in {out}")
    return 1 if failed else 0
