"""Two finite sources through the core, in the order of their stamps, dropping nothing."""

from collections.abc import Iterator, Mapping
from typing import Protocol

from streamfuse.frame import DropCause, Frame, FusedFrame, Stream
from streamfuse.pipeline.core import FusionCore


class OpenedReader(Protocol):
    """What is asked of a `FrameReader`, or of what stands in for it."""

    @property
    def drops(self) -> Mapping[DropCause, int]: ...

    def read(self) -> Frame | None: ...


def run_offline(core: FusionCore, readers: Mapping[Stream, OpenedReader]) -> Iterator[FusedFrame]:
    """Fuse two opened readers to their ends.

    Each is read only as far as the matcher needs to decide, so neither clip is held in memory, however
    different their rates are.
    """
    while (stream := core.wants()) is not None:
        frame = readers[stream].read()
        if frame is None:
            core.end(stream)
        else:
            core.feed(frame)
        core.lost_before(stream, readers[stream].drops)
        yield from core.step()
    yield from core.drain()
