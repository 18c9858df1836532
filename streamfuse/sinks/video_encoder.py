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
import cv2
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc

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

LUMA_WEIGHTS = {SMPTE170M: (0.299, 0.114), BT709: (0.2126, 0.0722)}
"""Shares of red and blue in luma."""


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
    """RGB pictures to the pixels of an encoder, rounded to nearest; chroma is the mean of its 2x2 pixels.

    One matrix product and one resize of OpenCV take a quarter of the time of swscale's exact path.
    """

    def __init__(self, codec: Codec, *, width: int, height: int) -> None:
        self._format = pixel_format(codec, width, height)
        self._matrix = matrix(codec, height)
        self._rgb_to_yuv = None if self._matrix == RGB else limited_range(*LUMA_WEIGHTS[self._matrix])

    def convert(self, image: Image8) -> av.VideoFrame:
        """uint8 (H, W, 3) RGB to a video frame."""
        if self._rgb_to_yuv is None:
            return av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=self._format)
        yuv = np.asarray(cv2.transform(image, self._rgb_to_yuv), np.uint8)
        if self._format == "yuv444p":
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(yuv.transpose(2, 0, 1)), format="yuv444p")
        else:
            frame = av.VideoFrame.from_numpy_buffer(_subsample(yuv), format="yuv420p")
        frame.colorspace, frame.color_range = self._matrix, ColorRange.MPEG
        return frame


def limited_range(kr: float, kb: float) -> npt.NDArray[np.float64]:
    """Full-range RGB to limited-range Y'CbCr of 8 bits, (3, 4); BT.601 section 2.5, BT.709 section 3."""
    luma = np.array([kr, 1 - kr - kb, kb])
    blue, red = np.array([0, 0, 1]) - luma, np.array([1, 0, 0]) - luma
    rows = [luma * 219 / 255, blue / (2 * (1 - kb)) * 224 / 255, red / (2 * (1 - kr)) * 224 / 255]
    return np.column_stack([rows, [16, 128, 128]])


def _subsample(yuv: Image8) -> Image8:
    """uint8 (H, W, 3) to planes of 4:2:0 as one array (3 H / 2, W); H and W are even."""
    height, width = yuv.shape[:2]
    planes = np.empty((height * 3 // 2, width), np.uint8)
    cv2.extractChannel(yuv, 0, planes[:height])
    half = cv2.resize(yuv, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    chroma = planes[height:].reshape(2, height // 2, width // 2)
    cv2.extractChannel(half, 1, chroma[0])
    cv2.extractChannel(half, 2, chroma[1])
    return planes
