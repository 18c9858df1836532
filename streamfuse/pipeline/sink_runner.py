"""One thread and one bounded queue for each sink, so that none can hold up another.

Live, a full queue drops its oldest frame and counts it; offline, the pipeline waits for room. A sink that
fails is closed, named in the log and the report, and the run goes on for the others. Windows want the main
thread: whoever iterates over the pipeline drives them.
"""

import logging
import threading
from collections import deque
from typing import Protocol

from streamfuse.clock import Clock
from streamfuse.errors import SinkError
from streamfuse.frame import DropCause, FusedFrame
from streamfuse.pipeline.statistics import Statistics
from streamfuse.sinks.sink import Sink
from streamfuse.spans import span, timed

log = logging.getLogger(__name__)


class WindowSink(Sink, Protocol):
    """A sink whose methods all belong on the main thread."""

    def pump(self, timeout_ms: int) -> bool:
        """Handle the window's events for at most this long; False when the user wants to end."""
        ...


class SinkRunner:
    """Feeds one sink.

    lag_ns: live: from the end of the latest frame's work until the sink had written it; 0 once it failed.

    Args:
        name: for the thread, the log and the report, unique in the run.
        sink: not opened yet.
        capacity: frames that may wait.
        lossless: wait for room instead of dropping.
    """

    def __init__(
        self, name: str, sink: Sink, *, capacity: int, lossless: bool, clock: Clock, statistics: Statistics
    ) -> None:
        self.name = name
        self.error: SinkError | None = None
        self.lag_ns = 0
        self._sink = sink
        self._capacity = capacity
        self._lossless = lossless
        self._clock = clock
        self._statistics = statistics
        self._queue: deque[FusedFrame] = deque()
        self._condition = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"streamfuse-sink-{name}", daemon=True)

    def start(self, *, fps: float = 0.0) -> None:
        """Open the sink: a wrong path or port is an error before the first frame. Raises SinkError.

        fps: nominal rate of the frames to come, 0 when unknown.
        """
        expect_rate = getattr(self._sink, "expect_rate", None)
        try:
            if fps and expect_rate is not None:
                expect_rate(fps)
            self._sink.open()
        except Exception as error:
            raise _as_sink_error(self.name, error) from error
        self._thread.start()

    def put(self, frame: FusedFrame) -> None:
        """Hand over one frame."""
        with self._condition:
            if self._lossless:
                self._condition.wait_for(lambda: len(self._queue) < self._capacity or self.error is not None)
            if self.error is not None:
                self._statistics.sink_drop(self.name, DropCause.SINK_FAILED)
                return
            if len(self._queue) >= self._capacity:
                self._queue.popleft()
                self._statistics.sink_drop(self.name, DropCause.SINK_FULL)
            self._queue.append(frame)
            self._condition.notify_all()

    def close(self, *, drain: bool = True, timeout_s: float = 30.0) -> None:
        """Write what waits (unless `drain` is false), close the sink, end the thread."""
        with self._condition:
            self._closing = True
            if not drain:
                self._discard(DropCause.SHUTDOWN)
            self._condition.notify_all()
        if self._thread.ident is None:
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            with self._condition:
                self._discard(DropCause.SHUTDOWN)
            log.warning("sink %s did not finish within %.0f s and was left behind", self.name, timeout_s)

    def _discard(self, cause: DropCause) -> None:
        if self._queue:
            self._statistics.sink_drop(self.name, cause, len(self._queue))
            self._queue.clear()

    def _next(self) -> FusedFrame | None:
        with self._condition:
            self._condition.wait_for(lambda: self._queue or self._closing)
            if not self._queue:
                return None
            frame = self._queue.popleft()
            self._condition.notify_all()
            return frame

    def _run(self) -> None:
        stage, took = f"sink.{self.name}", dict[str, int]()
        try:
            while (frame := self._next()) is not None:
                with timed(stage, took, self._clock, frame.seq):
                    self._sink.write(frame)
                self._statistics.latency(stage, took[stage])
                if not self._lossless:
                    self.lag_ns = _tell_latency(self.name, frame, self._clock.now_ns(), self._statistics)
            self._sink.close()
        except Exception as error:  # noqa: BLE001 - a third-party sink may raise anything
            self._fail(_as_sink_error(self.name, error))

    def _fail(self, error: SinkError) -> None:
        _tell_end(self.name, error, self._statistics)
        self.lag_ns = 0
        with self._condition:
            self.error = error
            self._statistics.sink_drop(self.name, DropCause.SINK_FAILED)
            self._discard(DropCause.SINK_FAILED)
            self._condition.notify_all()
        _close_quietly(self.name, self._sink)


class WindowRunner:
    """Feeds one window, on the thread that calls it. A window that fails gets no more frames.

    lag_ns: as of `SinkRunner`.

    Args:
        name: for the log and the report, unique in the run.
        sink: not opened yet.
        live: latencies can be told.
    """

    def __init__(
        self, name: str, sink: WindowSink, *, live: bool, clock: Clock, statistics: Statistics
    ) -> None:
        self.name = name
        self.error: SinkError | None = None
        self.lag_ns = 0
        self._sink = sink
        self._live = live
        self._clock = clock
        self._statistics = statistics

    def start(self, *, fps: float = 0.0) -> None:
        """Open the window, which shows frames as they come. Raises SinkError, without a display for one."""
        try:
            self._sink.open()
        except Exception as error:
            raise _as_sink_error(self.name, error) from error

    def put(self, frame: FusedFrame) -> None:
        """Show one frame."""
        if self.error is None:
            try:
                with span(f"sink.{self.name}", frame.seq):
                    self._sink.write(frame)
            except Exception as error:  # noqa: BLE001 - a third-party window may raise anything
                self._fail(error)
        if self.error is not None:
            self._statistics.sink_drop(self.name, DropCause.SINK_FAILED)
        elif self._live:
            self.lag_ns = _tell_latency(self.name, frame, self._clock.now_ns(), self._statistics)

    def pump(self, timeout_ms: int) -> bool:
        """Let the window react, for at most this long; False when its user wants the run to end."""
        try:
            return self.error is not None or self._sink.pump(timeout_ms)
        except Exception as error:  # noqa: BLE001 - a third-party window may raise anything
            self._fail(error)
            return True

    def close(self) -> None:
        """Close the window."""
        if self.error is None:
            _close_quietly(self.name, self._sink)

    def _fail(self, error: Exception) -> None:
        self.error, self.lag_ns = _as_sink_error(self.name, error), 0
        _tell_end(self.name, self.error, self._statistics)
        _close_quietly(self.name, self._sink)


def _as_sink_error(name: str, error: Exception) -> SinkError:
    if isinstance(error, SinkError):
        return error
    failure = SinkError(f"sink {name}: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def _close_quietly(name: str, sink: Sink) -> None:
    """Close a sink when there is nobody left to raise to."""
    try:
        sink.close()
    except Exception as error:  # noqa: BLE001 - a third-party sink may raise anything
        log.warning("sink %s: closing: %s", name, error)


def _tell_latency(name: str, frame: FusedFrame, now_ns: int, statistics: Statistics) -> int:
    """Count the time from capture to a sink; returns the sink's part of it."""
    total_ns = now_ns - frame.t_capture
    statistics.latency(f"capture_to_sink.{name}", total_ns)
    return total_ns - frame.latencies_ns.get("capture_to_fused", total_ns)


def _tell_end(name: str, error: SinkError, statistics: Statistics) -> None:
    log.error("sink %s ended: %s", name, error)
    statistics.note(f"sink {name} ended: {error}")
