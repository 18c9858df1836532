"""What the commands that run a pipeline print, and how they answer Ctrl-C."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streamfuse.clock import NS_PER_S, RealClock
from streamfuse.frame import FusedFrame, Rung, Status
from streamfuse.outputs import write_text
from streamfuse.pipeline import Pipeline
from streamfuse.pipeline.statistics import Report

STATUS_PERIOD_NS = NS_PER_S
SLOW_RUN_S = 300
"""A run longer than this is announced as slow."""


@contextmanager
def finish_on_interrupt(*pipelines: Pipeline) -> Iterator[None]:
    """First Ctrl-C, SIGTERM or end of the terminal (not under `nohup`): drain and close. Second: stop now."""

    def handle(number: int, _frame: FrameType | None) -> None:
        if all(pipeline.stopping for pipeline in pipelines):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        for pipeline in pipelines:
            pipeline.stop()
        _tell("\nfinishing what is under way; again to stop at once\n")

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def interrupt_on_terminate() -> Iterator[None]:
    """SIGTERM is answered as Ctrl-C is: child processes end with this one."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def status_line(
    pipelines: Mapping[str, Pipeline], *, as_json: bool, duration_s: float | None = None
) -> Iterator[None]:
    """Tell once a second how runs go, by name: on one line of a terminal, or as JSON lines on stdout.

    A thread of its own does it, so that it also tells, and ends the run after `duration_s`, when no
    frame comes.
    """
    clock = RealClock()
    done = threading.Event()
    started = clock.now_ns()
    on_terminal = sys.stderr.isatty() and not as_json

    def tell() -> None:
        while not clock.sleep_ns(STATUS_PERIOD_NS, done):
            if duration_s is not None and clock.now_ns() - started >= duration_s * NS_PER_S:
                for pipeline in pipelines.values():
                    pipeline.stop()
            reports = {name: pipeline.report() for name, pipeline in pipelines.items()}
            if as_json:
                # Who reads the lines may leave; the run goes on, and to its end.
                with suppress(OSError):
                    for name, report in reports.items():
                        print(json.dumps({"wall_ns": clock.wall_ns(), **_fields(report, name)}), flush=True)
            elif on_terminal:
                told = " | ".join(f"{name} {describe(report)}".lstrip() for name, report in reports.items())
                _tell(f"\r{told}\x1b[K")

    teller = threading.Thread(target=tell, name="streamfuse-status", daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
        if on_terminal:
            _tell("\n")


def _tell(text: str) -> None:
    """Write to the terminal, which may be gone by now."""
    with suppress(OSError):
        print(text, end="", file=sys.stderr, flush=True)


def describe(report: Report) -> str:
    """One line: how many, how fast, how late, what was lost."""
    lost = sum(sum(causes.values()) for causes in report.dropped.values())
    latency = next((v for k, v in report.latency_ms.items() if k.startswith("capture_to_sink")), None)
    late = f"  latency {latency['p50']:.0f} ms (p99 {latency['p99']:.0f})" if latency else ""
    status = " ".join(f"{name} {count}" for name, count in sorted(report.status.items()))
    if _degraded(report):
        status += f"  {_rungs(report)}"
    counts = f"{report.frames_out} frames  {report.fps:.1f} fps{late}"
    return f"{counts}  {status}  held {report.held}  dropped {lost}"


def describe_offset(report: Report) -> str:
    """The time offset in use and what is measured of it; empty when there is neither."""
    offset = report.offset
    if "status" not in offset:
        in_use = offset.get("in_use_ms")
        return f"{in_use:+.1f} ms" if in_use else ""
    said = f"{offset['status']}: {offset['reason']}"
    if offset["estimate_ms"] is not None:
        said = f"measured {offset['estimate_ms']:+.1f} +- {offset['uncertainty_ms']:.1f} ms"
    return f"{offset.get('in_use_ms', 0.0):+.1f} ms in use ({offset.get('source', 'config')}), {said}"


def print_report(report: Report, *, name: str = "", as_json: bool = False) -> None:
    """The final counts, as text or as one JSON line. name: of the rig, where there are several."""
    if as_json:
        print(json.dumps({"final": True, **_fields(report, name)}), flush=True)
        return
    if name:
        print(f"{name}:")
    rows = report.frames_in, report.frames_used, report.dropped
    for stream, name in (("ir", "infrared"), ("vis", "visible")):
        frames_in, used, dropped = (row[stream] for row in rows)
        causes = ", ".join(f"{count} {cause}" for cause, count in sorted(dropped.items())) or "none"  # type: ignore[union-attr]
        print(f"{name:>9}: {frames_in} in, {used} used, dropped: {causes}")
    infrared = f"{report.held} on held infrared, {report.compensated} moved to the visible time"
    print(f"    fused: {report.frames_out} out, {report.fps:.1f} fps, {infrared}")
    status = ", ".join(f"{name} {count}" for name, count in sorted(report.status.items()))
    print(f"   status: {status or 'no frames'}; warm {report.warm}")
    if _degraded(report):
        print(f"   ladder: {_rungs(report)}; {report.rung_changes} changes")
    print(f"    |dt| : p50 {report.dt_ms['p50']:.1f} ms, p95 {report.dt_ms['p95']:.1f} ms")
    if offset := describe_offset(report):
        print(f"   offset: {offset}")
    for stage, ms in report.latency_ms.items():
        print(f"  {stage}: p50 {ms['p50']:.1f} ms, p95 {ms['p95']:.1f} ms, p99 {ms['p99']:.1f} ms")
    for note in report.notes:
        print(f"     note: {note}")


def unfused(report: Report) -> str:
    """Why a finished run shows the visible picture alone, and what to do; empty when it does not."""
    if not report.frames_out or set(report.status) != {Status.OFF.value}:
        return ""
    if not report.frames_used["ir"]:
        return (
            "not one infrared frame lies near a visible one in time: pairing.offset_ms says how much later "
            "the visible is stamped (`streamfuse offset --max-lag 60` looks for it)"
        )
    return (
        "infrared and visible never matched with enough confidence: are they of one scene? "
        "If so, `streamfuse calibrate` gives registration a start"
    )


def _degraded(report: Report) -> bool:
    """Whether some frames got less than all the work."""
    return set(report.rungs) > {Rung.FULL.value} or bool(report.rung_changes)


def _rungs(report: Report) -> str:
    return ", ".join(f"{rung} {report.rungs[rung]}" for rung in Rung if rung in report.rungs)


def _fields(report: Report, name: str) -> dict[str, Any]:
    return {"rig": name, **asdict(report)} if name else asdict(report)


def write_report(report: Report | Mapping[str, Report], path: str | Path) -> None:
    """The counts as a JSON file, of several rigs by name. Raises SinkError when it cannot be written."""
    if isinstance(report, Report):
        tree = asdict(report)
    else:
        tree = {name: asdict(one) for name, one in report.items()}
    write_text(json.dumps(tree, indent=2) + "\n", path)


def frame_progress(pipeline: Pipeline, *, each: Callable[[FusedFrame], None] | None = None) -> None:
    """Run an offline pipeline under a progress bar with the time left.

    A run that will take long says so after its first frame, and names the fast choice.
    """
    columns = TextColumn("fusing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, disable=not sys.stderr.isatty(), transient=True) as progress:
        bar = progress.add_task("fusing", total=None)
        for frame in pipeline:
            if frame.seq == 0:
                total = pipeline.infos["vis"].frame_count
                progress.update(bar, total=total)
                if advice := slow_advice(frame, total):
                    progress.console.print(advice, highlight=False, markup=False, soft_wrap=True)
            progress.advance(bar)
            if each is not None:
                each(frame)


FAST = "--set registration.model=blocks --set fusion.model=laplacian"


def slow_advice(frame: FusedFrame, total: int | None) -> str:
    """What to say when this run will take longer than a coffee; empty otherwise."""
    seconds = frame.latencies_ns["register_and_fuse"] / NS_PER_S
    if total is None or seconds * total < SLOW_RUN_S:
        return ""
    return (
        f"about {seconds * total / 60:.0f} minutes for {total} frames at {seconds:.1f} s a frame; "
        f"the fast choice is {FAST}"
    )
