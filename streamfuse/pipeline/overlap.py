"""Two pairs at a time: the next one is located while this one is rendered.

A learned registrar takes most of a frame's time and runs best on one thread, so recorded clips would leave
the second core to the codecs. The results are those of one pair after the other, one call later: live, that
would be a frame of latency, so it is for recordings only.
"""

from concurrent.futures import Future, ThreadPoolExecutor

from streamfuse.frame import FramePair, FusedFrame, Rung
from streamfuse.nn.backend_names import BackendName
from streamfuse.worker import Worker


class OverlappedWorker:
    """A `FrameWorker` with one pair under way on a thread of its own."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._thread = ThreadPoolExecutor(1, "streamfuse-render")
        self._under_way: Future[FusedFrame] | None = None

    def prepare(self, *, ir_size: tuple[int, int], vis_size: tuple[int, int]) -> BackendName | None:
        """See `FrameWorker`."""
        return self._worker.prepare(ir_size=ir_size, vis_size=vis_size)

    def submit(
        self, pair: FramePair, *, seq: int, dropped: dict[str, int], rung: Rung, rung_reason: str
    ) -> list[FusedFrame]:
        """See `FrameWorker`. What rendering an earlier pair raised is raised here."""
        located = self._worker.locate(pair, seq=seq, dropped=dropped, rung=rung, rung_reason=rung_reason)
        done = self.drain()
        self._under_way = self._thread.submit(self._worker.render, located)
        return done

    def drain(self) -> list[FusedFrame]:
        """See `FrameWorker`."""
        under_way, self._under_way = self._under_way, None
        return [] if under_way is None else [under_way.result()]

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()
