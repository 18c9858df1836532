"""Noise taken out of fused pictures in time: what hardly differs from the one before goes half of the way.

Both sources' noise is in a fused picture, once more wherever the choice between them changes.
"""

import cv2
import numpy as np

from streamfuse.frame import Image8

NOISE = 3
"""Grey levels. A pixel that changes by up to so much from frame to frame is noise, or too little to be
missed: it takes the mean of both. Being off by half of it cannot be seen, its flicker can."""


class Calm:
    """Of one stream of pictures."""

    def __init__(self) -> None:
        self._before: Image8 | None = None

    def reset(self) -> None:
        """The next picture stays as it is."""
        self._before = None

    def __call__(self, fused: Image8) -> Image8:
        """The picture to show, uint8 (H, W), `fused` itself or written into it."""
        before = self._before
        if before is not None and before.shape == fused.shape:
            alike = cv2.threshold(cv2.absdiff(fused, before), NOISE, 255, cv2.THRESH_BINARY_INV)[1]
            mean = cv2.addWeighted(fused, 0.5, before, 0.5, 0)
            fused = np.asarray(cv2.copyTo(mean, alike, fused), np.uint8)
        self._before = fused.copy()
        return fused
