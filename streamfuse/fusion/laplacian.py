"""Laplacian pyramid fusion (Burt and Adelson 1983; Burt and Kolczynski 1993).

Each band keeps, pixel by pixel, the source that is more active there. The coarsest band is the visible one
with a share of the infrared's contrast, not of its brightness: what is hot stands out, and the picture keeps
the exposure of the visible camera. What is cold where the visible is much brighter is sky, a lamp or a lit
window: there the infrared does not darken the picture, or a dark smudge would lie around each tree. The bands
are 8 and 16 bit integers: fast, and exactly the identity on equal pictures.

Towards the border of the infrared's field of view each band lets go of it over a few pixels of its own size
(multi-band blending): where the sensor ends cannot be seen.
"""

from functools import lru_cache
from typing import Annotated, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from streamfuse.frame import Image8, Mask
from streamfuse.fusion.overlap import check_pictures, coverage, extend_infrared
from streamfuse.registry import Options

Band = npt.NDArray[np.int16]

_CELL = np.ones((3, 3), np.uint8)

MIN_BAND_SIDE = 4
"""Pyramids stop before a band gets smaller: below this all of it is border."""
COLD_FADE = 120
"""Grey levels beyond `cold_limit` within which infrared ceases to darken: wide, so that no border shows."""
ACTIVITY_GAIN = 4.0
"""Before activities are averaged in 8 bit: small coefficients have to count, too."""


class LaplacianOptions(Options):
    """Depth of the pyramid and how the sources share it."""

    levels: Annotated[int, Field(ge=1, le=8)] = Field(
        5, description="detail bands; fewer when the picture is small"
    )
    select: Literal["activity", "max_abs"] = Field(
        "activity", description="max_abs: larger coefficient; activity: larger local mean of coefficients"
    )
    window: Annotated[int, Field(ge=3, le=15)] = Field(
        5, description="side of the activity window, in pixels of its band"
    )
    ir_base: Annotated[float, Field(ge=0, le=1)] = Field(
        0.35, description="share of the infrared in the coarsest band, at the brightness of the visible one"
    )
    cold_limit: Annotated[int, Field(ge=0, le=255)] = Field(
        40,
        description="where the visible is brighter by more grey levels, the infrared darkens all bands but "
        "the finest less and less; 255: nowhere",
    )


class LaplacianFuser:
    """Select in every band, blend the rest, add up."""

    Options = LaplacianOptions

    def __init__(self, options: LaplacianOptions, *, device: str = "cpu") -> None:
        self._options = options

    def fuse(self, ir: Image8, vis: Image8, *, valid: Mask | None = None) -> Image8:
        check_pictures(ir, vis, valid)
        covered = coverage(valid)
        if covered is not None:
            ir = extend_infrared(ir, covered)
        return self.fuse_continued(ir, vis, covered)

    def fuse_continued(self, ir: Image8, vis: Image8, covered: Mask | None) -> Image8:
        """As `fuse`, of infrared that goes on beyond what is `covered` (255, else 0; None: all)."""
        bands: list[Band] = []
        for _ in range(self._options.levels):
            if min(ir.shape) < 2 * MIN_BAND_SIDE:
                break
            ir_low, ir_detail = _split(ir)
            vis_low, vis_detail = _split(vis)
            if bands:
                self._leave_light(ir_detail, ir, vis)
            if covered is not None:
                share = _weight(covered).astype(np.int16)
                ir_detail = np.asarray(cv2.multiply(ir_detail, share, scale=1 / 255), dtype=np.int16)
                covered = np.asarray(cv2.pyrDown(covered), dtype=np.uint8)
            bands.append(self._select(ir_detail, vis_detail))
            ir, vis = ir_low, vis_low
        fused: Band = self._fuse_low(ir, vis, None if covered is None else _weight(covered)).astype(np.int16)
        for detail in reversed(bands):
            height, width = detail.shape
            up = cv2.pyrUp(fused, dstsize=(width, height))
            fused = np.asarray(cv2.add(up, detail), dtype=np.int16)
        return np.clip(fused, 0, 255, out=fused).astype(np.uint8)

    def reset(self) -> None:
        """Nothing is remembered."""

    def _leave_light(self, ir_detail: Band, ir: Image8, vis: Image8) -> None:
        """Take out of the infrared's detail what would darken a visible that is much brighter; in place."""
        excess = cv2.subtract(vis, ir)
        if cv2.minMaxLoc(excess)[1] > self._options.cold_limit:
            share = cv2.LUT(excess, fading(self._options.cold_limit)).astype(np.int16)
            darker = np.minimum(ir_detail, 0)
            ir_detail -= np.asarray(cv2.multiply(darker, share, scale=1 / 255), np.int16)

    def _select(self, ir: Band, vis: Band) -> Band:
        """Detail of the more active source; the visible one on a tie. Writes into `vis`."""
        if self._options.select == "activity":
            side = (self._options.window, self._options.window)
            ir_activity = cv2.blur(cv2.convertScaleAbs(ir, alpha=ACTIVITY_GAIN), side)
            vis_activity = cv2.blur(cv2.convertScaleAbs(vis, alpha=ACTIVITY_GAIN), side)
        else:
            ir_activity, vis_activity = cv2.convertScaleAbs(ir), cv2.convertScaleAbs(vis)
        cv2.copyTo(ir, cv2.compare(ir_activity, vis_activity, cv2.CMP_GT), vis)
        return vis

    def _fuse_low(self, ir: Image8, vis: Image8, weight: Image8 | None) -> Image8:
        lost = fading(self._options.cold_limit)[cv2.subtract(vis, ir)]
        excess = (ir.astype(np.float32) - vis) * (1 - lost * np.float32(1 / 255))
        if weight is None:
            excess -= excess.mean()
        else:
            used = weight.astype(np.float32) / 255
            excess = used * (excess - (used * excess).sum() / max(float(used.sum()), 1.0))
        low: Image8 = np.rint(vis + np.float32(self._options.ir_base) * excess).clip(0, 255).astype(np.uint8)
        return low


@lru_cache
def fading(cold_limit: int) -> Image8:
    """How much less the infrared darkens, 0..255 for nothing left, by how much brighter the visible is."""
    excess = np.arange(256, dtype=np.float32)
    return np.asarray(np.rint(255 * ((excess - cold_limit) / COLD_FADE).clip(0, 1)), np.uint8)


def _split(image: Image8) -> tuple[Image8, Band]:
    """Half-size picture and the detail it lost."""
    height, width = image.shape
    low = np.asarray(cv2.pyrDown(image), dtype=np.uint8)
    up = cv2.pyrUp(low, dstsize=(width, height))
    return low, np.subtract(image, up, dtype=np.int16)  # in half the time of cv2.subtract


def _weight(covered: Mask) -> Image8:
    """How much infrared a band takes, 0..255: none at the border, all of it a few pixels further in.

    covered: coverage of the band's pixels, 255 where it is complete.
    """
    whole = cv2.threshold(covered, 254, 255, cv2.THRESH_BINARY)[1]
    clear = cv2.erode(whole, _CELL)
    return np.asarray(cv2.blur(clear, _CELL.shape, borderType=cv2.BORDER_REPLICATE), dtype=np.uint8)
