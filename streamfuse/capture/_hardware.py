"""Decoding on a video engine, and doing without when there is none."""

import logging
from functools import lru_cache
from typing import Literal

import av.error
from av.codec import Codec
from av.codec.hwaccel import HWAccel, hwdevices_available

log = logging.getLogger(__name__)

Hardware = Literal["none", "auto", "cuda", "vaapi", "qsv", "videotoolbox", "d3d11va", "vulkan"]

_PREFERENCE: tuple[Hardware, ...] = ("cuda", "videotoolbox", "d3d11va", "vaapi", "qsv")
"""For `auto`: the engines that decode most codecs and fail least come first."""
_TRIAL_CODEC = "h264"
"""Every video engine decodes it, so what fails on it is the device."""


def find_accelerator(hardware: Hardware) -> HWAccel | None:
    """The engine asked for, or None to decode in software; why not is logged once."""
    if hardware == "none":
        return None
    candidates = _PREFERENCE if hardware == "auto" else (hardware,)
    for kind in candidates:
        if not _reason_against(kind):
            return HWAccel(kind, allow_software_fallback=True)
    _log_fallback(hardware)
    return None


@lru_cache
def _reason_against(kind: str) -> str:
    """Why this engine cannot be used on this machine; empty when it can."""
    if kind not in hwdevices_available():
        return "not in this build of FFmpeg"
    try:
        HWAccel(kind).create(Codec(_TRIAL_CODEC, "r"))
    except (av.error.FFmpegError, NotImplementedError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


@lru_cache
def _log_fallback(hardware: Hardware) -> None:
    candidates = _PREFERENCE if hardware == "auto" else (hardware,)
    reasons = "; ".join(f"{kind}: {_reason_against(kind)}" for kind in candidates)
    level = logging.INFO if hardware == "auto" else logging.WARNING
    log.log(level, "decoding in software, no hardware decoder works here (%s)", reasons)
