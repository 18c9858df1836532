"""The brighter of the two pictures at every pixel: crude, and hard to beat on full-reference scores."""

import cv2
import numpy as np

from streamfuse.frame import Image8, Mask
from streamfuse.fusion.overlap import prepare_infrared
from streamfuse.registry import Options


class MaximumOptions(Options):
    """There is nothing to choose."""


class MaximumFuser:
    """fused = max(ir, vis)."""

    Options = MaximumOptions

    def __init__(self, options: MaximumOptions, *, device: str = "cpu") -> None:
        pass

    def fuse(self, ir: Image8, vis: Image8, *, valid: Mask | None = None) -> Image8:
        return np.asarray(cv2.max(prepare_infrared(ir, vis, valid), vis), dtype=np.uint8)

    def reset(self) -> None:
        """Nothing is remembered."""
