"""The protocol every source keeps, and nothing else."""

from typing import ClassVar, Protocol

from streamfuse.capture.options import SourceOptions
from streamfuse.frame import RawFrame, SourceInfo


class Source(Protocol):
    """Delivers the raw pictures of one stream, in order.

    A source is made from validated options and a clock (`Kind(options, clock=clock)`), does nothing
    until `open`, and may be opened again after `close` (that is what a reconnect does). One thread
    uses it; only `close` may be called from another one, to unblock a `read`.
    """

    Options: ClassVar[type[SourceOptions]]
    """Its own options, on top of those that the chain itself reads (turns, crops, reconnects)."""

    live: bool
    """A live source cannot wait: frames not taken in time are lost, and it may come back after a failure."""

    def open(self) -> SourceInfo:
        """Connect. Raises SourceError with what was wrong and what would be right."""
        ...

    def read(self) -> RawFrame | None:
        """The next picture; None at the end of the stream. It is kept and not copied: the next one needs an
        array of its own. Raises SourceInterrupted when a live source went quiet or broke, SourceError when
        nothing will help."""
        ...

    def close(self) -> None:
        """Release everything. Never raises, may be called twice."""
        ...
