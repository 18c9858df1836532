"""A source that follows a script, and the reader on top of it."""

from collections import Counter
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from streamfuse.capture.media_time import Pace
from streamfuse.capture.options import SourceOptions
from streamfuse.capture.reader import FrameReader
from streamfuse.clock import NS_PER_MS, NS_PER_S, Clock, VirtualClock
from streamfuse.frame import DropCause, Frame, RawFrame, SourceInfo, Stream

MS = Fraction(1, 1000)


class ScriptOptions(SourceOptions):
    connections: Any = Field(description="one iterable of RawFrames for each time the source is opened")
    live: bool = False


class ScriptedSource:
    """Delivers what the script says; an exception in it is raised."""

    Options: ClassVar[type[ScriptOptions]] = ScriptOptions

    def __init__(self, options: ScriptOptions, *, clock: Clock) -> None:
        self.live = options.live
        self.drops: Counter[DropCause] = Counter()
        self._connections = iter(options.connections)
        self._items: Iterator[Any] = iter(())

    def open(self) -> SourceInfo:
        items = iter(next(self._connections))
        first = next(items)
        self._items = iter([first, *items])
        height, width = first.image.shape[:2]
        return SourceInfo(width=width, height=height, fps=25)

    def read(self) -> RawFrame | None:
        item = next(self._items, None)
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        pass


def textured(index: int, *, width: int = 48, height: int = 32) -> Any:
    """A picture that differs from every other one as a noisy sensor's does."""
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)


def raw(index: int, *, pts_ms: int | None = None, image: Any = None, **more: Any) -> RawFrame:
    pts = 40 * index if pts_ms is None else pts_ms
    arrival = more.pop("t_arrival", pts * NS_PER_MS + NS_PER_S)
    image = textured(index) if image is None else image
    return RawFrame(image=image, t_arrival=arrival, pts=pts, time_base=MS, **more)


def reader(
    *connections: Iterable[Any],
    stream: Stream = "vis",
    live: bool = False,
    pace: Pace | None = None,
    clock: Clock | None = None,
    **options: Any,
) -> FrameReader:
    made = ScriptOptions(connections=connections, live=live, **options)
    clock = clock or VirtualClock()
    source = ScriptedSource(made, clock=clock)
    found = FrameReader(source, stream=stream, options=made, kind="python", clock=clock, pace=pace)
    found.open()
    return found


def frames(source: FrameReader) -> list[Frame]:
    return list(iter(source.read, None))  # type: ignore[arg-type]
