"""The thread that reads one live camera, brings it back when it dies, and never blocks anybody else.

Problem. Cameras disconnect, stall while connected, restart their clocks; a read may hang where no time-out
reaches. Design. The thread reads into a bounded ring and reconnects with exponential backoff and jitter, so
that a rig of cameras behind one dead switch does not knock in step. Whoever takes frames also calls
`watch`, which closes a connection that has gone quiet and leaves a thread behind that even this does not
free. Trade-off. A left-behind thread costs a few megabytes until its read returns; waiting for it would
cost the stream.
"""

import logging
import random
import threading
from collections import Counter, deque
from collections.abc import Callable
from enum import StrEnum

from streamfuse.capture.options import ReconnectOptions
from streamfuse.capture.reader import FrameReader
from streamfuse.clock import NS_PER_S, Clock
from streamfuse.errors import SourceError, SourceInterrupted
from streamfuse.frame import DropCause, Frame

log = logging.getLogger(__name__)

BACKOFF = 2.0
JITTER = 0.3
"""A delay is stretched or shortened by up to this share, at random."""
WATCH_GRACE_S = 1.0
"""Sources have time-outs of their own, which tell more; the watchdog is for those that fail to fire."""
STOP_TIMEOUT_S = 2.0


class CaptureState(StrEnum):
    """What a capture thread is doing."""

    IDLE = "idle"
    RUNNING = "running"
    RECONNECTING = "reconnecting"
    ENDED = "ended"
    FAILED = "failed"


class CaptureThread:
    """Reads frames of an opened reader into a ring.

    Args:
        reader: open already; it is closed and opened again to reconnect.
        options: when to give a connection up, and how to try again.
        capacity: frames that may wait; the oldest is dropped and counted when there is no room.
        notify: called from the thread whenever there is something new.
        tell: takes one line for people, at each loss and return of the stream.
        uniform: random numbers in [-1, 1] for the jitter.

    Attributes:
        error: why the stream failed for good, None otherwise.
        reconnects: how often the stream came back.
    """

    def __init__(
        self,
        reader: FrameReader,
        *,
        options: ReconnectOptions,
        capacity: int,
        clock: Clock,
        notify: Callable[[], None],
        tell: Callable[[str], None] = lambda _: None,
        uniform: Callable[[], float] = lambda: random.uniform(-1, 1),
    ) -> None:
        self.error: SourceError | None = None
        self.state = CaptureState.IDLE
        self.reconnects = 0
        self._reader = reader
        self._options = options
        self._capacity = capacity
        self._clock = clock
        self._notify = notify
        self._tell = tell
        self._uniform = uniform
        self._ring: deque[Frame] = deque()
        self._lock = threading.Lock()
        self._overruns = 0
        self._delivered = 0
        self._quiet_since_ns = 0
        self._stop = threading.Event()
        self._generation = 0
        self._thread: threading.Thread | None = None

    @property
    def finished(self) -> bool:
        """No more frames will be put into the ring."""
        return self.state in (CaptureState.ENDED, CaptureState.FAILED)

    @property
    def drops(self) -> Counter[DropCause]:
        """Frames that came in but will not be taken: the source's, the reader's and the ring's."""
        drops = self._reader.drops
        if self._overruns:
            drops[DropCause.OVERRUN] += self._overruns
        return drops

    def start(self) -> None:
        """Begin to read."""
        self._begin(reconnect=False)

    def take(self) -> list[Frame]:
        """All frames that wait, oldest first. Never blocks."""
        with self._lock:
            frames = list(self._ring)
            self._ring.clear()
        return frames

    def watch(self) -> None:
        """Notice a read that hangs. Call it now and then from the thread that takes the frames."""
        if self.state is not CaptureState.RUNNING or self._stop.is_set():
            return
        quiet_s = (self._clock.now_ns() - self._quiet_since_ns) / NS_PER_S
        if quiet_s < self._options.stall_s + WATCH_GRACE_S:
            return
        self._say(f"no picture for {quiet_s:.1f} s, connection given up")
        self._leave_behind()
        self._reader.close()
        self._begin(reconnect=True)

    def stop(self) -> None:
        """End the thread. A read that cannot be interrupted is left behind, as a daemon named so."""
        self._stop.set()
        self._reader.close()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)
            if self._thread.is_alive():
                self._leave_behind()
        if not self.finished:
            self.state = CaptureState.ENDED

    def _begin(self, *, reconnect: bool) -> None:
        self._generation += 1
        self._quiet_since_ns = self._clock.now_ns()
        self.state = CaptureState.RECONNECTING if reconnect else CaptureState.RUNNING
        self._thread = threading.Thread(
            target=self._run,
            args=(self._generation, reconnect),
            name=f"streamfuse-capture-{self._reader.stream}",
            daemon=True,
        )
        self._thread.start()

    def _leave_behind(self) -> None:
        self._generation += 1
        if self._thread is not None:
            self._thread.name = f"abandoned-capture-{self._reader.stream}"

    def _run(self, generation: int, reconnect: bool) -> None:
        attempt = 0
        delivered = self._delivered
        while self._current(generation):
            try:
                if reconnect:
                    if self._wait_before(attempt):
                        return
                    attempt += 1
                    self._reopen(generation)
                    reconnect = False
                self._read(generation)
            except SourceInterrupted as error:
                if not self._current(generation):
                    return
                if not reconnect:
                    self._say(f"lost: {error}")
                if self._delivered > delivered:
                    attempt, delivered = 0, self._delivered
                reconnect = True
                self.state = CaptureState.RECONNECTING
                self._reader.close()
                limit = self._options.max_attempts
                if limit is not None and attempt >= limit:
                    self._fail(SourceError(f"{error} (gave up after {attempt} attempts to reconnect)"))
            except SourceError as error:
                if self._current(generation):
                    self._fail(error)
            except Exception as error:  # noqa: BLE001 - third-party sources may raise anything
                if self._current(generation):
                    failure = SourceError(f"{self._reader.stream}: {type(error).__name__}: {error}")
                    failure.__cause__ = error
                    self._fail(failure)

    def _current(self, generation: int) -> bool:
        return generation == self._generation and not self._stop.is_set() and not self.finished

    def _wait_before(self, attempt: int) -> bool:
        delay_s = min(self._options.first_delay_s * BACKOFF**attempt, self._options.max_delay_s)
        return self._clock.sleep_ns(round(delay_s * (1 + JITTER * self._uniform()) * NS_PER_S), self._stop)

    def _reopen(self, generation: int) -> None:
        self._reader.open()
        if not self._current(generation):
            self._reader.close()
            return
        self.reconnects += 1
        self._quiet_since_ns = self._clock.now_ns()
        self.state = CaptureState.RUNNING
        self._say("back")

    def _read(self, generation: int) -> None:
        """Read until the end or an exception."""
        while self._current(generation):
            frame = self._reader.read()
            if not self._current(generation):
                break
            if frame is None:
                self.state = CaptureState.ENDED
                self._notify()
                break
            self._quiet_since_ns = self._clock.now_ns()
            self._put(frame)

    def _put(self, frame: Frame) -> None:
        with self._lock:
            self._delivered += 1
            if len(self._ring) >= self._capacity:
                self._ring.popleft()
                self._overruns += 1
            self._ring.append(frame)
        self._notify()

    def _fail(self, error: SourceError) -> None:
        self.error = error
        self.state = CaptureState.FAILED
        self._notify()

    def _say(self, what: str) -> None:
        text = f"{self._reader.stream}: {what}"
        log.warning(text)
        self._tell(text)
