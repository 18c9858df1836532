"""Pair, register, fuse: the pipeline without a thread.

Offline runs, tests and replay drive it directly; a live run wraps it in threads. Frames go in with
`feed`, fused frames come out of `step`.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping

from streamfuse.clock import Clock
from streamfuse.frame import STREAMS, DropCause, Frame, FramePair, FusedFrame, Stream
from streamfuse.pairing.matcher import Matcher
from streamfuse.pipeline.offset import OffsetInUse
from streamfuse.pipeline.statistics import Statistics
from streamfuse.spans import span
from streamfuse.worker import Worker


class FusionCore:
    """The steppable heart of a run.

    Args:
        live: stamps are on the clock's own line, so ages can be told and old pairs dropped.
        budget_ns: live: a pair older than this is dropped when a newer one waits.
        offset: what measures the offset between the streams; None: the matcher's own stays.
    """

    def __init__(
        self,
        matcher: Matcher,
        worker: Worker,
        *,
        live: bool,
        budget_ns: int,
        clock: Clock,
        statistics: Statistics,
        offset: OffsetInUse | None = None,
    ) -> None:
        self._matcher = matcher
        self._worker = worker
        self._live = live
        self._budget_ns = budget_ns
        self._clock = clock
        self._statistics = statistics
        self._offset = offset
        self._matcher_drops = {stream: _Increments() for stream in STREAMS}
        self._capture_drops = {stream: _Increments() for stream in STREAMS}
        self._ended: set[Stream] = set()
        self._decided: deque[FramePair] = deque()
        self._decided_ns = 0
        self._seq = 0
        self._last_ir_out: int | None = None
        self._doubtful_ir: tuple[int, DropCause] | None = None

    def feed(self, frame: Frame) -> None:
        """Take in one frame of either stream; each stream in order."""
        self._statistics.frame_in(frame.stream)
        if self._offset is not None:
            self._offset.observe(frame)
            offset_ns = self._offset.at(frame.t_capture) if frame.stream == "ir" else None
            if offset_ns is not None:
                self._matcher.set_offset(offset_ns)
        self._matcher.push(frame)

    def lost_before(self, stream: Stream, drops: Mapping[DropCause, int]) -> None:
        """Account for frames that came into the run but never here.

        Args:
            drops: how many so far, by cause, since the stream began.
        """
        for cause, count in self._capture_drops[stream].of(drops):
            self._statistics.frame_in(stream, count)
            self._statistics.drop(stream, cause, count)

    def end(self, stream: Stream) -> None:
        """No more frames of this stream will come."""
        self._ended.add(stream)
        self._matcher.end(stream)

    @property
    def exhausted(self) -> bool:
        """After `step`: nothing more can come out, whatever goes in. The visible frames carry the picture,
        and the driver's the time, so neither can be missing."""
        return self._matcher.wants() is None or (self._matcher.driver == "ir" and "vis" in self._ended)

    def wants(self) -> Stream | None:
        """Offline: the stream whose next frame is needed; None: all is decided."""
        return self._matcher.wants()

    def next_deadline_ns(self) -> int | None:
        """When `step` can give something new although no frame came in."""
        return self._matcher.next_deadline_ns()

    def step(self) -> Iterator[FusedFrame]:
        """Fuse every pair that is decided."""
        while self._decide():
            pair = self._decided.popleft()
            if self._live and self._decided and self._too_old(pair):
                self._drop(pair, DropCause.LATE)
            else:
                yield self._fuse(pair)

    def finish(self) -> None:
        """Account for all frames that will not be fused any more. Call once, when nothing more is stepped."""
        for pair in (*self._decided, *self._matcher.flush()):
            self._drop(pair, DropCause.SHUTDOWN)
        self._decided.clear()
        self._count_drops()
        self._settle_doubtful_ir(None)

    def _decide(self) -> bool:
        """Whether a pair waits, after asking the matcher when none did."""
        if not self._decided:
            self._decided_ns = self._clock.now_ns()
            with span("pair"):
                self._decided.extend(self._matcher.poll(self._decided_ns))
            self._count_drops()
        return bool(self._decided)

    def _too_old(self, pair: FramePair) -> bool:
        return self._clock.now_ns() - pair.t_capture > self._budget_ns

    def _fuse(self, pair: FramePair) -> FusedFrame:
        ir_seq = None if pair.ir is None else pair.ir.seq
        self._settle_doubtful_ir(ir_seq)
        if ir_seq is not None:
            self._last_ir_out = ir_seq
        queued_ns = self._clock.now_ns() - self._decided_ns
        frame = self._worker.process(pair, seq=self._seq, dropped=self._statistics.dropped_totals())
        if self._live:
            frame.latencies_ns["wait_pair"] = self._decided_ns - pair.vis.t_arrival
            frame.latencies_ns["queue"] = queued_ns
        self._seq += 1
        self._statistics.frame_out(frame, self._clock.now_ns())
        return frame

    def _drop(self, pair: FramePair, cause: DropCause) -> None:
        self._statistics.drop("vis", cause)
        ir_seq = None if pair.ir is None else pair.ir.seq
        self._settle_doubtful_ir(ir_seq)
        if ir_seq is not None and ir_seq != self._last_ir_out:
            self._doubtful_ir = (ir_seq, cause)

    def _settle_doubtful_ir(self, ir_seq: int | None) -> None:
        """An infrared frame of a dropped pair is lost only when no later pair uses it as well."""
        if self._doubtful_ir is not None and self._doubtful_ir[0] != ir_seq:
            self._statistics.drop("ir", self._doubtful_ir[1])
        self._doubtful_ir = None

    def _count_drops(self) -> None:
        for stream, drops in self._matcher.drops.items():
            for cause, count in self._matcher_drops[stream].of(drops):
                self._statistics.drop(stream, cause, count)


class _Increments:
    """What counters have grown by since they were last looked at."""

    def __init__(self) -> None:
        self._seen: Counter[DropCause] = Counter()

    def of(self, counts: Mapping[DropCause, int]) -> list[tuple[DropCause, int]]:
        grown = [(cause, count - self._seen[cause]) for cause, count in counts.items()]
        self._seen |= Counter(counts)
        return [(cause, count) for cause, count in grown if count > 0]
