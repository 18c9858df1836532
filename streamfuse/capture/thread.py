"""The thread that reads one live camera, brings it back when it dies, and never blocks anybody else.

Problem. Cameras disconnect, stall while connected, restart their clocks; a read may hang where no time-out
reaches. Design. The thread reads into a bounded ring and reconnects with exponential backoff and jitter, so
that a rig of cameras behind one dead switch does not knock in step. Whoever takes frames also calls
`watch`, which closes a connection that has gone quiet and, if even this does not free its thread, leaves
that behind with the source it hangs in. Trade-off. A left-behind thread costs a few megabytes until its read
returns; waiting for it would cost the stream. So there are a few of them at most.
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
from streamfuse.errors import SourceError, SourceInterrupted, StreamfuseError
from streamfuse.frame import DropCause, Frame

log = logging.getLogger(__name__)

BACKOFF = 2.0
JITTER = 0.3
"""A delay is stretched or shortened by up to this share, at random."""
WATCH_GRACE_S = 1.0
"""Sources have time-outs of their own, which tell more; the watchdog is for those that fail to fire. It waits
this much longer, and once more before it gives up a thread that closing the connection did not free."""
OPEN_PATIENCE_S = 30.0
"""Longer than any source's own time-out for connecting by default."""
MOST_LEFT_BEHIND = 8
"""Where so many hang, another one would: the last of them is waited for. A day of tries would leave 2000."""
STOP_TIMEOUT_S = 1.5
CLOSE_TIMEOUT_S = 0.5
"""Together what `stop` may take."""


class CaptureState(StrEnum):
    """What a capture thread is doing."""

    IDLE = "idle"
    RUNNING = "running"
    STALLED = "stalled"
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
        self.error: StreamfuseError | None = None
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
        self._heard = 0
        self._quiet_since_ns = 0
        self._stop = threading.Event()
        self._generation = 0
        self._thread: threading.Thread | None = None
        self._left_behind: list[threading.Thread] = []

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
        self._begin(CaptureState.RUNNING)

    def take(self) -> list[Frame]:
        """All frames that wait, oldest first. Never blocks."""
        with self._lock:
            frames = list(self._ring)
            self._ring.clear()
        return frames

    def watch(self) -> None:
        """Notice a read that hangs. Call it now and then from the thread that takes the frames; never
        blocks."""
        if not self._reader.endless or self.state is CaptureState.IDLE or self.finished:
            return
        now = self._clock.now_ns()
        if self._reader.delivered != self._heard:
            self._heard = self._reader.delivered
            self._quiet_since_ns = now
        quiet_s = (now - self._quiet_since_ns) / NS_PER_S
        if quiet_s < self._patience_s():
            return
        if self.state is CaptureState.RUNNING:
            self._say(f"no picture for {quiet_s:.1f} s, connection given up")
            self.state = CaptureState.STALLED
            self._quiet_since_ns = now
            self._close()
            return
        self._left_behind = [thread for thread in self._left_behind if thread.is_alive()]
        if len(self._left_behind) < MOST_LEFT_BEHIND:
            self._leave_behind()
            self._reader.renew()
            self._begin(CaptureState.RECONNECTING)

    def _patience_s(self) -> float:
        """How long nothing may happen in the present state."""
        if self.state is CaptureState.RUNNING:
            return self._options.stall_s + WATCH_GRACE_S
        if self.state is CaptureState.STALLED:
            return WATCH_GRACE_S
        return OPEN_PATIENCE_S + self._options.max_delay_s * (1 + JITTER)

    def stop(self) -> None:
        """End the thread, within 2 s. A read that cannot be interrupted is left behind, as a daemon named
        so."""
        self._stop.set()
        self._close().join(CLOSE_TIMEOUT_S)
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)
            if self._thread.is_alive():
                self._leave_behind()
        if not self.finished:
            self.state = CaptureState.ENDED

    def _begin(self, state: CaptureState) -> None:
        self._generation += 1
        self._quiet_since_ns = self._clock.now_ns()
        self.state = state
        self._thread = threading.Thread(
            target=self._run,
            args=(self._generation, state is CaptureState.RECONNECTING),
            name=f"streamfuse-capture-{self._reader.stream}",
            daemon=True,
        )
        self._thread.start()

    def _close(self) -> threading.Thread:
        """Close the source on a thread of its own, because that may hang as well."""
        name = f"abandoned-close-{self._reader.stream}"
        thread = threading.Thread(target=self._reader.close, name=name, daemon=True)
        thread.start()
        return thread

    def _leave_behind(self) -> None:
        self._generation += 1
        if self._thread is not None:
            self._thread.name = f"abandoned-capture-{self._reader.stream}"
            self._left_behind.append(self._thread)

    def _run(self, generation: int, reconnect: bool) -> None:
        attempt = 0
        while self._current(generation):
            try:
                if reconnect:
                    if self._wait_before(attempt):
                        return
                    attempt += 1
                    self._reopen(generation)
                    reconnect = False
                delivered = self._reader.delivered
                try:
                    self._read(generation)
                finally:
                    if self._reader.delivered > delivered:
                        attempt = 0
            except SourceError as error:
                if not self._current(generation):
                    return
                # What refuses to open may still be starting up; what breaks while it runs says itself
                # whether another try may help.
                if not reconnect and not isinstance(error, SourceInterrupted):
                    self._fail(error)
                    return
                self._lose(error, attempt, said=reconnect)
                reconnect = True
            except Exception as error:  # noqa: BLE001 - third-party sources may raise anything
                if self._current(generation):
                    self._fail(error)

    def _current(self, generation: int) -> bool:
        return generation == self._generation and not self._stop.is_set() and not self.finished

    def _lose(self, error: SourceError, attempt: int, *, said: bool) -> None:
        if not said:
            self._say(f"lost: {error}")
        self._reader.close()
        limit = self._options.max_attempts
        if limit is not None and attempt >= limit:
            self._fail(SourceError(f"{error} (gave up after {attempt} attempts to reconnect)"))
            return
        self._quiet_since_ns = self._clock.now_ns()
        self.state = CaptureState.RECONNECTING

    def _wait_before(self, attempt: int) -> bool:
        delay_s = min(self._options.first_delay_s * BACKOFF ** min(attempt, 64), self._options.max_delay_s)
        return self._clock.sleep_ns(round(delay_s * (1 + JITTER * self._uniform()) * NS_PER_S), self._stop)

    def _reopen(self, generation: int) -> None:
        self._reader.open()
        if not self._current(generation):
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
                return
            if frame is not None:
                self._put(frame)
            if self.state is CaptureState.STALLED:
                # Closed already, so one more picture does not make it well again.
                raise SourceInterrupted("closed after it had gone quiet")
            if frame is None:
                self.state = CaptureState.ENDED
                self._notify()
                return

    def _put(self, frame: Frame) -> None:
        with self._lock:
            if len(self._ring) >= self._capacity:
                self._ring.popleft()
                self._overruns += 1
            self._ring.append(frame)
        self._notify()

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, StreamfuseError):
            failure = SourceError(f"{self._reader.stream}: {type(error).__name__}: {error}")
            failure.__cause__ = error
            error = failure
        self.error = error
        self.state = CaptureState.FAILED
        self._notify()

    def _say(self, what: str) -> None:
        text = f"{self._reader.stream}: {what}"
        log.warning(text)
        self._tell(text)
