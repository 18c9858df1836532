"""Colour maps for looking at infrared."""

from functools import cache
from typing import Literal, get_args

import cv2
import numpy as np

from streamfuse.errors import ConfigError
from streamfuse.frame import Image8

Colormap = Literal["white_hot", "black_hot", "inferno", "hot", "rainbow", "turbo"]
COLORMAPS: tuple[Colormap, ...] = get_args(Colormap)

_OPENCV_MAPS = {
    "inferno": cv2.COLORMAP_INFERNO,
    "hot": cv2.COLORMAP_HOT,
    "rainbow": cv2.COLORMAP_JET,
    "turbo": cv2.COLORMAP_TURBO,
}


@cache
def _table(name: Colormap) -> Image8:
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    if name == "black_hot":
        ramp = 255 - ramp
    if name in _OPENCV_MAPS:
        bgr = cv2.applyColorMap(ramp, _OPENCV_MAPS[name])
        table = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    else:
        table = cv2.cvtColor(ramp, cv2.COLOR_GRAY2RGB)
    return np.asarray(table.reshape(1, 256, 3), dtype=np.uint8)


def apply_colormap(image: Image8, name: Colormap) -> Image8:
    """Infrared in colour: uint8 (H, W), bright is hot, to uint8 (H, W, 3) RGB.

    Raises:
        ConfigError: there is no such map.
    """
    if name not in COLORMAPS:
        raise ConfigError(f"colour map {name!r}: must be one of {', '.join(COLORMAPS)}")
    return np.asarray(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), _table(name)), dtype=np.uint8)
