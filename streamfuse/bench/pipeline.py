"""Whole runs, file to file, each in a process of its own: so memory and warm-up are its own as well."""

import json
import multiprocessing
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from streamfuse.bench.clips import Clips, prepared_clips
from streamfuse.bench.machine import cpu_seconds, memory_bytes, peak_memory_bytes
from streamfuse.clock import NS_PER_S, RealClock
from streamfuse.config import apply_override
from streamfuse.errors import DataError
from streamfuse.spans import Trace

DEFAULT_CASES = (
    "registration.model=live",
    "registration.model=live registration.precision=float32 fusion.precision=float32",
    "registration.model=blocks fusion.model=laplacian",
    "registration.model=ecc fusion.model=laplacian",
)
"""Settings of the runs, separated by spaces: the defaults, in full precision too, the fast choice, and the
classical baseline."""
DEFAULT_SIZES = ((320, 240), (640, 480), (1280, 960))
WARM_UP_FRAMES = 25
"""Left out: caches fill, algorithms are chosen."""
MEMORY_PERIOD_NS = NS_PER_S
SETTLED_S = 60.0
"""Allocators go on filling their pools for a while: growth is told of what comes after, if that is longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """One run of one case.

    fps: frames a second after the warm-up. cpu_ms: processor time of the process a frame, start left out.
    peak_mib: largest resident memory. growth_mib_per_min: slope of resident memory after the first minute, by
    least squares; None for runs too short to tell. latency_ms: p50, p95, p99, mean, max by stage;
    `capture_to_sink.file` when live. stages_ms: by span of the trace (`streamfuse.spans`): p50, p95, p99 on
    the wall, and cpu_p50, cpu_p95, cpu_p99 of its thread's processor time, which others disturb little.
    """

    frames: int
    fps: float
    cpu_ms: float
    peak_mib: float
    growth_mib_per_min: float | None
    dropped: int
    latency_ms: dict[str, dict[str, float]]
    stages_ms: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineRow:
    """One case at one size: the median run of all offline ones, and what a paced one adds."""

    case: str
    width: int
    height: int
    offline: RunResult
    live: RunResult | None
    runs: list[float] = field(default_factory=list)

    @property
    def label(self) -> str:
        return f"{self.case} {self.width}x{self.height}"


def bench_pipeline(
    clips: Clips,
    *,
    cases: Sequence[str] = DEFAULT_CASES,
    sizes: Sequence[tuple[int, int]] = DEFAULT_SIZES,
    rounds: int = 3,
    seconds: float | None = None,
    live: bool = True,
) -> list[PipelineRow]:
    """Run every case at every size `rounds` times in turns, file to H.264 file, and once in real time.

    seconds: length the clips are brought to by repetition.

    Raises:
        StreamfuseError: a setting or a clip is wrong.
    """
    rows = []
    for size in sizes:
        with TemporaryDirectory(prefix="streamfuse-bench-") as folder:
            ready = prepared_clips(clips, Path(folder), size=size, seconds=seconds)
            runs: dict[str, list[RunResult]] = {case: [] for case in cases}
            for _ in range(rounds):
                for case in cases:
                    runs[case].append(run_apart(_tree(case, ready, Path(folder), "offline")))
            for case, results in runs.items():
                middle = statistics.median_low(result.fps for result in results)
                paced = run_apart(_tree(case, ready, Path(folder), "live")) if live else None
                rows.append(
                    PipelineRow(
                        case=case,
                        width=size[0],
                        height=size[1],
                        offline=next(result for result in results if result.fps == middle),
                        live=paced,
                        runs=[result.fps for result in results],
                    )
                )
    return rows


def run_apart(tree: Mapping[str, Any]) -> RunResult:
    """One run of a configuration in a new process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(run_here, tree).result()


def run_here(tree: Mapping[str, Any]) -> RunResult:
    """One run of a configuration in this process. Raises what the pipeline and its sinks raise."""
    from streamfuse.pipeline import Pipeline

    pipeline, clock = Pipeline.from_config(tree), RealClock()
    began_ns, began_cpu, frames = 0, 0.0, 0
    memory: list[tuple[float, float]] = []
    due_ns = 0
    with TemporaryDirectory(prefix="streamfuse-bench-") as folder:
        trace = Path(folder) / "trace.json"
        with Trace(trace, clock=clock):
            for _ in pipeline:
                frames += 1
                if frames < WARM_UP_FRAMES:
                    continue
                now_ns = clock.now_ns()
                if frames == WARM_UP_FRAMES:
                    began_ns, began_cpu = now_ns, cpu_seconds()
                if now_ns >= due_ns:
                    memory.append(((now_ns - began_ns) / NS_PER_S, memory_bytes() / 2**20))
                    due_ns = now_ns + MEMORY_PERIOD_NS
            elapsed, cpu = (clock.now_ns() - began_ns) / NS_PER_S, cpu_seconds() - began_cpu
        peak = peak_memory_bytes()
        stages_ms = _stages(trace, after_ns=began_ns)
    for error in pipeline.failed_sinks.values():
        raise error
    if frames <= WARM_UP_FRAMES:
        raise DataError(f"{frames} frames are too few to measure: more than {WARM_UP_FRAMES} are needed")
    report = pipeline.report()
    counted = frames - WARM_UP_FRAMES
    return RunResult(
        frames=report.frames_out,
        fps=round(counted / elapsed, 2),
        cpu_ms=round(cpu / counted * 1e3, 2),
        peak_mib=round(peak / 2**20, 1),
        growth_mib_per_min=_growth(memory),
        dropped=sum(sum(causes.values()) for causes in report.dropped.values()),
        latency_ms=report.latency_ms,
        stages_ms=stages_ms,
    )


def _stages(trace: Path, *, after_ns: int) -> dict[str, dict[str, float]]:
    """Percentiles of every span that began after a moment."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for event in json.loads(trace.read_text()):
        if event["ph"] == "X" and event["ts"] * 1000 >= after_ns:
            spans.setdefault(event["name"], []).append((event["dur"] / 1000, event["tdur"] / 1000))
    return {
        name: {
            f"{kind}p{p}": round(float(np.percentile([pair[i] for pair in pairs], p)), 3)
            for i, kind in enumerate(("", "cpu_"))
            for p in (50, 95, 99)
        }
        for name, pairs in sorted(spans.items())
    }


def _growth(memory: Sequence[tuple[float, float]]) -> float | None:
    """MiB a minute of (seconds, MiB)."""
    settled = [(second, mib) for second, mib in memory if second >= SETTLED_S]
    if not settled or settled[-1][0] - settled[0][0] < SETTLED_S:
        return None
    return round(statistics.linear_regression(*zip(*settled, strict=True)).slope * 60, 3)


def _tree(case: str, clips: Clips, folder: Path, mode: str) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "sources": {
            stream: {"kind": "file", "path": str(clip)}
            for stream, clip in zip(("ir", "vis"), clips, strict=True)
        },
        "sinks": [{"kind": "file", "path": str(folder / "fused.mkv")}],
        "pipeline": {"mode": mode},
    }
    for override in case.split():
        apply_override(tree, override)
    return tree
