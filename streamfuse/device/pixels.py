"""Pictures on the device: resizing, box filters and sampling that agree with OpenCV's.

Resizing and box filters are products with banded matrices, one from each side; the matrices are read off
OpenCV itself, so borders and odd ratios are its own. Pictures are float32 (B, 1, H, W) with the values of
uint8 ones; where the CPU path rounds to uint8, `whole` does. Positions are (B, H, W, 2), (x, y) in pixels.
"""

from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from streamfuse.registration.working import FLOOR, LIMIT, WINDOW

TIE = 1024
"""Values this close (1 / TIE) to a half are one: positions half-way between pixels are the rule where sizes
are halved or doubled, and a float's rounding must not decide which way those go."""


def whole(picture: Tensor) -> Tensor:
    """Rounded, halves to even, and cut to 0..255, as OpenCV stores most results in uint8."""
    return ((picture * TIE).round() / TIE).round().clamp(0, 255)


class Resize:
    """`cv2.resize` of one size to another as two products.

    Args:
        source, target: (rows, columns).
        interpolation: INTER_AREA or INTER_LINEAR.
    """

    def __init__(
        self,
        source: tuple[int, int],
        target: tuple[int, int],
        interpolation: int,
        *,
        device: torch.device | str,
    ) -> None:
        # Where either side grows, INTER_AREA is another kind of linear interpolation, on both.
        grows = target[0] > source[0] or target[1] > source[1]
        self.same = source == target
        # Means of whole blocks OpenCV adds up in integers, and rounds halves up.
        blocks = all(before % after == 0 for before, after in zip(source, target, strict=True))
        self._halves_up = blocks and interpolation == cv2.INTER_AREA
        self.rows, self.columns = (
            torch.from_numpy(_resize_axis(before, after, interpolation, grows)).to(device)
            for before, after in zip(source, target, strict=True)
        )

    def __call__(self, picture: Tensor) -> Tensor:
        if self.same:
            return picture
        resized = self.rows @ picture @ self.columns.T
        if self._halves_up:
            return ((resized * TIE).round() / TIE + 0.5).floor()
        return whole(resized)


def _resize_axis(before: int, after: int, interpolation: int, grows: bool) -> np.ndarray:
    """(after, before): what resizing one axis multiplies by. grows: the picture grows along some axis."""
    # Doubling the other axis makes OpenCV see a picture that grows, and leaves each column where it is.
    spread = 2 if grows and after <= before and interpolation == cv2.INTER_AREA else 1
    unit = np.eye(before, dtype=np.float32)
    resized = cv2.resize(unit, (spread * before, after), interpolation=interpolation)
    return np.ascontiguousarray(np.asarray(resized, np.float32)[:, ::spread])


class Normalise:
    """`registration.working.normalise` for one size (rows, columns)."""

    def __init__(self, shape: tuple[int, int], *, device: torch.device | str) -> None:
        self.rows, self.columns = (
            torch.from_numpy(np.asarray(cv2.blur(np.eye(side, dtype=np.float32), (1, WINDOW)))).to(device)
            for side in shape
        )

    def _mean(self, picture: Tensor) -> Tensor:
        return self.rows @ picture @ self.columns.T

    def __call__(self, picture: Tensor) -> Tensor:
        mean = self._mean(picture)
        variance = self._mean(picture * picture) - mean * mean
        contrast = torch.sqrt(variance.clamp_min(0) + FLOOR**2)
        return ((picture - mean) / contrast).clamp(-LIMIT, LIMIT)


def pull(
    picture: Tensor,
    positions: Tensor,
    mode: Literal["bilinear", "bicubic"],
    *,
    border: Literal["border", "zeros"] = "border",
) -> Tensor:
    """picture(positions): (B, C, h, w) and (B, H, W, 2) -> (B, C, H, W). `border` replicates it.

    Bicubic has OpenCV's A = -0.75 in both libraries.
    """
    rows, columns = picture.shape[2:]
    x = positions[..., 0] * (2 / max(columns - 1, 1)) - 1
    y = positions[..., 1] * (2 / max(rows - 1, 1)) - 1
    grid = torch.stack([x, y], dim=-1)
    return F.grid_sample(picture, grid, mode=mode, padding_mode=border, align_corners=True)


def covered(positions: Tensor, shape: tuple[int, int]) -> Tensor:
    """bool (B, 1, H, W): positions on the area of a pixel of a picture of `shape` (rows, columns)."""
    x, y = positions[..., 0], positions[..., 1]
    across, down = (x >= -0.5) & (x <= shape[1] - 0.5), (y >= -0.5) & (y <= shape[0] - 0.5)
    return (across & down)[:, None]


def grid(shape: tuple[int, int], *, device: torch.device | str) -> Tensor:
    """The position of every pixel, float32 (1, H, W, 2)."""
    y, x = torch.meshgrid(
        torch.arange(shape[0], dtype=torch.float32, device=device),
        torch.arange(shape[1], dtype=torch.float32, device=device),
        indexing="ij",
    )
    return torch.stack([x, y], dim=-1)[None]


def mapped(matrix: Tensor, positions: Tensor) -> Tensor:
    """Positions mapped by a 3 x 3 matrix each, (B, 3, 3)."""
    m = matrix[:, :, :, None, None]
    x, y = positions[..., 0], positions[..., 1]
    across, down, along = (m[:, i, 0] * x + m[:, i, 1] * y + m[:, i, 2] for i in range(3))
    return torch.stack([across / along, down / along], dim=-1)
