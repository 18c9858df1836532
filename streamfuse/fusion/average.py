"""Weighted mean of the two pictures: the floor any other fuser has to beat."""

from typing import Annotated

import cv2
import numpy as np
from pydantic import Field

from streamfuse.frame import Image8, Mask
from streamfuse.fusion.overlap import prepare_infrared
from streamfuse.registry import Options


class AverageOptions(Options):
    """How much of each picture."""

    ir_weight: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="share of the infrared picture; the visible one has the rest"
    )


class AverageFuser:
    """fused = w ir + (1 - w) vis."""

    Options = AverageOptions

    def __init__(self, options: AverageOptions, *, device: str = "cpu") -> None:
        self._weight = options.ir_weight

    def fuse(self, ir: Image8, vis: Image8, *, valid: Mask | None = None) -> Image8:
        ir = prepare_infrared(ir, vis, valid)
        return np.asarray(cv2.addWeighted(ir, self._weight, vis, 1.0 - self._weight, 0.0), dtype=np.uint8)

    def reset(self) -> None:
        """Nothing is remembered."""
