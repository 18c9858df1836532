"""The only module that reads time.

Everything else takes a `Clock`, so that a ten-minute scenario runs in seconds under `VirtualClock`
and any policy can be tested without a thread. All times are integer nanoseconds.
"""

import threading
import time
from typing import Protocol

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000


def thread_cpu_ns() -> int:
    """Processor time of the calling thread: stands still while it waits, or while others have its core."""
    return time.thread_time_ns()


def process_cpu_ns() -> int:
    """Processor time of the whole process, all threads."""
    return time.process_time_ns()


class Clock(Protocol):
    """What the pipeline needs to know about time."""

    def now_ns(self) -> int:
        """Monotonic time: pairing, ages and latencies are computed in it."""
        ...

    def wall_ns(self) -> int:
        """Unix time: written on the wire and into logs, never subtracted."""
        ...

    def sleep_ns(self, duration_ns: int, interrupt: threading.Event | None = None) -> bool:
        """Sleep; return True when `interrupt` was set before the time was over."""
        ...


class RealClock:
    """CLOCK_MONOTONIC and the system's Unix time."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()

    def sleep_ns(self, duration_ns: int, interrupt: threading.Event | None = None) -> bool:
        seconds = max(0, duration_ns) / NS_PER_S
        if interrupt is not None:
            return interrupt.wait(seconds)
        time.sleep(seconds)
        return False


class VirtualClock:
    """Time that moves only when told to: `advance_ns` or a `sleep_ns` of the code under test."""

    def __init__(self, *, start_ns: int = 0, wall_start_ns: int = 1_700_000_000 * NS_PER_S) -> None:
        self._now_ns = start_ns
        self._wall_offset_ns = wall_start_ns - start_ns

    def now_ns(self) -> int:
        return self._now_ns

    def wall_ns(self) -> int:
        return self._now_ns + self._wall_offset_ns

    def advance_ns(self, duration_ns: int) -> None:
        """Move time forward. Raises ValueError on a negative duration."""
        if duration_ns < 0:
            raise ValueError(f"time does not go back: {duration_ns = }")
        self._now_ns += duration_ns

    def sleep_ns(self, duration_ns: int, interrupt: threading.Event | None = None) -> bool:
        if interrupt is not None and interrupt.is_set():
            return True
        self.advance_ns(max(0, duration_ns))
        return False
