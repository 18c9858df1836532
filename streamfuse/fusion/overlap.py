"""What every fuser does first: make the infrared picture harmless where the sensor did not look."""

import cv2
import numpy as np

from streamfuse.errors import DataError
from streamfuse.frame import Image8, Mask

FEATHER_PX = 8
"""Width of the ramp from visible to fused inside the valid border: a hard seam draws the eye, a wide
one gives away infrared; 8 px hides a step of 60 grey levels at 640x480."""


EXTENSION_STEP = 8
EXTENSION_SIGMA = 3.0
"""A continuation of the infrared is computed on every 8th pixel from neighbours some 25 px away: what is
coarser than that goes on over the border, finer detail ends."""


def check_pictures(ir: Image8, vis: Image8, valid: Mask | None) -> None:
    """Raise DataError unless all are uint8 (H, W) of one size."""
    for name, image in (("infrared", ir), ("visible", vis), ("valid mask", valid)):
        if image is None:
            continue
        if image.dtype != np.uint8 or image.ndim != 2 or image.shape != vis.shape or image.size == 0:
            raise DataError(
                f"fusers take uint8 (H, W) pictures of one size; {name} is {image.dtype} {image.shape}, "
                f"visible is {vis.dtype} {vis.shape}"
            )


def prepare_infrared(ir: Image8, vis: Image8, valid: Mask | None) -> Image8:
    """The infrared picture with the visible luma in place of what `valid` excludes, uint8 (H, W).

    No value of `ir` outside `valid` has any influence, so that nothing can bleed in through a filter window.

    Args:
        ir: uint8 (H, W). vis: uint8 (H, W). valid: uint8 (H, W), non-zero where `ir` holds picture.

    Raises:
        DataError: shapes or types do not fit.
    """
    check_pictures(ir, vis, valid)
    covered = coverage(valid)
    return ir if covered is None else faded(ir, vis, covered)


def coverage(valid: Mask | None) -> Mask | None:
    """255 where the infrared holds picture and 0 elsewhere; None where it does everywhere."""
    if valid is None or cv2.countNonZero(valid) == valid.size:
        return None
    return np.asarray(cv2.threshold(valid, 0, 255, cv2.THRESH_BINARY)[1], np.uint8)


def faded(picture: Image8, vis: Image8, covered: Mask) -> Image8:
    """`picture` where it is `covered` (255, else 0), `vis` elsewhere, uint8 (H, W); the change-over is a ramp
    that lies wholly inside."""
    side = (2 * FEATHER_PX + 1, 2 * FEATHER_PX + 1)
    inner = cv2.erode(covered, np.ones(side, np.uint8))
    weight = cv2.blur(inner, side, borderType=cv2.BORDER_REPLICATE)
    inside = cv2.multiply(picture, weight, scale=1 / 255)
    outside = cv2.multiply(vis, cv2.bitwise_not(weight), scale=1 / 255)
    return np.asarray(cv2.add(inside, outside), dtype=np.uint8)


def extend_infrared(ir: Image8, covered: Mask) -> Image8:
    """The infrared picture continued smoothly to where it is not covered, uint8 (H, W).

    Neither a step at the border, as another picture in its place would make, nor any influence of what `ir`
    holds out there. covered: uint8 (H, W), 255 or 0.
    """
    height, width = ir.shape
    size = (max(1, width // EXTENSION_STEP), max(1, height // EXTENSION_STEP))
    inside = cv2.bitwise_and(ir, covered)
    total = np.asarray(cv2.resize(inside, size, interpolation=cv2.INTER_AREA), np.float32)
    share = np.asarray(cv2.resize(covered, size, interpolation=cv2.INTER_AREA), np.float32) / 255
    mean = float(total.sum()) / max(float(share.sum()), 1e-3)
    known = cv2.GaussianBlur(share, (0, 0), EXTENSION_SIGMA)
    # Out of reach of anything known it is the mean.
    smooth = (cv2.GaussianBlur(total, (0, 0), EXTENSION_SIGMA) + 1e-3 * mean) / (known + 1e-3)
    smooth = smooth.clip(0, 255).astype(np.uint8)
    out = cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.copyTo(ir, covered, out), dtype=np.uint8)
