"""The one colour transform: BT.601 full range (JPEG), Y = 0.299 R + 0.587 G + 0.114 B.

Fusion works on Y and keeps the visible chroma. Cb and Cr are (B - Y) and (R - Y) times a constant, so
replacing Y at constant Cb and Cr is the same as adding one grey difference to R, G and B: exact, without
ever rounding chroma to 8 bit, and the identity when Y does not change.
"""

import cv2
import numpy as np

from streamfuse.errors import DataError
from streamfuse.frame import Image8


def luma(rgb: Image8) -> Image8:
    """Luma of a picture, uint8 (H, W), 0..255, rounded to nearest.

    Args:
        rgb: uint8 (H, W, 3) RGB, or uint8 (H, W), which is returned as it is.

    Raises:
        DataError: any other shape or type.
    """
    if rgb.dtype == np.uint8:
        if rgb.ndim == 2:
            return rgb
        if rgb.ndim == 3 and rgb.shape[2] == 3:
            return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    raise DataError(f"luma needs uint8 (H, W, 3) RGB or (H, W), got {rgb.dtype} {rgb.shape}")


def replace_luma(rgb: Image8, y: Image8, *, old: Image8 | None = None) -> Image8:
    """The picture `rgb` with luma `y` and its own Cb and Cr, uint8 (H, W, 3) RGB.

    Colours that leave the RGB cube are pulled towards grey just far enough to fit: luma and hue stay,
    saturation gives way. (Clipping the channels one by one would shift all three.)

    Args:
        rgb: uint8 (H, W, 3) RGB, or uint8 (H, W) taken as grey.
        y: uint8 (H, W).
        old: `luma(rgb)`, where it is known.

    Raises:
        DataError: shapes or types do not fit.
    """
    if y.dtype != np.uint8 or y.ndim != 2 or y.shape != rgb.shape[:2]:
        raise DataError(f"replace_luma needs luma uint8 {rgb.shape[:2]}, got {y.dtype} {y.shape}")
    if rgb.ndim == 2:
        return np.asarray(cv2.cvtColor(y, cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    if old is None:
        old = luma(rgb)
    # One of the two is zero at every pixel: together they are the signed difference in saturating uint8.
    up = cv2.cvtColor(cv2.subtract(y, old), cv2.COLOR_GRAY2RGB)
    down = cv2.cvtColor(cv2.subtract(old, y), cv2.COLOR_GRAY2RGB)
    out: Image8 = np.asarray(cv2.subtract(cv2.add(rgb, up), down), dtype=np.uint8)
    _desaturate_clipped(out, rgb, old, y)
    return out


def _desaturate_clipped(out: Image8, rgb: Image8, old: Image8, y: Image8) -> None:
    """Recompute in place the pixels of `out` whose luma the saturating sums have changed."""
    # A clip that moves luma by 1 only is not worth its cost: near-white skies are full of them.
    clipped = np.asarray(cv2.threshold(cv2.absdiff(luma(out), y), 1, 1, cv2.THRESH_BINARY)[1], np.uint8)
    at = np.flatnonzero(clipped.view(np.bool_))
    if not at.size:
        return
    target = y.ravel()[at].astype(np.float32)[:, None]
    chroma = rgb.reshape(-1, 3)[at].astype(np.float32) - old.ravel()[at].astype(np.float32)[:, None]
    room_up = (255.0 - target) / np.maximum(chroma.max(axis=1, keepdims=True), 1e-6)
    room_down = target / np.maximum(-chroma.min(axis=1, keepdims=True), 1e-6)
    scale = np.minimum(1.0, np.minimum(room_up, room_down))
    out.reshape(-1, 3)[at] = np.rint(target + scale * chroma).astype(np.uint8)
