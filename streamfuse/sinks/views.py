"""Ways to look at a fused frame: one picture made from what the frame carries."""

from functools import lru_cache
from typing import Literal

import cv2
import numpy as np

from streamfuse.frame import FusedFrame, Image8, Mask
from streamfuse.sinks.colormap import Colormap, apply_colormap

View = Literal["fused", "visible", "registered_ir", "side_by_side", "overlay", "checkerboard"]

OVERLAY_WEIGHT = 0.5
"""Share of the thermal colours in the overlay: both pictures stay readable."""
CHECKER_CELLS = 8
"""Fields along the longer side: few enough to see structure in a field, many enough to see edges cross."""
OVERLAY_COLORMAP: Colormap = "inferno"
"""Dark is cold, perceptually even."""


def render(frame: FusedFrame, view: View, *, colormap: Colormap = OVERLAY_COLORMAP) -> Image8:
    """The picture of one view.

    fused, visible: as they are. registered_ir: grey. side_by_side: visible, registered infrared and
    fused next to each other, three times as wide. overlay: thermal colours over the visible picture where
    there is infrared. checkerboard: visible and registered infrared in turn.

    Args:
        colormap: of the infrared in the overlay.

    Returns:
        uint8 (H, W, 3) RGB, C-contiguous; for `fused` and `visible` the frame's own array, not a copy.
    """
    if view == "fused":
        return frame.image
    if view == "visible":
        return frame.visible
    if view == "overlay":
        return _overlay(frame.visible, apply_colormap(frame.registered_ir, colormap), frame.valid)
    infrared: Image8 = np.asarray(cv2.cvtColor(frame.registered_ir, cv2.COLOR_GRAY2RGB), np.uint8)
    if view == "registered_ir":
        return infrared
    if view == "side_by_side":
        return np.hstack([frame.visible, infrared, frame.image])
    checkers = _checkers(*frame.registered_ir.shape)
    return np.asarray(cv2.copyTo(infrared, checkers, frame.visible.copy()), np.uint8)


def _overlay(visible: Image8, colours: Image8, valid: Mask) -> Image8:
    blend = cv2.addWeighted(visible, 1 - OVERLAY_WEIGHT, colours, OVERLAY_WEIGHT, 0)
    return np.asarray(cv2.copyTo(blend, valid, visible.copy()), np.uint8)


@lru_cache(maxsize=4)
def _checkers(height: int, width: int) -> Mask:
    cell = -(-max(height, width) // CHECKER_CELLS)
    rows, columns = np.arange(height) // cell, np.arange(width) // cell
    mask: Mask = ((rows[:, None] + columns[None, :]) % 2 * 255).astype(np.uint8)
    mask.flags.writeable = False
    return mask
