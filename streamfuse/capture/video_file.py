"""Recorded video: every picture, in order, with its exact presentation stamp."""

import difflib
import logging
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain, dropwhile, takewhile
from pathlib import Path
from typing import Annotated, Any, ClassVar

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from pydantic import Field

from streamfuse.capture._av import PictureDecoder, SensorUnit, find_video_stream, seconds
from streamfuse.capture._hardware import Hardware, find_accelerator
from streamfuse.capture.options import LONGEST_S, SourceOptions
from streamfuse.clock import Clock
from streamfuse.errors import SourceError
from streamfuse.frame import DropCause, RawFrame, SourceInfo

log = logging.getLogger(__name__)

STAMP_ROUNDING = Fraction(1, 1000)
"""Seconds. Matroska rounds stamps to 1 ms; start and end must not miss a picture by that."""
CUT_OFF_S = 0.25
"""Ending so much before the announced duration means that a part is missing; less is rounding."""
MP4_HEAD_BOXES = frozenset({b"ftyp", b"mdat", b"wide", b"free", b"skip"})
MP4_BOX_HEADER = 8
"""Bytes: size and kind of a box."""
MP4_INDEX_BOXES = frozenset({b"moov", b"moof"})
MAX_RATE_DENOMINATOR = 1001
"""A rate is given as a float and means the simple fraction nearest to it."""


class VideoFileOptions(SourceOptions):
    """A video file, in any container and codec FFmpeg reads."""

    path: Path
    start_s: Annotated[float, Field(ge=0, le=LONGEST_S)] | None = Field(
        None, description="first picture to deliver, in seconds after the first one of the file"
    )
    end_s: Annotated[float, Field(gt=0, le=LONGEST_S)] | None = Field(
        None, description="deliver the pictures before this, in seconds after the first one of the file"
    )
    fps: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None, description="rate of a file without time stamps (raw .h264); refused for any other file"
    )
    unit: SensorUnit = Field("counts", description="what the values of 9- to 16-bit grey video mean")
    hardware: Hardware = Field("none", description="decode on a video engine; in software when that fails")
    threads: Annotated[int, Field(ge=1, le=16)] = Field(1, description="decoder threads")


class VideoFileSource:
    """Reads a video file through PyAV.

    Pictures: uint8 (H, W) from 8-bit grey formats, uint16 (H, W) unscaled from deeper grey, uint8
    (H, W, 3) RGB from anything else. The file's rotation mark is applied. `drops` counts the packets that
    could not be decoded since it was opened.
    """

    Options: ClassVar[type[VideoFileOptions]] = VideoFileOptions
    live = False

    def __init__(self, options: VideoFileOptions, *, clock: Clock) -> None:
        self.drops: Counter[DropCause] = Counter()
        self._options = options
        self._clock = clock
        # `close` may come from another thread, and a container must not go away under its decoder.
        self._lock = threading.Lock()
        self._container: InputContainer | None = None
        self._stream: VideoStream
        self._decoder: PictureDecoder
        self._pictures: Iterator[RawFrame] = iter(())

    def open(self) -> SourceInfo:
        """Open the file and decode its first picture.

        Raises:
            SourceError: the file is missing, empty, truncated or damaged, holds no video, or no picture
                lies between start and end.
        """
        path, start_s, end_s = self._options.path, self._options.start_s, self._options.end_s
        if start_s is not None and end_s is not None and start_s >= end_s:
            raise SourceError(f"{path}: start_s {start_s:g} is not before end_s {end_s:g}")
        self.close()
        try:
            pictures = self._play()
            origin = next(pictures, None)
            if origin is None:
                codec = self._stream.codec.name
                raise SourceError(f"{path}: not one picture of its {codec} video can be decoded")
            pictures = self._cut(origin, self._stamped(chain([origin], pictures), origin))
            first = next(pictures, None)
            if first is None:
                span = f"{start_s or 0:g} s to " + ("its end" if end_s is None else f"{end_s:g} s")
                raise SourceError(f"{path}: no picture in the span asked for, {span}")
        except av.error.FFmpegError as error:
            self.close()
            raise SourceError(f"{path}: cannot be decoded: {error.strerror}") from error
        except SourceError:
            self.close()
            raise
        self._pictures = chain([first], pictures)
        return self._info(first)

    def read(self) -> RawFrame | None:
        with self._lock:
            try:
                return next(self._pictures, None)
            except av.error.FFmpegError as error:
                raise SourceError(f"{self._options.path}: reading stopped: {error.strerror}") from error

    def close(self) -> None:
        with self._lock:
            self._pictures = iter(())
            if self._container is not None:
                self._container.close()
                self._container = None

    def _play(self) -> Iterator[RawFrame]:
        """Open the file, anew if need be; all its pictures."""
        options = self._options
        self.close()
        self.drops.clear()
        self._container = open_video_file(options.path, hardware=options.hardware)
        self._stream = find_video_stream(self._container, str(options.path))
        self._decoder = PictureDecoder(
            self._stream, unit=options.unit, live=False, threads=options.threads, drops=self.drops
        )
        return self._decode(self._container)

    def _decode(self, container: InputContainer) -> Iterator[RawFrame]:
        for packet in self._packets(container):
            yield from self._decoder.decode(packet, t_arrival=self._clock.now_ns())
        if self.drops[DropCause.CORRUPT]:
            lost = self.drops[DropCause.CORRUPT]
            log.warning("%s: %d packets could not be decoded", self._options.path, lost)

    def _packets(self, container: InputContainer) -> Iterator["Packet[VideoStream]"]:
        """All packets and the empty one that flushes the decoder, also of a file damaged or cut off."""
        path = self._options.path
        end_s = Fraction(0)
        try:
            for packet in container.demux(self._stream):
                if packet.pts is not None:
                    end_s = max(end_s, (packet.pts + (packet.duration or 0)) * packet.time_base)
                yield packet
        except av.error.InvalidDataError as error:
            log.warning("%s: damaged after %.3f s (%s), the rest is lost", path, end_s, error.strerror)
            flush: Any = Packet()
            flush.stream = self._stream
            yield flush
            return
        promised_s = _promised_end_s(container, self._stream)
        if end_s and promised_s is not None and promised_s - end_s > CUT_OFF_S:
            log.warning("%s: cut off: ends after %.3f s of %.3f s", path, end_s, promised_s)

    def _stamped(self, pictures: Iterator[RawFrame], first: RawFrame) -> Iterator[RawFrame]:
        """The pictures with stamps of the file, or, if it has none, counted at the rate given."""
        path, fps = self._options.path, self._options.fps
        if first.pts is not None:
            if fps is not None:
                raise SourceError(f"{path}: fps {fps:g} given, but the file has time stamps of its own")
            return pictures
        if fps is None:
            raise SourceError(f"{path}: has no time stamps; give its rate with fps")
        period = 1 / Fraction(fps).limit_denominator(MAX_RATE_DENOMINATOR)
        return (replace(picture, pts=i, time_base=period) for i, picture in enumerate(pictures))

    def _cut(self, origin: RawFrame, pictures: Iterator[RawFrame]) -> Iterator[RawFrame]:
        """The pictures between start and end."""
        start_s, end_s = self._options.start_s, self._options.end_s
        origin_s = seconds(origin) or Fraction(0)
        if start_s is not None:
            begin = origin_s + Fraction(start_s) - STAMP_ROUNDING
            if origin.pts is not None and start_s > 0:
                pictures = self._seek(begin, pictures)
            pictures = dropwhile(lambda picture: _before(picture, begin), pictures)
        if end_s is not None:
            end = origin_s + Fraction(end_s) - STAMP_ROUNDING
            pictures = takewhile(lambda picture: _before(picture, end), pictures)
        return pictures

    def _seek(self, begin: Fraction, pictures: Iterator[RawFrame]) -> Iterator[RawFrame]:
        """Pictures from somewhere at or before `begin`: a key frame near it, or else all of them."""
        assert self._container is not None
        assert self._stream.time_base is not None
        try:
            self._container.seek(int(begin / self._stream.time_base), stream=self._stream)
        except av.error.FFmpegError:
            return pictures
        sought = self._decode(self._container)
        key = next(sought, None)
        if key is not None and _before(key, begin + STAMP_ROUNDING):
            return chain([key], sought)
        # Without an index a seek may land too late.
        return self._play()

    def _info(self, first: RawFrame) -> SourceInfo:
        stream = self._stream
        fps = self._options.fps or float(stream.average_rate or stream.guessed_rate or 0)
        return SourceInfo(
            width=first.image.shape[1],
            height=first.image.shape[0],
            fps=fps,
            frame_count=self._frame_count(fps),
            time_base=first.time_base,
            pixel_format=stream.pix_fmt or "",
            codec=stream.codec.name,
            detail="hardware" if stream.codec_context.is_hwaccel else "",
        )

    def _frame_count(self, fps: float) -> int | None:
        """How many pictures are to be expected; an estimate unless the whole of an indexed file is read."""
        options = self._options
        if options.start_s is None and options.end_s is None and self._stream.frames:
            return self._stream.frames
        assert self._container is not None
        duration_s = _duration_s(self._container)
        if duration_s is None or not fps:
            return None
        end_s = min(duration_s, options.end_s or duration_s)
        return max(1, round((end_s - (options.start_s or 0)) * fps))


def _promised_end_s(container: InputContainer, stream: VideoStream) -> float | None:
    """When the video should end, by the file's own account; None when it has none."""
    if stream.duration is not None and stream.time_base is not None:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    duration_s = _duration_s(container)
    if duration_s is not None and len(container.streams) == 1:
        return (container.start_time or 0) / av.time_base + duration_s
    return None


def _duration_s(container: InputContainer) -> float | None:
    """From the first picture to the end, by the file's own account; None when it has none."""
    if container.duration is None:
        return None
    # Matroska counts from 0, not from the first picture.
    unused = (container.start_time or 0) if "matroska" in container.format.name else 0
    return (container.duration - unused) / av.time_base


def _before(picture: RawFrame, limit: Fraction) -> bool:
    time = seconds(picture)
    return time is not None and time < limit


def open_video_file(path: Path, *, hardware: Hardware = "none") -> InputContainer:
    """Open a video file. Raises SourceError that says what is wrong with it."""
    try:
        if path.is_dir():
            raise SourceError(f"{path}: is a folder; pictures in a folder are a source of kind 'images'")
        if path.stat().st_size == 0:
            raise SourceError(f"{path}: is empty (0 bytes)")
        return av.open(str(path), "r", hwaccel=find_accelerator(hardware))
    except FileNotFoundError as error:
        if path.is_symlink():
            raise SourceError(f"{path}: links to {path.readlink()}, which is not there") from error
        raise SourceError(f"{path}: no such file{_near_name(path)}") from error
    except PermissionError as error:
        raise SourceError(f"{path}: may not be read (permission denied)") from error
    except (av.error.FFmpegError, OSError) as error:
        if _is_mp4_without_index(path):
            raise SourceError(
                f"{path}: truncated: this MP4 has no index (moov box), its recording was cut off; "
                "record to Matroska or fragmented MP4, which survive that"
            ) from error
        raise SourceError(f"{path}: not a video file that can be read ({error.strerror})") from error


def _near_name(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (nor a folder {path.parent})"
    near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _is_mp4_without_index(path: Path) -> bool:
    """Whether the top-level boxes of the file are those of an MP4 that was never finished."""
    kinds = set()
    with path.open("rb") as file:
        end = path.stat().st_size
        position = 0
        while position + MP4_BOX_HEADER <= end:
            file.seek(position)
            size, kind = struct.unpack(">I4s", file.read(MP4_BOX_HEADER))
            kinds.add(kind)
            if size == 1:  # the size is a 64-bit number after the kind
                size = int.from_bytes(file.read(8), "big")
            if size < MP4_BOX_HEADER:  # to the end of the file
                break
            position += size
    return bool(kinds & MP4_HEAD_BOXES) and not kinds & MP4_INDEX_BOXES
