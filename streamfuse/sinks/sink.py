"""The protocol every sink keeps, and nothing else."""

from typing import ClassVar, Protocol

from streamfuse.frame import FusedFrame
from streamfuse.registry import Options


class Sink(Protocol):
    """Takes fused frames, in order, on one thread of its own.

    Made from validated options and a clock (`Kind(options, clock=clock)`), opened by the first `write`
    or by `open`, closed once. A failure raises SinkError and ends this sink only; what was written stays.
    One that wants to know how many frames a second will come has a method `expect_rate(fps)` as well; it is
    called before `open` when the source says so.
    """

    Options: ClassVar[type[Options]]

    def open(self) -> None:
        """Acquire what can be acquired before the first frame (socket, folder, display)."""
        ...

    def write(self, frame: FusedFrame) -> None:
        """Take one frame. May block: the pipeline gives each sink its own bounded queue."""
        ...

    def close(self) -> None:
        """Finish the output so that it is complete and playable. May be called twice."""
        ...
