"""Video files: one encoded stream, the source's own timing, readable after a kill.

Plain MP4 cannot be opened at all when its writer died; Matroska clusters and MP4 fragments can. Both are
closed every half second here and handed to the operating system at once, so a killed process costs less than
a second of picture. MP4 keeps presentation stamps to the tick of the source; Matroska has a tick of 1 ms.
"""

import errno
import logging
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import av
from pydantic import Field, model_validator

from streamfuse.clock import Clock
from streamfuse.errors import SinkError
from streamfuse.frame import FusedFrame, Image8
from streamfuse.outputs import OpenOutput, check_writable
from streamfuse.registry import Options
from streamfuse.sinks.audio_copy import AudioCopy
from streamfuse.sinks.colormap import Colormap
from streamfuse.sinks.media_time import MediaTime, has_media_time
from streamfuse.sinks.video_encoder import (
    DEFAULT_PRESET,
    DEFAULT_QUALITY,
    Codec,
    EncoderSettings,
    PixelConverter,
    Preset,
    available,
    configure,
    encoder_name,
)
from streamfuse.sinks.views import OVERLAY_COLORMAP, View, render
from streamfuse.spans import span

logger = logging.getLogger(__name__)

FLUSH_MS = 500
"""A cluster or fragment is complete, and safe from a kill, after this much media time."""
MKV_TIME_BASE = Fraction(1, 1000)
"""Matroska's default tick; players agree on no other."""
CONTAINERS: dict[str, dict[str, str]] = {
    ".mkv": {"cluster_time_limit": str(FLUSH_MS)},
    ".mp4": {
        "movflags": "frag_keyframe+empty_moov+default_base_moof+frag_discont",
        # without these two the muxer moves the first picture to 0
        "avoid_negative_ts": "make_non_negative",
        "frag_duration": str(FLUSH_MS * 1000),
    },
}


class VideoFileOptions(Options):
    """Options of the `file` sink."""

    path: Path = Field(description="output; .mkv or .mp4 (fragmented), .mkv when there is no suffix")
    codec: Codec = Field("h264", description="*_nvenc falls back to software; ffv1 is lossless")
    quality: Annotated[int, Field(ge=0, le=51)] | None = Field(
        None, description=f"constant quality, lower is better; null: {DEFAULT_QUALITY}"
    )
    preset: Preset | None = Field(None, description=f"speed against size; null: {DEFAULT_PRESET}")
    picture: View = Field("fused", description="which picture of the frame is written")
    colormap: Colormap = Field(OVERLAY_COLORMAP, description="of the infrared in the overlay")
    fps: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None,
        description="nominal rate for players and rate control, null: that of the source; frames keep their "
        "own times",
    )
    audio_from: Path | None = Field(None, description="the visible clip, to copy its sound")
    segment_s: Annotated[float, Field(gt=0)] | None = Field(
        None, description="start a new numbered file after this many seconds"
    )
    if_exists: Literal["overwrite", "refuse", "number"] = Field(
        "overwrite", description="an output of that name: overwrite, refuse, or write NAME_0001, _0002, ..."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        suffix = self.path.suffix.lower()
        if suffix and suffix not in CONTAINERS:
            raise ValueError(f"path: {suffix} cannot be written; use .mkv or .mp4")
        if self.codec == "ffv1":
            if suffix == ".mp4":
                raise ValueError("codec ffv1 needs an .mkv path: MP4 cannot hold it")
            if self.quality is not None or self.preset is not None:
                raise ValueError("codec ffv1 is lossless: quality and preset do not apply")
        return self


class VideoFileSink:
    """Writes frames to a video file, or to a row of files (`segment_s`, changes of picture size)."""

    Options: ClassVar[type[VideoFileOptions]] = VideoFileOptions

    def __init__(self, options: VideoFileOptions, *, clock: Clock) -> None:
        path = options.path
        self._options = options
        self._path = path if path.suffix else path.with_name(path.name + ".mkv")
        self._settings = EncoderSettings(
            codec=options.codec,
            quality=DEFAULT_QUALITY if options.quality is None else options.quality,
            preset=options.preset or DEFAULT_PRESET,
            fps=options.fps,
        )
        self._time = MediaTime()
        self._audio: AudioCopy | None = None
        self._segment: _Segment | None = None
        self._index = 0
        self._opened = False
        self._failure: str | None = None

    def expect_rate(self, fps: float) -> None:
        """The nominal rate, unless the options name one."""
        if self._settings.fps is None:
            self._settings = replace(self._settings, fps=fps)

    def open(self) -> None:
        """Check that the output can be created and the audio clip read. Raises SinkError."""
        if self._opened:
            return
        self._index = self._first_index()
        check_writable(self._segment_path())
        source = self._options.audio_from
        if source is not None:
            if self._path.exists() and source.exists() and self._path.samefile(source):
                raise SinkError(f"{self._path}: the output is the clip its sound would be copied from")
            self._audio = AudioCopy(source)
            if not self._audio.present:
                logger.warning("%s has no sound: %s is written without", source, self._path)
                self._audio = None
        self._opened = True

    def write(self, frame: FusedFrame) -> None:
        """Encode and write one frame. Raises SinkError; what was written before stays readable."""
        if self._failure is not None:
            raise SinkError(self._failure)
        self.open()
        try:
            self._write(frame)
        except (av.FFmpegError, OSError, ValueError, SinkError) as error:
            self._failure = self._describe(error)
            segment, self._segment = self._segment, None
            if segment is not None:
                segment.abandon()
            self.close()
            raise SinkError(self._failure) from error

    def close(self) -> None:
        """Finish the file. Raises SinkError when the last pictures cannot be written."""
        segment, self._segment = self._segment, None
        try:
            if segment is not None:
                segment.close()
        except (av.FFmpegError, OSError, ValueError) as error:
            self._failure = self._describe(error)
            raise SinkError(self._failure) from error
        finally:
            # opening again would overwrite what was just finished
            self._failure = self._failure or f"{self._path}: was closed"
            if self._audio is not None:
                self._audio.close()
                self._audio = None

    def _write(self, frame: FusedFrame) -> None:
        image = render(frame, self._options.picture, colormap=self._options.colormap)
        seconds = self._time.seconds(frame)
        if self._segment is not None and self._segment_ends(self._segment, image, seconds):
            self._segment.close()
            self._segment = None
            self._index += 1
        if self._segment is None:
            if self._audio is not None and not has_media_time(frame):
                raise SinkError("audio_from needs a visible clip with presentation stamps, not a live source")
            path = self._segment_path()
            height, width = image.shape[:2]
            tick = MKV_TIME_BASE if path.suffix.lower() == ".mkv" else MediaTime.time_base(frame)
            self._settings = available(self._settings, width=width, height=height)
            self._segment = _Segment(
                path,
                self._settings,
                width=width,
                height=height,
                time_base=tick,
                start=seconds,
                audio=self._audio,
            )
        self._segment.write(image, seconds)

    def _segment_ends(self, segment: "_Segment", image: Image8, seconds: Fraction) -> bool:
        limit = self._options.segment_s
        return segment.shape != image.shape or (limit is not None and seconds - segment.start >= limit)

    def _segment_path(self) -> Path:
        if self._options.segment_s is None and self._index == 0:
            return self._path
        return self._path.with_stem(f"{self._path.stem}_{self._index:04d}")

    def _first_index(self) -> int:
        """The number of the first file; refuses or steps over files that exist, as asked."""
        rotates = self._options.segment_s is not None
        taken = sorted(self._path.parent.glob(f"{_glob_escape(self._path.stem)}_[0-9][0-9][0-9][0-9]*"))
        taken = [p for p in taken if p.suffix == self._path.suffix]
        first = taken[0] if rotates and taken else self._path
        if self._options.if_exists == "overwrite" or not (first.exists() or taken):
            return 0
        if self._options.if_exists == "refuse":
            raise SinkError(f"{first} exists; remove it, or set if_exists to overwrite or number")
        numbers = [int(p.stem[-4:]) for p in taken]
        return max(numbers, default=0) + 1

    def _describe(self, error: Exception) -> str:
        if isinstance(error, SinkError):
            return str(error)
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        kept = "; what was written so far is kept and playable" if full else ""
        return f"{self._segment_path()}: writing failed: {what}{kept}"


class _Segment:
    """One output file, from its first picture to its last."""

    def __init__(
        self,
        path: Path,
        settings: EncoderSettings,
        *,
        width: int,
        height: int,
        time_base: Fraction,
        start: Fraction,
        audio: AudioCopy | None,
    ) -> None:
        self.start = start
        self.shape = (height, width, 3)
        self._time_base = time_base
        self._audio = audio
        self._converter = PixelConverter(settings.codec, width=width, height=height)
        self._last_tick: int | None = None
        self._frame_s = Fraction(1 / (settings.fps or 30)).limit_denominator(1_000_000)
        options = {"flush_packets": "1", "max_interleave_delta": str(FLUSH_MS * 1000)}
        self._output: Any = av.open(f"file:{path}", "w", options=options | CONTAINERS[path.suffix.lower()])
        self._stream: Any = self._output.add_stream(encoder_name(settings.codec))
        configure(self._stream.codec_context, settings, width=width, height=height, time_base=time_base)
        self._stream.time_base = time_base
        if path.suffix.lower() == ".mp4" and encoder_name(settings.codec) == "libx265":
            self._stream.codec_context.codec_tag = "hvc1"
        if audio is not None:
            audio.attach(self._output, start=start)
        # now, because FFmpeg crashes when packets follow a header that could not be written
        try:
            self._output.start_encoding()
            self._presence = OpenOutput(path)
        except (av.FFmpegError, ValueError) as error:
            sound = f" with {audio.codec} sound (.mkv holds any)" if audio is not None else ""
            raise SinkError(f"{path}: cannot start {self._stream.name} video{sound}: {error}") from error

    def write(self, image: Image8, seconds: Fraction) -> None:
        self._presence.check()
        tick = round(seconds / self._time_base)
        if self._last_tick is not None:
            tick = max(tick, self._last_tick + 1)
            self._frame_s = (tick - self._last_tick) * self._time_base
        self._last_tick = tick
        with span("to_yuv"):
            frame = self._converter.convert(image)
        frame.pts, frame.time_base = tick, self._time_base
        frame.duration = max(1, round(self._frame_s / self._time_base))
        if self._audio is not None:
            self._audio.mux(self._output, until=seconds)
        with span("encode"):
            packets = self._stream.encode(frame)
        with span("write"):
            self._output.mux(packets)

    def close(self) -> None:
        """Write what is left and the file's end."""
        try:
            if self._last_tick is not None:
                if self._audio is not None:
                    end = self._last_tick * self._time_base + self._frame_s
                    self._audio.mux(self._output, until=end)
                self._output.mux(self._stream.encode(None))
            self._presence.check()
        finally:
            self._presence.close()
            self._output.close()

    def abandon(self) -> None:
        """Let go of a file that cannot be finished, keeping what it holds."""
        self._presence.close()
        try:
            self._output.close()
        except (av.FFmpegError, OSError) as error:
            logger.debug("closing after a failure: %s", error)


def _glob_escape(stem: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in stem)
