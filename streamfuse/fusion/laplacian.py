"""Laplacian pyramid fusion (Burt and Adelson 1983; Burt and Kolczynski 1993).

Each band keeps, pixel by pixel, the source that is more active there; the coarsest band is blended by
how far each source departs from its own mean, so that a hot person stays bright and a lit street stays
lit. All in saturating 8 and 16 bit integers: fast, and exactly the identity on equal pictures.
"""

from typing import Annotated, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from streamfuse.frame import Image8, Mask
from streamfuse.fusion.overlap import prepare_infrared
from streamfuse.registry import Options

Band = npt.NDArray[np.int16]

MIN_BAND_SIDE = 4
"""Pyramids stop before a band gets smaller: below this all of it is border."""
LOW_BAND_FLOOR = 2.0
"""Grey levels added to both saliencies of the coarsest band: where both are flat it becomes the mean."""


class LaplacianOptions(Options):
    """Depth of the pyramid and the two selection rules."""

    levels: Annotated[int, Field(ge=1, le=8)] = Field(
        5, description="detail bands; fewer when the picture is small"
    )
    select: Literal["activity", "max_abs"] = Field(
        "activity", description="max_abs: larger coefficient; activity: larger local mean of coefficients"
    )
    window: Annotated[int, Field(ge=3, le=15)] = Field(
        5, description="side of the activity window, in pixels of its band"
    )
    low_band: Literal["saliency", "average"] = Field(
        "saliency", description="coarsest band: weighted by departure from the mean, or plain mean"
    )


class LaplacianFuser:
    """Select in every band, blend the rest, add up."""

    Options = LaplacianOptions

    def __init__(self, options: LaplacianOptions, *, device: str = "cpu") -> None:
        self._options = options

    def fuse(self, ir: Image8, vis: Image8, *, valid: Mask | None = None) -> Image8:
        ir = prepare_infrared(ir, vis, valid)
        bands: list[tuple[Band, Band]] = []
        for _ in range(self._options.levels):
            if min(ir.shape) < 2 * MIN_BAND_SIDE:
                break
            ir_low, ir_detail = _split(ir)
            vis_low, vis_detail = _split(vis)
            bands.append((ir_detail, vis_detail))
            ir, vis = ir_low, vis_low
        fused: Band = self._fuse_low(ir, vis).astype(np.int16)
        for ir_detail, vis_detail in reversed(bands):
            height, width = vis_detail.shape
            up = cv2.pyrUp(fused, dstsize=(width, height))
            fused = np.asarray(cv2.add(up, self._select(ir_detail, vis_detail)), dtype=np.int16)
        return np.clip(fused, 0, 255, out=fused).astype(np.uint8)

    def reset(self) -> None:
        """Nothing is remembered."""

    def _select(self, ir: Band, vis: Band) -> Band:
        """Detail of the more active source, int16; the visible one on a tie. Writes into `vis`."""
        ir_activity, vis_activity = cv2.convertScaleAbs(ir), cv2.convertScaleAbs(vis)
        if self._options.select == "activity":
            # Gain before the 8-bit mean: neighbours decide even where coefficients are small.
            side = (self._options.window, self._options.window)
            ir_activity = cv2.blur(cv2.convertScaleAbs(ir, alpha=4.0), side)
            vis_activity = cv2.blur(cv2.convertScaleAbs(vis, alpha=4.0), side)
        cv2.copyTo(ir, cv2.compare(ir_activity, vis_activity, cv2.CMP_GT), vis)
        return vis

    def _fuse_low(self, ir: Image8, vis: Image8) -> Image8:
        if self._options.low_band == "average":
            return np.asarray(cv2.addWeighted(ir, 0.5, vis, 0.5, 0.0), dtype=np.uint8)
        ir_weight = np.abs(ir - np.float32(ir.mean())) + np.float32(LOW_BAND_FLOOR)
        vis_weight = np.abs(vis - np.float32(vis.mean())) + np.float32(LOW_BAND_FLOOR)
        return np.asarray(cv2.blendLinear(ir, vis, ir_weight, vis_weight), dtype=np.uint8)


def _split(image: Image8) -> tuple[Image8, Band]:
    """Half-size picture and the int16 detail it lost."""
    height, width = image.shape
    low = np.asarray(cv2.pyrDown(image), dtype=np.uint8)
    up = cv2.pyrUp(low, dstsize=(width, height))
    return low, np.asarray(cv2.subtract(image, up, dtype=cv2.CV_16S), dtype=np.int16)
