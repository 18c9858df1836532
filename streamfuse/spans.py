"""Where the time goes: pieces of work by name, per thread.

A piece of work is marked once, with `span` or `timed`. While a `Trace` records, each becomes an event of a
Chrome trace (a JSON array of trace events, which https://ui.perfetto.dev and chrome://tracing open); nested
marks nest there, and each has the processor time of its thread beside the time on the wall. Without one,
`span` hands out one and the same object that does nothing. `timed` also keeps the duration for the frame that
is worked on: what statistics and headers report is what the trace shows.

Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU (Trace Event Format).
"""

import json
import os
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from streamfuse.clock import Clock, RealClock, thread_cpu_ns
from streamfuse.errors import ConfigError, SinkError

BUFFERED_EVENTS = 1000
"""Events written at a time: about a second of a run, and what a killed process loses."""

_NOTHING: AbstractContextManager[None] = nullcontext()
_trace: "Trace | None" = None


class Trace:
    """Writes the spans of all threads to a file from `with` to its end. One at a time in a process.

    A file cut off by a kill still opens: viewers do not ask for the closing bracket.

    Raises:
        SinkError: the file cannot be written. ConfigError: another trace is recording.
    """

    def __init__(self, path: Path | str, *, clock: Clock | None = None) -> None:
        self.clock = clock or RealClock()
        self._path = Path(path)
        self._lock = threading.Lock()
        self._events: list[str] = []
        self._named: set[int] = set()
        self._file: IO[str]
        self._failure: OSError | None = None

    def __enter__(self) -> Self:
        global _trace
        if _trace is not None:
            raise ConfigError(f"{self._path}: a trace is being recorded already, to {_trace._path}")
        try:
            self._file = self._path.open("w", encoding="utf-8")
        except OSError as error:
            raise SinkError(f"{self._path}: the trace cannot be written: {error.strerror}") from error
        self._file.write("[\n")
        _trace = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _trace
        _trace = None
        with self._lock:
            self._add({"name": "process_name", "ph": "M", "pid": os.getpid(), "args": {"name": "streamfuse"}})
            self._write("\n]\n")
            try:
                self._file.close()
            except OSError as failure:
                self._failure = self._failure or failure
        if self._failure is not None and error is None:
            text = f"{self._path}: the trace cannot be written: {self._failure.strerror}"
            raise SinkError(text) from self._failure

    def add(self, name: str, started_ns: int, ended_ns: int, cpu_ns: int, frame: int | None = None) -> None:
        """Record one piece of work of the calling thread, which took `cpu_ns` of processor time."""
        thread = threading.get_native_id()
        event = {
            "name": name,
            "ph": "X",
            "ts": started_ns / 1000,
            "dur": (ended_ns - started_ns) / 1000,
            "tdur": cpu_ns / 1000,
            "pid": os.getpid(),
            "tid": thread,
        }
        if frame is not None:
            event["args"] = {"frame": frame}
        with self._lock:
            if self._file.closed:
                return
            if thread not in self._named:
                self._named.add(thread)
                args = {"name": threading.current_thread().name}
                self._add({"name": "thread_name", "ph": "M", "pid": os.getpid(), "tid": thread, "args": args})
            self._add(event)
            if len(self._events) >= BUFFERED_EVENTS:
                self._write(",\n")

    def _write(self, end: str) -> None:
        """Hand on what was recorded. A full disk ends the trace and not the work that it looks at."""
        try:
            if self._failure is None:
                self._file.write(",\n".join(self._events) + end)
                self._file.flush()
        except OSError as error:
            self._failure = error
        self._events.clear()

    def _add(self, event: dict[str, object]) -> None:
        self._events.append(json.dumps(event))


def recorded(path: Path | str | None) -> AbstractContextManager[object]:
    """A `Trace` to that file, or nothing."""
    return nullcontext() if path is None else Trace(path)


class _Span:
    """One piece of work under way."""

    __slots__ = ("_clock", "_cpu_ns", "_durations", "_frame", "_name", "_started_ns")

    def __init__(
        self, name: str, frame: int | None, clock: Clock, durations: dict[str, int] | None = None
    ) -> None:
        self._name = name
        self._frame = frame
        self._clock = clock
        self._durations = durations

    def __enter__(self) -> None:
        self._cpu_ns = 0 if _trace is None else thread_cpu_ns()
        self._started_ns = self._clock.now_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended_ns = self._clock.now_ns()
        if self._durations is not None:
            self._durations[self._name] = ended_ns - self._started_ns
        if _trace is not None:
            cpu_ns = thread_cpu_ns() - self._cpu_ns
            _trace.add(self._name, self._started_ns, ended_ns, cpu_ns, self._frame)


def span(name: str, frame: int | None = None) -> AbstractContextManager[None]:
    """A context whose time a trace shows. frame: the number of the fused frame it belongs to."""
    return _NOTHING if _trace is None else _Span(name, frame, _trace.clock)


def timed(
    name: str, durations: dict[str, int], clock: Clock, frame: int | None = None
) -> AbstractContextManager[None]:
    """A `span` whose duration in nanoseconds also becomes `durations[name]`."""
    return _Span(name, frame, clock, durations)
