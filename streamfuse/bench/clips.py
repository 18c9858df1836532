"""Clips to measure with: the bundled sample or given ones, at any size and as long as needed."""

from collections.abc import Iterator
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any

import av
import av.error
import cv2
import numpy as np

from streamfuse.capture._av import find_video_stream
from streamfuse.capture.video_file import open_video_file
from streamfuse.errors import SourceError
from streamfuse.frame import Image8
from streamfuse.fusion.colour import luma

Clips = tuple[Path, Path]
"""Infrared and visible."""
INTERMEDIATE = {"crf": "18", "preset": "veryfast", "tune": "zerolatency"}
"""Of clips that are resized before they are measured with: as cheap to decode as a camera's own."""


def sample_clips() -> Clips:
    """The rendered street that comes with the package: infrared 320x240, visible 640x480, 25 fps."""
    folder = files("streamfuse") / "samples"
    return Path(str(folder / "street-ir.mkv")), Path(str(folder / "street-vis.mkv"))


def first_pair(clips: Clips) -> tuple[Image8, Image8]:
    """Luma of the first pictures, uint8 (H, W), both of the visible one's size. Raises SourceError."""
    ir, vis = (luma(next(_pictures(clip))) for clip in clips)
    return np.asarray(cv2.resize(ir, (vis.shape[1], vis.shape[0])), np.uint8), vis


def prepared_clips(
    clips: Clips, folder: Path, *, size: tuple[int, int] | None = None, seconds: float | None = None
) -> Clips:
    """The clips at another size or as long as asked for, written to `folder`; themselves when they fit.

    size: (width, height) of the visible one; the infrared keeps its share of it. seconds: repeated until
    they last that long. Raises SourceError.
    """
    scale = None
    if size is not None:
        with open_video_file(clips[1]) as container:
            stream = find_video_stream(container, str(clips[1]))
            scale = (size[0] / stream.width, size[1] / stream.height)
    if scale is not None and scale != (1.0, 1.0):
        clips = tuple(_resized(clip, folder / f"sized-{clip.name}.mkv", scale) for clip in clips)  # type: ignore[assignment]
    if seconds is not None:
        clips = tuple(_repeated(clip, folder / f"long-{clip.name}.mkv", seconds) for clip in clips)  # type: ignore[assignment]
    return clips


def _pictures(clip: Path) -> Iterator[Image8]:
    with open_video_file(clip) as container:
        for frame in container.decode(find_video_stream(container, str(clip))):
            yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    raise SourceError(f"{clip}: holds no picture")


def _resized(clip: Path, target: Path, scale: tuple[float, float]) -> Path:
    with open_video_file(clip) as source, av.open(str(target), "w") as output:
        original = find_video_stream(source, str(clip))
        stream: Any = output.add_stream("libx264", rate=original.average_rate)
        stream.pix_fmt, stream.options = "yuv420p", INTERMEDIATE
        stream.time_base = original.time_base
        width, height = (
            2 * round(side * by / 2)
            for side, by in zip((original.width, original.height), scale, strict=True)
        )
        stream.width, stream.height = width, height
        for frame in source.decode(original):
            scaled = frame.reformat(width=width, height=height, format="yuv420p")
            scaled.pts, scaled.time_base = frame.pts, frame.time_base
            scaled.pict_type = 0
            output.mux(stream.encode(scaled))
        output.mux(stream.encode(None))
    return target


def _repeated(clip: Path, target: Path, seconds: float) -> Path:
    """The packets again and again, with stamps that go on."""
    with open_video_file(clip) as source:
        stream: Any = find_video_stream(source, str(clip))
        packets = [packet for packet in source.demux(stream) if packet.pts is not None]
        period = round(1 / (Fraction(stream.average_rate) * stream.time_base))
        length = max(packet.pts for packet in packets) + period
        with av.open(str(target), "w") as output:
            copy: Any = output.add_stream_from_template(stream)
            copy.time_base = stream.time_base
            stamps = [(packet.pts, packet.dts) for packet in packets]
            offset = 0
            while offset * stream.time_base < seconds:
                for packet, (pts, dts) in zip(packets, stamps, strict=True):
                    packet.stream = copy
                    packet.pts, packet.dts = pts + offset, dts + offset
                    packet.time_base = stream.time_base
                    output.mux(packet)
                offset += length
    return target
