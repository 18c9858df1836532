"""Video files written by the file sink, and read back."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from streamfuse.clock import VirtualClock
from streamfuse.frame import FusedFrame
from streamfuse.sinks.video_file import VideoFileOptions, VideoFileSink

TICK = Fraction(1, 15360)


def make_sink(path: Path, **options: Any) -> VideoFileSink:
    return VideoFileSink(VideoFileOptions(path=path, **options), clock=VirtualClock())


def write_all(path: Path, frames: list[FusedFrame], **options: Any) -> None:
    sink = make_sink(path, **options)
    sink.open()
    for frame in frames:
        sink.write(frame)
    sink.close()
    sink.close()


def decode(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def times(path: Path) -> list[Fraction]:
    return [frame.pts * frame.time_base for frame in decode(path)]
