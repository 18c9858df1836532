"""What every source that reads through PyAV shares: finding the stream, pictures out of packets."""

from collections import Counter
from fractions import Fraction
from typing import Any, Literal

import av
import av.error
import cv2
import numpy as np
from av.codec.context import Flags as CodecFlags
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter
from av.video.stream import VideoStream

from streamfuse.errors import SourceError
from streamfuse.frame import DropCause, Image8, Image16, RawFrame
from streamfuse.spans import span

SensorUnit = Literal["counts", "centikelvin"]

_GREY_16 = frozenset(f"gray{bits}{endian}" for bits in (9, 10, 12, 14, 16) for endian in ("le", "be"))
"""Single-channel formats of more than 8 bits: sensor counts, never rescaled."""
_STUDIO_TO_FULL = np.clip(np.round((np.arange(256) - 16) * 255 / 219), 0, 255).astype(np.uint8)
"""Luma of limited range, 16..235 (BT.601), to 0..255."""
_MATRIX_ENTRIES = 9


def find_video_stream(container: InputContainer, name: str) -> VideoStream:
    """The first moving-picture stream that can be decoded (cover art is none).

    Raises:
        SourceError: there is none; says what there is instead.
    """
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    others = ", ".join(stream.type for stream in container.streams)
    raise SourceError(f"{name}: holds no video, only {others or 'streams that nothing here can decode'}")


def seconds(picture: RawFrame) -> Fraction | None:
    """Exact presentation time, None when the picture carries none."""
    return None if picture.pts is None or picture.time_base is None else picture.pts * picture.time_base


class Orientation:
    """The rotation and mirroring a file asks a player for, made of whole quarter turns.

    Args:
        matrix: the 3 x 3 display matrix, row-major 16.16 fixed point: display = (x, y, 1) @ matrix.
    """

    def __init__(self, matrix: np.ndarray[Any, np.dtype[np.int32]]) -> None:
        a, b, c, d = (int(matrix[i]) for i in (0, 1, 3, 4))
        self.transposed = abs(b) + abs(c) > abs(a) + abs(d)
        mirror_x, mirror_y = (c < 0, b < 0) if self.transposed else (a < 0, d < 0)
        self._flip_code = {(True, True): -1, (True, False): 1, (False, True): 0}.get((mirror_x, mirror_y))

    @classmethod
    def of(cls, frame: VideoFrame) -> "Orientation | None":
        """The orientation of a decoded picture, None when it is to be shown as it is."""
        side_data: Any = frame.side_data
        for data in side_data:
            if data.type == SideDataType.DISPLAYMATRIX:
                found = cls(np.frombuffer(bytes(data), np.int32, count=_MATRIX_ENTRIES))
                return found if found.transposed or found._flip_code is not None else None
        return None

    def apply(self, image: Image8 | Image16) -> Image8 | Image16:
        if self.transposed:
            image = cv2.transpose(image)  # type: ignore[assignment]
        if self._flip_code is not None:
            image = cv2.flip(image, self._flip_code)  # type: ignore[assignment]
        return image


class PictureDecoder:
    """Turns the packets of one video stream into `RawFrame`s.

    A packet that cannot be decoded is skipped and counted in `drops`; a picture the decoder had to patch
    up is delivered with `corrupt` set.

    Args:
        stream: not decoded from yet.
        unit: what the values of a picture of more than 8 bits mean.
        live: give each picture out at once; without it, threads may hold some back.
        threads: decoder threads.
        drops: where lost pictures are counted.
    """

    def __init__(
        self,
        stream: VideoStream,
        *,
        unit: SensorUnit,
        live: bool,
        threads: int,
        drops: Counter[DropCause],
    ) -> None:
        context = stream.codec_context
        context.copy_opaque = True
        context.thread_count = threads
        # Frame threads hold back one picture per thread.
        context.thread_type = "SLICE" if live else "AUTO"
        if live:
            context.flags |= CodecFlags.low_delay
        self._stream = stream
        self._unit = unit
        self._drops = drops
        # One scaler for each source: the frame's own makes a new context for every picture.
        self._reformatter = VideoReformatter()
        self._orientation: Orientation | None = None
        self._started = False

    def decode(
        self, packet: "Packet[VideoStream]", *, t_arrival: int, hint: int | None = None
    ) -> list[RawFrame]:
        """The pictures a packet completes, none or several; the empty last packet flushes.

        Args:
            t_arrival, hint: of this packet; with B-frames the pictures that come out belong to earlier ones,
                and get the stamps of theirs.
        """
        stamps = (t_arrival, hint)
        packet.opaque = stamps
        try:
            with span("decode"):
                frames = packet.decode()
        except av.error.InvalidDataError:
            self._drops[DropCause.CORRUPT] += 1
            return []
        return [self._raw_frame(frame, frame.opaque or stamps) for frame in frames]

    def _raw_frame(self, frame: VideoFrame, stamps: Any) -> RawFrame:
        if not self._started:
            self._orientation = Orientation.of(frame)
            self._started = True
        with span("to_rgb"):
            image = self._image(frame)
        if self._orientation is not None:
            image = self._orientation.apply(image)
        t_arrival, hint = stamps
        return RawFrame(
            image=image,
            t_arrival=t_arrival,
            pts=frame.pts if frame.pts is not None else frame.dts,
            time_base=frame.time_base or self._stream.time_base,
            t_capture_hint=hint,
            unit="agc8" if image.dtype == np.uint8 else self._unit,
            corrupt=frame.is_corrupt,
        )

    def _image(self, frame: VideoFrame) -> Image8 | Image16:
        name = frame.format.name
        if name in _GREY_16:
            return np.ascontiguousarray(frame.to_ndarray(), dtype=np.uint16)
        if name == "gray":
            grey = np.ascontiguousarray(frame.to_ndarray(), dtype=np.uint8)
            # swscale takes any grey for full range, so it cannot be asked to stretch it.
            if frame.color_range == ColorRange.MPEG:
                grey = np.asarray(cv2.LUT(grey, _STUDIO_TO_FULL), dtype=np.uint8)
            return grey
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
        return np.ascontiguousarray(rgb.to_ndarray(), dtype=np.uint8)
