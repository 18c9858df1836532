"""The `laplacian` fuser on the device: `fusion.laplacian` band by band, with OpenCV's own rounding.

Each band is a product with banded matrices, one from each side, read off OpenCV (see `pixels`); all values
are whole, so the sums are exact and the same bands are chosen. What depends on the size is made beforehand.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from streamfuse.device.pixels import Resize, whole
from streamfuse.fusion.laplacian import ACTIVITY_GAIN, MIN_BAND_SIDE, LaplacianOptions, fading
from streamfuse.fusion.overlap import EXTENSION_SIGMA, EXTENSION_STEP

Shape = tuple[int, int]
CELL = 3
"""Side of the neighbourhood that has to be covered, and of the ramp, pixels of a band."""
GAUSSIAN_REACH = 4
"""Standard deviations to which OpenCV computes a Gaussian of floats."""
LITTLE = 1e-3
"""Keeps means over nothing finite, as on the CPU."""


class Both(NamedTuple):
    """A linear map of pictures as two matrices: rows @ picture @ columns.T."""

    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, shape: Shape, one: Callable[[np.ndarray], np.ndarray], device: torch.device | str) -> "Both":
        """one: what the map does to a column, (n, 1) -> (m, 1)."""
        return cls(*(torch.from_numpy(_matrix(side, one)).to(device) for side in shape))

    def __call__(self, picture: Tensor) -> Tensor:
        return self.rows @ picture @ self.columns.T


def _matrix(side: int, one: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    units = np.eye(side, dtype=np.float32)
    return np.hstack([np.asarray(one(units[:, i : i + 1]), np.float32).reshape(-1, 1) for i in range(side)])


class Band(NamedTuple):
    """What one detail band is made with."""

    down: Both
    up: Both
    mean: Both


class LaplacianFuser:
    """Fused luma of infrared, visible luma, and where the infrared holds. See `Stateless`.

    Args:
        shape: (H, W) of the visible picture.
    """

    def __init__(self, shape: Shape, options: LaplacianOptions, *, device: torch.device | str) -> None:
        self._options = options
        self._bands: list[Band] = []
        self._extension = Extension(shape, device=device)
        self._fading = torch.from_numpy(fading(options.cold_limit).astype(np.float32)).to(device)
        window = options.window
        for _ in range(options.levels):
            if min(shape) < 2 * MIN_BAND_SIDE:
                break
            low = (shape[0] + 1) // 2, (shape[1] + 1) // 2
            up = (_matrix(before, _up(after)) for before, after in zip(low, shape, strict=True))
            self._bands.append(
                Band(
                    Both.of(shape, cv2.pyrDown, device),
                    Both(*(torch.from_numpy(matrix).to(device) for matrix in up)),
                    Both.of(shape, lambda unit: cv2.blur(unit, (1, window)), device),
                )
            )
            shape = low

    def __call__(self, ir: Tensor, vis: Tensor, valid: Tensor) -> Tensor:
        covered = 255 * valid.float()
        ir = self._extension(ir, valid)
        details: list[Tensor] = []
        for number, band in enumerate(self._bands):
            lost = self._lost(ir, vis)
            ir, ir_detail = _split(ir, band)
            vis, vis_detail = _split(vis, band)
            if number:
                ir_detail = ir_detail - (ir_detail.clamp_max(0) * lost / 255).round()
            ir_detail = (ir_detail * _weight(covered) / 255).round()
            covered = _halves_up(band.down(covered))
            take = self._activity(ir_detail, band) > self._activity(vis_detail, band)
            details.append(torch.where(take, ir_detail, vis_detail))
        fused = self._fuse_low(ir, vis, _weight(covered))
        for band, detail in zip(reversed(self._bands), reversed(details), strict=True):
            fused = _halves_up(band.up(fused)) + detail
        return fused.clamp(0, 255)

    def _lost(self, ir: Tensor, vis: Tensor) -> Tensor:
        """How much less the infrared darkens, 0..255."""
        return self._fading[(vis - ir).clamp_min(0).int()]

    def _activity(self, detail: Tensor, band: Band) -> Tensor:
        if self._options.select == "max_abs":
            return detail.abs()
        return whole(band.mean((ACTIVITY_GAIN * detail.abs()).clamp_max(255)))

    def _fuse_low(self, ir: Tensor, vis: Tensor, weight: Tensor) -> Tensor:
        excess, used = (ir - vis) * (1 - self._lost(ir, vis) * (1 / 255)), weight / 255
        mean = _total(used * excess) / _total(used).clamp_min(1)
        return (vis + self._options.ir_base * used * (excess - mean)).round().clamp(0, 255)


class Extension:
    """`fusion.overlap.extend_infrared` for one size (rows, columns)."""

    def __init__(self, shape: Shape, *, device: torch.device | str) -> None:
        small = max(1, shape[0] // EXTENSION_STEP), max(1, shape[1] // EXTENSION_STEP)
        self._shrink = Resize(shape, small, cv2.INTER_AREA, device=device)
        self._grow = Resize(small, shape, cv2.INTER_LINEAR, device=device)
        reach = round(GAUSSIAN_REACH * EXTENSION_SIGMA)
        kernel = cv2.getGaussianKernel(2 * reach + 1, EXTENSION_SIGMA, cv2.CV_32F)
        across = np.ones((1, 1), np.float32)
        self._blur = Both.of(small, lambda unit: cv2.sepFilter2D(unit, cv2.CV_32F, across, kernel), device)

    def __call__(self, ir: Tensor, valid: Tensor) -> Tensor:
        total = self._shrink(ir * valid)
        share = self._shrink(255 * valid.float()) / 255
        mean = _total(total) / _total(share).clamp_min(LITTLE)
        smooth = (self._blur(total) + LITTLE * mean) / (self._blur(share) + LITTLE)
        return torch.where(valid, ir, self._grow(smooth.clamp(0, 255).floor()))


def _up(after: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda unit: cv2.pyrUp(unit, dstsize=(1, after))


def _split(picture: Tensor, band: Band) -> tuple[Tensor, Tensor]:
    """Half-size picture and the detail it lost."""
    low = _halves_up(band.down(picture))
    return low, picture - _halves_up(band.up(low))


def _weight(covered: Tensor) -> Tensor:
    """`fusion.laplacian._weight`: 0..255."""
    margin = CELL // 2
    outside = (covered < 255).float()
    clear = 255 * (1 - F.max_pool2d(outside, CELL, 1, margin))
    return whole(F.avg_pool2d(F.pad(clear, (margin,) * 4, mode="replicate"), CELL, 1))


def _halves_up(picture: Tensor) -> Tensor:
    """As OpenCV's integer pyramids round."""
    return (picture + 0.5).floor()


def _total(picture: Tensor) -> Tensor:
    """Over each picture of a batch."""
    return picture.sum(dim=(1, 2, 3), keepdim=True)
