"""What is drawn over a picture on the screen: text that stays readable on anything."""

from collections.abc import Sequence

import cv2
import numpy as np

from streamfuse.frame import Image8, Status

MIN_WIDTH = 640
"""Smaller pictures are magnified before text is drawn: a 160x120 thermal view would have no room for it."""
REFERENCE_HEIGHT = 480
FONT = cv2.FONT_HERSHEY_SIMPLEX
FONT_SCALE = 0.5
"""At the reference height; letters grow with the picture."""
LINE_PX = 20
MARGIN_PX = 8
WHITE = (255, 255, 255)
COLOURS: dict[Status, tuple[int, int, int]] = {
    Status.OK: (96, 220, 96),
    Status.HELD: (0, 190, 255),
    Status.CALIBRATION: (0, 140, 255),
    Status.OFF: (80, 80, 255),
}
"""BGR, from all is well to no fusion at all."""


def canvas(image: Image8) -> Image8:
    """A picture of its own to draw on: uint8 (H, W, 3) RGB to BGR, at least 640 wide."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if bgr.shape[1] < MIN_WIDTH:
        factor = MIN_WIDTH / bgr.shape[1]
        bgr = cv2.resize(bgr, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    return np.asarray(bgr, np.uint8)


def blank(width: int = MIN_WIDTH, height: int = REFERENCE_HEIGHT) -> Image8:
    """Nothing yet."""
    return np.full((height, width, 3), 32, np.uint8)


def draw_lines(
    target: Image8, lines: Sequence[str], *, top: int = 0, colour: tuple[int, int, int] = WHITE
) -> None:
    """Write lines from the `top`-th one on, in place, on a darkened band.

    (An outline would be prettier, but from OpenCV 5 on the width of letters depends on their thickness.)
    """
    scale = target.shape[0] / REFERENCE_HEIGHT
    first, last = round(top * LINE_PX * scale), round((top + len(lines) + 0.5) * LINE_PX * scale)
    dim(target[first:last])
    for index, line in enumerate(lines, start=top + 1):
        origin = (round(MARGIN_PX * scale), round((index * LINE_PX - 2) * scale))
        thickness = max(1, round(scale))
        cv2.putText(target, line, origin, FONT, FONT_SCALE * scale, colour, thickness, cv2.LINE_AA)


def dim(target: Image8) -> None:
    """Darken a picture, or a part of it, in place, so that text can be read on it."""
    np.floor_divide(target, 3, out=target)
