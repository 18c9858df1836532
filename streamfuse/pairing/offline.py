"""Pairing two finished recordings without a thread."""

from collections.abc import Iterator

from streamfuse.frame import STREAMS, Frame, FramePair, Stream
from streamfuse.pairing.matcher import Matcher


def pair_offline(ir: Iterator[Frame], vis: Iterator[Frame], matcher: Matcher) -> Iterator[FramePair]:
    """Read two streams only as far as the matcher needs to decide, and yield its pairs.

    Neither stream is read far ahead of the other in time, however different their rates, starts and
    lengths are. Reading stops when the driver stream has ended and its last frame is decided: the rest
    of the other stream is not read.

    Args:
        ir, vis: frames of one stream each, stamps rising.
        matcher: made with `live=False`; all its frames are used or dropped with a cause at the end.
    """
    streams: dict[Stream, Iterator[Frame]] = {"ir": ir, "vis": vis}
    while (wanted := matcher.wants()) is not None:
        frame = next(streams[wanted], None)
        if frame is None:
            matcher.end(wanted)
        else:
            matcher.push(frame)
        yield from matcher.poll()
    for stream in STREAMS:
        matcher.end(stream)
    yield from matcher.poll()
