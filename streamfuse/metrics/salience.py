"""What a fused picture is made for: warm things stand out, and texture that only the visible has is there.

Both are shares of what the better source has: 1 is as much, 0 is nothing, above 1 is more.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.errors import DataError
from streamfuse.metrics.picture import Grey, Picture, pictures, remembered

SURROUND_SIGMA = 24.0
"""Pixels of the Gaussian that things are compared with when nobody has marked them: above their size."""
EXCESS = 25.0
"""Grey levels above its surround from which infrared counts as a warm thing."""
GAP, RING = 3, 12
"""Pixels around a thing that belong to neither it nor its surround (blur, registration), and the width of
the surround."""
LEAST_PIXELS = 20
"""Fewer pixels, or less than EXCESS / 2 between thing and surround, are no thing to judge."""

TEXTURE_SIGMA = 3.0
TEXTURED = 2.5
"""Mean gradient of the visible, grey levels a pixel, from which a place is textured."""
FLAT = 0.4
"""Share of it that the infrared stays below where only the visible is textured."""

Floats = npt.NDArray[np.float32]


@remembered
def _values(picture: Picture) -> Floats:
    return picture.pixels.astype(np.float32)


@remembered
def _gradient(picture: Picture) -> Floats:
    """Sobel magnitude, grey levels a pixel, float32 (H, W)."""
    x, y = (cv2.Sobel(_values(picture), cv2.CV_32F, *d, scale=1 / 8) for d in ((1, 0), (0, 1)))
    return np.asarray(cv2.magnitude(x, y), np.float32)


@remembered
def _warm(ir: Picture) -> npt.NDArray[np.bool_]:
    grey = _values(ir)
    return np.asarray(grey - cv2.GaussianBlur(grey, (0, 0), SURROUND_SIGMA) > EXCESS)


def warm_contrast(ir: Grey, vis: Grey, fused: Grey, *, marked: npt.NDArray[Any] | None = None) -> float:
    """Contrast of warm things in the fused picture as a share of that in the infrared: the mean of the
    things less the mean of a ring around them. 1 when there are none.

    Args:
        ir, vis, fused: 8-bit grey (H, W).
        marked: (H, W), non-zero on the things; None: what the infrared shows clearly warmer than around.

    Raises:
        DataError: `marked` has another size.
    """
    a, _, f = pictures(ir, vis, fused)
    if marked is not None and marked.shape != f.shape:
        raise DataError(f"the marks are {marked.shape}, the pictures are {f.shape}")
    things = (_warm(a) if marked is None else marked > 0).astype(np.uint8)
    near, far = (cv2.dilate(things, np.ones((2 * r + 1,) * 2, np.uint8)) for r in (GAP, GAP + RING))
    inside, around = things > 0, (far > 0) & (near == 0)
    if min(np.count_nonzero(inside), np.count_nonzero(around)) < LEAST_PIXELS:
        return 1.0
    ours, theirs = (float(g[inside].mean() - g[around].mean()) for g in (_values(f), _values(a)))
    return ours / theirs if theirs > EXCESS / 2 else 1.0


def texture_kept(ir: Grey, vis: Grey, fused: Grey) -> float:
    """Gradient of the fused picture as a share of the visible's, over the places where the visible is
    textured and the infrared flat. 1 when there are none."""
    a, b, f = pictures(ir, vis, fused)
    texture, other = (cv2.GaussianBlur(_gradient(p), (0, 0), TEXTURE_SIGMA) for p in (b, a))
    there = (texture > TEXTURED) & (other < FLAT * texture)
    if np.count_nonzero(there) < LEAST_PIXELS:
        return 1.0
    return float(_gradient(f)[there].mean() / _gradient(b)[there].mean())
