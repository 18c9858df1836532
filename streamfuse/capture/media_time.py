"""Time of recordings: exact stamps offline, the same stamps in real time when played beside a camera."""

import threading

from streamfuse.capture.clock_filter import RESET_NS, RESET_PERIODS, Stamp
from streamfuse.clock import Clock


class MediaTime:
    """The stamps of a recording, which rise strictly whatever the file says.

    A stamp that goes back a little (a muxer's rounding, a repeated stamp) is moved to just after the one
    before. One that goes back far begins a new time line (recordings that were joined), which is continued
    one period after the end of the last.
    """

    def __init__(self) -> None:
        self._shift_ns = 0
        self._last_ns: int | None = None
        self._period_ns = 0

    def stamp(self, media_ns: int) -> Stamp:
        """The capture time of the next picture; exact as long as the stamps rise."""
        t = media_ns + self._shift_ns
        if self._last_ns is None:
            self._last_ns = t
            return Stamp(t, 0)
        step = t - self._last_ns
        if step > 0:
            self._period_ns = step
            self._last_ns = t
            return Stamp(t, 0)
        reset = -step > max(RESET_NS, RESET_PERIODS * self._period_ns)
        rise = max(self._period_ns, 1) if reset else 1
        if reset:
            self._shift_ns += rise - step
        self._last_ns += rise
        return Stamp(self._last_ns, 0, reset)


class Pace:
    """Plays recordings in real time: media time is counted from one instant for all that share a pace."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._start_ns: int | None = None

    def due_ns(self, media_ns: int) -> int:
        """When a picture is to be shown; the first one asked for: now."""
        with self._lock:
            if self._start_ns is None:
                self._start_ns = self._clock.now_ns() - media_ns
            return self._start_ns + media_ns

    def wait(self, until_ns: int, interrupt: threading.Event) -> bool:
        """Sleep; True when interrupted."""
        return self._clock.sleep_ns(until_ns - self._clock.now_ns(), interrupt)
