"""Patches of a picture on which maps of coarse cells are bilinear, and the few of them worth touching.

A patch is CELL x CELL pixels between the centres of four cells. There a map of the cells that is spread over
the picture (bilinear, half-pixel centres, as `torch.nn.functional.interpolate` has it) is the values at those
four corners times a constant matrix; and where all corners are 0, so is the patch. Pictures come with a
border of half a cell or more, so that patches fill them: (CELL (h + 1), CELL (w + 1)) for h x w cells.
"""

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from streamfuse.frame import Image8
from streamfuse.nn.live_fusion import CELL

Floats = npt.NDArray[np.float32]

ROW = np.uint64
"""A row of a patch is moved as one number."""
assert ROW().itemsize == CELL


def _bilinear() -> Tensor:
    """(4, CELL * CELL): what each pixel of a patch, row by row, takes of its corners."""
    far = (np.arange(CELL, dtype=np.float32) + 0.5) / CELL
    side = np.stack([1 - far, far])
    return torch.from_numpy(np.einsum("ay,bx->abyx", side, side).reshape(4, -1))


BILINEAR = _bilinear()


class Patches:
    """N of the patches of a picture; false when N is 0.

    Args:
        chosen: which, bool (h + 1, w + 1).
    """

    def __init__(self, chosen: npt.NDArray[np.bool_]) -> None:
        self._rows, self._columns = np.nonzero(chosen)
        right, below = 1, chosen.shape[1] + 1
        first = self._rows * below + self._columns
        self._corners = np.stack([first, first + right, first + below, first + below + right], 1)

    def __len__(self) -> int:
        return len(self._rows)

    def spread(self, cells: Floats) -> Tensor:
        """A map of the cells, float32 (h, w), at the pixels of the patches: (N, CELL * CELL)."""
        return torch.from_numpy(_with_border(cells).ravel()[self._corners]) @ BILINEAR

    def read(self, picture: Image8) -> Tensor:
        """The pixels, float32 (N, CELL * CELL)."""
        return torch.from_numpy(_by_rows(picture)[self._rows, :, self._columns].view(np.uint8)).float()

    def write(self, picture: Image8, pixels: Tensor) -> None:
        """Put in pixels, none below 0: rounded, halves to even, and cut to 255."""
        levels = np.asarray(cv2.convertScaleAbs(pixels.numpy()), np.uint8)
        _by_rows(picture)[self._rows, :, self._columns] = levels.view(ROW)


def highest(cells: Floats) -> Floats:
    """The highest corner of each patch, float32 (h + 1, w + 1), for a map of the cells, (h, w)."""
    bordered = _with_border(cells)
    higher = np.maximum(bordered[:-1], bordered[1:])
    return np.maximum(higher[:, :-1], higher[:, 1:])


def _with_border(cells: Floats) -> Floats:
    """Replicated by one on every side: the corners of all patches."""
    return np.asarray(cv2.copyMakeBorder(cells, 1, 1, 1, 1, cv2.BORDER_REPLICATE), np.float32)


def _by_rows(picture: Image8) -> npt.NDArray[np.uint64]:
    """A view of all rows of patches, (patches down, CELL, patches across)."""
    return picture.view(ROW).reshape(-1, CELL, picture.shape[1] // CELL)
