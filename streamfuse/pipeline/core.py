"""Pair, register, fuse: the pipeline without a thread.

Offline runs, tests and replay drive it directly; a live run wraps it in threads. Frames go in with
`feed`, fused frames come out of `step`.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from streamfuse.clock import Clock
from streamfuse.frame import STREAMS, DropCause, Frame, FramePair, FusedFrame, Rung, Stream
from streamfuse.ladder import Ladder, Step
from streamfuse.pairing.matcher import Matcher
from streamfuse.pipeline.offset import OffsetInUse
from streamfuse.pipeline.statistics import Statistics
from streamfuse.spans import span
from streamfuse.worker import FrameWorker


class FusionCore:
    """The steppable heart of a run.

    Args:
        live: stamps are on the clock's own line, so ages can be told and old pairs dropped.
        budget_ns: live: a pair older than this is dropped when a newer one waits.
        offset: what measures the offset between the streams; None: the matcher's own stays.
        ladder: live: says how much work each pair gets; None: all of it, always. Offline there is none.
        sink_lag_ns: from the end of a recent frame's work until the slowest sink had it.
    """

    def __init__(
        self,
        matcher: Matcher,
        worker: FrameWorker,
        *,
        live: bool,
        budget_ns: int,
        clock: Clock,
        statistics: Statistics,
        offset: OffsetInUse | None = None,
        ladder: Ladder | None = None,
        sink_lag_ns: Callable[[], int] = int,
    ) -> None:
        self._matcher = matcher
        self._worker = worker
        self._live = live
        self._budget_ns = budget_ns
        self._clock = clock
        self._statistics = statistics
        self._offset = offset
        self._ladder = ladder if live else None
        self._sink_lag_ns = sink_lag_ns
        self._matcher_drops = {stream: _Increments() for stream in STREAMS}
        self._capture_drops = {stream: _Increments() for stream in STREAMS}
        self._ended: set[Stream] = set()
        self._decided: deque[FramePair] = deque()
        self._decided_ns = 0
        self._seq = 0
        self._under_way: dict[int, _Start] = {}
        self._done: deque[FusedFrame] = deque()
        self._finished_ns = 0
        self._last_ir_out: int | None = None
        self._last_ir_finished: int | None = None
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
        """Fuse every pair that is decided. Offline some may stay under way, see `drain`."""
        while self._decide():
            pair = self._decided.popleft()
            step = self._step_for(pair)
            if self._decided and step.late:
                self._drop(pair, DropCause.LATE)
            else:
                yield from self._fuse(pair, step.rung)
        if self._live:
            # Nothing waits, so the newest frame is worth more now than a device kept busy.
            yield from self.drain()

    def drain(self) -> Iterator[FusedFrame]:
        """Finish the frames under way: offline once, after the last step."""
        self._done.extend(self._worker.drain())
        yield from self._given_out()

    def _given_out(self) -> Iterator[FusedFrame]:
        while self._done:
            yield self._finished(self._done.popleft())

    def finish(self) -> None:
        """Account for all frames that will not be fused any more. Call once, when nothing more is stepped."""
        try:
            self._worker.drain()
        finally:
            self._account_for_the_rest()

    def _account_for_the_rest(self) -> None:
        # Finished but not given out, or never finished because the worker failed.
        for start in self._under_way.values():
            self._abandon(start.pair)
        self._under_way.clear()
        self._done.clear()
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

    def _step_for(self, pair: FramePair) -> Step:
        """How much work a pair gets, and whether it will be late even so."""
        if not self._live:
            return Step(Rung.FULL)
        now = self._clock.now_ns()
        age = now - pair.t_capture
        if self._ladder is None:
            return Step(Rung.FULL, late=age > self._budget_ns)
        moves = self._ladder.moves
        step = self._ladder.choose(
            now_ns=now, age_ns=age, period_ns=self._matcher.period_ns, sink_lag_ns=self._sink_lag_ns()
        )
        if self._ladder.moves != moves:
            self._statistics.rung_change()
        return step

    def _fuse(self, pair: FramePair, rung: Rung) -> Iterator[FusedFrame]:
        """Give a pair to the worker; what that has finished comes out."""
        ir_seq = None if pair.ir is None else pair.ir.seq
        self._settle_doubtful_ir(ir_seq)
        if ir_seq is not None:
            self._last_ir_out = ir_seq
        seq, self._seq = self._seq, self._seq + 1
        self._under_way[seq] = _Start(pair, self._decided_ns, self._clock.now_ns(), rung)
        self._done.extend(
            self._worker.submit(
                pair,
                seq=seq,
                dropped=self._statistics.dropped_totals(),
                rung=rung,
                rung_reason="" if self._ladder is None else self._ladder.reason,
            )
        )
        yield from self._given_out()

    def _finished(self, frame: FusedFrame) -> FusedFrame:
        """Account for a frame that the worker has finished."""
        start = self._under_way.pop(frame.seq)
        now = self._clock.now_ns()
        if self._live:
            frame.latencies_ns["wait_pair"] = start.decided_ns - frame.pair.vis.t_arrival
            frame.latencies_ns["queue"] = start.given_ns - start.decided_ns
            frame.latencies_ns["capture_to_fused"] = now - frame.t_capture
        if self._ladder is not None:
            self._ladder.spent(
                now_ns=now,
                rung=start.rung,
                # Of frames under way at once each is charged what it added.
                work_ns=now - max(start.given_ns, self._finished_ns),
                register_ns=frame.latencies_ns.get("register", 0),
                warm=frame.warm,
            )
        self._finished_ns = now
        if frame.pair.ir is not None:
            self._last_ir_finished = frame.pair.ir.seq
        self._statistics.frame_out(frame, now)
        return frame

    def _abandon(self, pair: FramePair) -> None:
        """Drop a pair under way that nobody waits for any more."""
        self._statistics.drop("vis", DropCause.SHUTDOWN)
        if pair.ir is not None and pair.ir.seq != self._last_ir_finished:
            self._statistics.drop("ir", DropCause.SHUTDOWN)
            self._last_ir_finished = pair.ir.seq

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


@dataclass(frozen=True, slots=True)
class _Start:
    """A pair under way: when it was decided and given to the worker, and how much work it gets."""

    pair: FramePair
    decided_ns: int
    given_ns: int
    rung: Rung


class _Increments:
    """What counters have grown by since they were last looked at."""

    def __init__(self) -> None:
        self._seen: Counter[DropCause] = Counter()

    def of(self, counts: Mapping[DropCause, int]) -> list[tuple[DropCause, int]]:
        grown = [(cause, count - self._seen[cause]) for cause, count in counts.items()]
        self._seen |= Counter(counts)
        return [(cause, count) for cause, count in grown if count > 0]
