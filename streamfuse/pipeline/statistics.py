"""What a run counts: frames in and out, drops by cause, latencies by stage.

Conservation is the point: for each stream, frames in = frames used in an output + drops by cause
(+ what still waits while the run goes on). Memory does not grow with the length of a run.
"""

import math
import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from streamfuse.clock import NS_PER_MS
from streamfuse.frame import STREAMS, DropCause, FusedFrame, Stream

BINS_PER_OCTAVE = 16
"""A histogram bin is 4.4 % wide: percentiles are within 2.2 %, better than two runs agree."""
SMALLEST_NS = 1_000
OCTAVES = 27
"""1 microsecond to 134 seconds."""
NOTES_KEPT = 100
"""The latest ones: a camera with a loose plug writes two a minute for as long as the run lasts."""


class LatencyHistogram:
    """Durations in logarithmic bins: constant memory, any percentile."""

    def __init__(self) -> None:
        self._bins = [0] * (OCTAVES * BINS_PER_OCTAVE + 1)
        self.count = 0
        self.total_ns = 0
        self.max_ns = 0

    def add(self, duration_ns: int) -> None:
        """Count one duration; negative ones count as zero."""
        duration_ns = max(0, duration_ns)
        index = 0
        if duration_ns > SMALLEST_NS:
            index = round(math.log2(duration_ns / SMALLEST_NS) * BINS_PER_OCTAVE)
        self._bins[min(index, len(self._bins) - 1)] += 1
        self.count += 1
        self.total_ns += duration_ns
        self.max_ns = max(self.max_ns, duration_ns)

    def percentile_ms(self, percent: float) -> float:
        """The given percentile in milliseconds, 0 when nothing was counted."""
        if self.count == 0:
            return 0.0
        wanted = percent / 100 * self.count
        seen = 0
        for index, count in enumerate(self._bins):
            seen += count
            if count and seen >= wanted:
                return float(min(SMALLEST_NS * 2 ** (index / BINS_PER_OCTAVE), self.max_ns)) / 1e6
        return self.max_ns / 1e6

    def summary(self) -> dict[str, float]:
        """p50, p95, p99, mean and max in milliseconds."""
        mean = self.total_ns / self.count / 1e6 if self.count else 0.0
        summary = {f"p{p}": round(self.percentile_ms(p), 3) for p in (50, 95, 99)}
        return {**summary, "mean": round(mean, 3), "max": round(self.max_ns / 1e6, 3)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A snapshot of a run's counts. Latencies in milliseconds, by stage; `fps` over the frames so far.

    compensated: frames whose infrared was moved to the visible time, held or not.
    offset: `in_use_ms` and `source` of the newest frame, and what the estimator says when there is one
    (`status`, `reason`, `estimate_ms`, `uncertainty_ms`).
    rungs: frames by the work they got. rung_changes: moves on the degradation ladder.
    registration: how often each `registration.temporal.Event` happened.
    backend: what networks were computed by (`worker.backend`); None where there was nothing to choose.
    """

    frames_in: dict[str, int]
    frames_used: dict[str, int]
    frames_out: int
    held: int
    compensated: int
    dropped: dict[str, dict[str, int]]
    sink_dropped: dict[str, dict[str, int]]
    status: dict[str, int]
    rungs: dict[str, int]
    rung_changes: int
    warm: int
    registration: dict[str, int]
    fps: float
    duration_s: float
    dt_ms: dict[str, float]
    latency_ms: dict[str, dict[str, float]]
    offset: dict[str, Any]
    backend: str | None = None
    notes: list[str] = field(default_factory=list)

    def unaccounted(self) -> dict[str, int]:
        """Per stream: frames in - used - dropped. Zero when a finished run is sound."""
        return {
            stream: self.frames_in[stream] - self.frames_used[stream] - sum(self.dropped[stream].values())
            for stream in self.frames_in
        }


class Statistics:
    """Collects counts from all threads of a run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frames_in: Counter[str] = Counter()
        self._used: Counter[str] = Counter()
        self._dropped: dict[str, Counter[str]] = {stream: Counter() for stream in STREAMS}
        self._sink_dropped: dict[str, Counter[str]] = {}
        self._status: Counter[str] = Counter()
        self._rungs: Counter[str] = Counter()
        self._rung_changes = 0
        self._registration: Counter[str] = Counter()
        self._latency: dict[str, LatencyHistogram] = {}
        self._dt = LatencyHistogram()
        self._frames_out = 0
        self._held = 0
        self._compensated = 0
        self._warm = 0
        self._last_ir_seq: int | None = None
        self._first_ns: int | None = None
        self._last_ns = 0
        self._notes: deque[str] = deque(maxlen=NOTES_KEPT)
        self._notes_said = 0
        self._offset_in_use: dict[str, Any] = {}
        self._offset: dict[str, Any] = {}
        self._backend: str | None = None

    def frame_in(self, stream: Stream, count: int = 1) -> None:
        with self._lock:
            self._frames_in[stream] += count

    def drop(self, stream: Stream, cause: DropCause, count: int = 1) -> None:
        with self._lock:
            self._dropped[stream][cause.value] += count

    def sink_drop(self, sink: str, cause: DropCause, count: int = 1) -> None:
        """A finished frame did not reach one sink; the others are not concerned."""
        with self._lock:
            self._sink_dropped.setdefault(sink, Counter())[cause.value] += count

    def note(self, text: str) -> None:
        """Keep one line for the final report (a reconnect, a sink that ended)."""
        with self._lock:
            self._notes.append(text)
            self._notes_said += 1

    def tell_offset(self, **said: Any) -> None:
        """What the offset estimator says by now."""
        with self._lock:
            self._offset = said

    def tell_backend(self, name: str | None) -> None:
        """What networks are computed by."""
        with self._lock:
            self._backend = name

    def frame_out(self, frame: FusedFrame, now_ns: int) -> None:
        """Count a fused frame as it leaves the worker."""
        with self._lock:
            self._frames_out += 1
            self._status[frame.status.value] += 1
            self._rungs[frame.rung.value] += 1
            self._warm += frame.warm
            self._registration.update(frame.registration.events)
            self._held += frame.pair.held
            self._compensated += "motion" in frame.extra
            pair = frame.pair
            self._offset_in_use = {
                "in_use_ms": round(pair.offset_ns / NS_PER_MS, 2),
                "source": pair.offset_source,
            }
            self._used["vis"] += 1
            ir = frame.pair.ir
            if ir is not None:
                if ir.seq != self._last_ir_seq:
                    self._used["ir"] += 1
                    self._last_ir_seq = ir.seq
                if not frame.pair.held:
                    self._dt.add(abs(frame.pair.dt_ns))
            for stage, duration in frame.latencies_ns.items():
                self._latency.setdefault(stage, LatencyHistogram()).add(duration)
            if self._first_ns is None:
                self._first_ns = now_ns
            self._last_ns = now_ns

    def rung_change(self) -> None:
        """The degradation ladder moved."""
        with self._lock:
            self._rung_changes += 1

    def latency(self, stage: str, duration_ns: int) -> None:
        with self._lock:
            self._latency.setdefault(stage, LatencyHistogram()).add(duration_ns)

    def dropped_totals(self) -> dict[str, int]:
        """Cumulative drops by cause over both streams: what every published header carries."""
        with self._lock:
            total: Counter[str] = Counter()
            for counter in self._dropped.values():
                total.update(counter)
            return dict(total)

    def report(self) -> Report:
        """A consistent snapshot."""
        with self._lock:
            elapsed = 0 if self._first_ns is None else self._last_ns - self._first_ns
            forgotten = self._notes_said - len(self._notes)
            return Report(
                frames_in={stream: self._frames_in[stream] for stream in STREAMS},
                frames_used={stream: self._used[stream] for stream in STREAMS},
                frames_out=self._frames_out,
                held=self._held,
                compensated=self._compensated,
                dropped={stream: dict(self._dropped[stream]) for stream in STREAMS},
                sink_dropped={name: dict(causes) for name, causes in self._sink_dropped.items()},
                status=dict(self._status),
                rungs=dict(self._rungs),
                rung_changes=self._rung_changes,
                warm=self._warm,
                registration=dict(self._registration),
                fps=round((self._frames_out - 1) / elapsed * 1e9, 2) if elapsed > 0 else 0.0,
                duration_s=round(elapsed / 1e9, 3),
                dt_ms=self._dt.summary(),
                latency_ms={stage: h.summary() for stage, h in sorted(self._latency.items())},
                offset={**self._offset_in_use, **self._offset},
                backend=self._backend,
                notes=[f"{forgotten} earlier notes are not kept"] * bool(forgotten) + list(self._notes),
            )
