"""Codecs: which encoder, with which settings, fed with which pixels and tagged with which colours.

Every frame leaves the encoder as it enters (no B-frames, no lookahead): a killed process loses nothing that
an encoder still held, and decode stamps equal presentation stamps.

RGB becomes limited-range YUV with the matrix that players fall back on when they ignore tags (BT.601 up to
576 lines, BT.709 above), and the tags say the same, so both kinds of player show the same colours. Primaries
and transfer are those of sRGB-like cameras (BT.709): the pixels are passed on, never converted. Odd sizes
are kept as they are by coding without chroma subsampling (4:4:4). FFV1 stores the RGB values themselves.
"""

import logging
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import av
import av.logging
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc, Interpolation, VideoReformatter

from streamfuse.frame import Image8

logger = logging.getLogger(__name__)

Codec = Literal["h264", "hevc", "ffv1", "h264_nvenc", "hevc_nvenc"]
Preset = Literal[
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"
]

DEFAULT_QUALITY = 20
"""CRF; visually near lossless for fused pictures at the default preset."""
DEFAULT_PRESET: Preset = "veryfast"
"""2.4 ms a frame at 640x480 on one core; slower ones gain little without lookahead."""
ENCODER_THREADS = 4
"""x264 and FFV1 cut pictures into one slice per thread: fixed, so that every machine writes the same."""
NOMINAL_FPS = 30.0
"""Assumed for rate control when the rate is unknown; frames keep their own times either way."""
KEYFRAME_S = 2.0
"""Seeking granularity against size."""
LAST_BT601_HEIGHT = 576
"""The tallest picture of standard definition television."""
NVENC_PRESETS: dict[Preset, str] = {
    "ultrafast": "p1",
    "superfast": "p1",
    "veryfast": "p2",
    "faster": "p3",
    "fast": "p4",
    "medium": "p4",
    "slow": "p5",
    "slower": "p6",
    "veryslow": "p7",
}
SOFTWARE: dict[Codec, Codec] = {"h264_nvenc": "h264", "hevc_nvenc": "hevc"}
"""What stands in for a hardware encoder that cannot be opened."""
ENCODERS: dict[Codec, str] = {"h264": "libx264", "hevc": "libx265"}
"""FFmpeg's name of the encoder where it is not that of the codec."""

RGB, BT709, SMPTE170M = 0, 1, 6
"""AVColorSpace values, as in H.273; SMPTE170M is BT.601. (PyAV's `Colorspace` holds swscale's numbers.)"""

_AREA = int(Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP)
"""Chroma is the mean of its 2x2 pixels, luma rounded to nearest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSettings:
    """What the user chose. quality: CRF or CQ, 0..51, lower is better. fps: nominal rate, None if unknown."""

    codec: Codec = "h264"
    quality: int = DEFAULT_QUALITY
    preset: Preset = DEFAULT_PRESET
    fps: float | None = None


def encoder_name(codec: Codec) -> str:
    """FFmpeg's name of the encoder for a codec."""
    return ENCODERS.get(codec, codec)


def pixel_format(codec: Codec, width: int, height: int) -> str:
    """FFmpeg's name of the pixel layout that is encoded."""
    if codec == "ffv1":
        return "bgr0"
    return "yuv444p" if width % 2 or height % 2 else "yuv420p"


def matrix(codec: Codec, height: int) -> int:
    """The AVColorSpace in which pictures of this height are stored."""
    if codec == "ffv1":
        return RGB
    return SMPTE170M if height <= LAST_BT601_HEIGHT else BT709


def configure(
    context: Any, settings: EncoderSettings, *, width: int, height: int, time_base: Fraction
) -> None:
    """Set up a codec context (or the output stream that owns it) that is not open yet."""
    codec = settings.codec
    fps = settings.fps or NOMINAL_FPS
    context.width, context.height = width, height
    context.pix_fmt = pixel_format(codec, width, height)
    context.time_base = time_base
    context.framerate = Fraction(settings.fps or 0).limit_denominator(1001)
    context.gop_size = 1 if codec == "ffv1" else max(1, round(fps * KEYFRAME_S))
    context.max_b_frames = 0
    context.thread_count = ENCODER_THREADS
    context.colorspace = matrix(codec, height)
    context.color_range = ColorRange.JPEG if codec == "ffv1" else ColorRange.MPEG
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.IEC61966_2_1 if codec == "ffv1" else ColorTrc.BT709
    context.options = _private_options(settings, fps) | _chroma_siting(context.pix_fmt)


def _private_options(settings: EncoderSettings, fps: float) -> dict[str, str]:
    quality, preset = str(settings.quality), settings.preset
    if settings.codec == "h264":
        return {"crf": quality, "preset": preset, "tune": "zerolatency", "x264-params": f"fps={fps}"}
    if settings.codec == "hevc":
        params = f"fps={fps}:log-level=none"
        return {"crf": quality, "preset": preset, "tune": "zerolatency", "x265-params": params}
    if settings.codec == "ffv1":
        return {"level": "3", "slices": str(ENCODER_THREADS), "slicecrc": "1"}
    return {
        "preset": NVENC_PRESETS[preset],
        "tune": "ll",
        "rc": "vbr",
        "cq": quality,
        "b": "0",
        "delay": "0",
        "zerolatency": "1",
    }


def _chroma_siting(pix_fmt: str) -> dict[str, str]:
    return {"chroma_sample_location": "center"} if pix_fmt == "yuv420p" else {}


def available(settings: EncoderSettings, *, width: int, height: int) -> EncoderSettings:
    """The settings, or those of the software encoder where a hardware encoder cannot be opened here."""
    software = SOFTWARE.get(settings.codec)
    if software is None:
        return settings
    reason = why_not(settings, width=width, height=height)
    if reason is None:
        return settings
    logger.warning(
        "%s cannot be used here (%s): encoding with %s", settings.codec, reason, encoder_name(software)
    )
    return replace(settings, codec=software)


def why_not(settings: EncoderSettings, *, width: int, height: int) -> str | None:
    """Why an encoder cannot be used here, None when it can: it is opened once, for its answer."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as lines:
            try:
                context: Any = av.CodecContext.create(settings.codec, "w")
                configure(context, settings, width=width, height=height, time_base=Fraction(1, 1000))
                context.open()
            except (av.FFmpegError, ValueError) as error:
                return lines[-1][2].strip() if lines else str(error)  # FFmpeg says why only in its log
    finally:
        av.logging.set_level(level)
    return None


class PixelConverter:
    """RGB pictures to the pixels of an encoder; keeps its scaler between frames."""

    def __init__(self, codec: Codec, *, width: int, height: int) -> None:
        self._format = pixel_format(codec, width, height)
        self._matrix = matrix(codec, height)
        self._reformatter = VideoReformatter()

    def convert(self, image: Image8) -> av.VideoFrame:
        """uint8 (H, W, 3) RGB to a video frame."""
        picture = av.VideoFrame.from_ndarray(image, format="rgb24")
        if self._matrix == RGB:
            return self._reformatter.reformat(picture, format=self._format)
        return self._reformatter.reformat(
            picture,
            format=self._format,
            src_colorspace=self._matrix,
            dst_colorspace=self._matrix,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            interpolation=_AREA,
        )
