"""All sinks of a run: those with a window on the thread that iterates, the others on threads of their own."""

from collections.abc import Iterable

from streamfuse.clock import Clock
from streamfuse.config import Component
from streamfuse.errors import SinkError
from streamfuse.frame import FusedFrame
from streamfuse.pipeline.sink_runner import SinkRunner, WindowRunner
from streamfuse.pipeline.statistics import Statistics
from streamfuse.sinks import SINKS

PUMP_MS = 10
"""How long a window may keep the main thread before the next frame is looked for."""


class Outputs:
    """Makes the sinks; none is opened yet. They are named by their kind, the second of a kind "file2".

    Args:
        queue: frames that may wait for each sink with a thread. live: a slow sink loses frames, instead of
            holding up the run.

    Raises:
        ConfigError, SinkError: as the sinks say.
    """

    def __init__(
        self, sinks: Iterable[Component], *, live: bool, queue: int, clock: Clock, statistics: Statistics
    ) -> None:
        self._runners: list[SinkRunner] = []
        self._windows: list[WindowRunner] = []
        names: dict[str, int] = {}
        for component in sinks:
            count = names[component.kind] = names.get(component.kind, 0) + 1
            name = component.kind if count == 1 else f"{component.kind}{count}"
            sink = SINKS.load(component.kind)(component.options, clock=clock)
            if getattr(sink, "main_thread", False):
                self._windows.append(WindowRunner(name, sink, live=live, clock=clock, statistics=statistics))
                continue
            self._runners.append(
                SinkRunner(name, sink, capacity=queue, lossless=not live, clock=clock, statistics=statistics)
            )

    @property
    def _all(self) -> list[SinkRunner | WindowRunner]:
        return [*self._windows, *self._runners]

    @property
    def has_window(self) -> bool:
        """Some sink needs the main thread."""
        return bool(self._windows)

    @property
    def failed(self) -> dict[str, SinkError]:
        """The sinks that ended early, by name, and why."""
        return {output.name: output.error for output in self._all if output.error is not None}

    @property
    def all_failed(self) -> bool:
        """Whether every sink has; a run without any is for whoever iterates."""
        return bool(self._all) and len(self.failed) == len(self._all)

    @property
    def lag_ns(self) -> int:
        """From the end of the latest frame's work until the slowest sink had it."""
        return max((output.lag_ns for output in self._all), default=0)

    def start(self, *, fps: float) -> None:
        """Open all. Raises SinkError."""
        for output in self._all:
            output.start(fps=fps)

    def put(self, frame: FusedFrame) -> None:
        """Hand a frame to the sinks with threads. Offline this waits for room."""
        for runner in self._runners:
            runner.put(frame)

    def show(self, frame: FusedFrame) -> None:
        """Hand a frame to the windows. Main thread."""
        for window in self._windows:
            window.put(frame)

    def pump(self) -> bool:
        """Handle the windows' events; False when a user wants to end. Main thread."""
        return all([window.pump(PUMP_MS) for window in self._windows])

    def close(self) -> None:
        """Finish all. Main thread."""
        for runner in self._runners:
            runner.close()
        for window in self._windows:
            window.close()
