"""A frame number that survives compression, scaling and fusion: 24 black and white squares in a corner.

Layout: 6 columns x 4 rows. The first square is white and the last black: every other one is read against
these two, so gain, offset and gamma do not matter. Between them 16 bits of the number, most significant
first, and a 6-bit check sum.
"""

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.errors import DataError
from streamfuse.synth.options import Corner

COLUMNS, ROWS = 6, 4
MIN_CELL_PX = 4
"""Smaller squares do not survive 4:2:0 video at ordinary quality."""
CELLS_PER_WIDTH = 80
"""A picture of 640 columns gets squares of 8 px."""
MARGIN_CELLS = 1
"""Width of the grey frame around the squares."""
MIN_CONTRAST = 12.0
"""Grey levels or counts between the reference squares; less is noise."""
CLEAR_SHARE = 0.18
"""A square must be this share of the contrast away from the middle to count as read."""
_POLYNOMIAL = 0b1000011
_ORDER = 6

Picture = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


def cell_size(width: int) -> int:
    """Side of a square in pixels for a picture this wide."""
    return max(MIN_CELL_PX, width // CELLS_PER_WIDTH)


def code_box(height: int, width: int, corner: Corner) -> tuple[int, int, int, int]:
    """Where the code with its frame lies: x0, y0, x1, y1. Raises DataError when the picture is too small."""
    cell = cell_size(width)
    w, h = (COLUMNS + 2 * MARGIN_CELLS) * cell, (ROWS + 2 * MARGIN_CELLS) * cell
    if w > width or h > height:
        raise DataError(f"a picture of {width}x{height} cannot hold a frame code of {w}x{h} pixels")
    x0 = 0 if corner.endswith("left") else width - w
    y0 = 0 if corner.startswith("top") else height - h
    return x0, y0, x0 + w, y0 + h


def burn_code(image: Picture, number: int, *, corner: Corner, black: int = 16, white: int = 235) -> None:
    """Write the number modulo 65536 into a corner, in place.

    Args:
        image: (H, W) or (H, W, 3), uint8 or uint16.
        black, white: values of the squares; within what the picture holds anyway, lest they upset a
            gain control that looks at extremes.

    Raises:
        DataError: the picture is too small.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = code_box(height, width, corner)
    cell = cell_size(width)
    values = np.where(np.array(_squares(number)).reshape(ROWS, COLUMNS), white, black)
    image[y0:y1, x0:x1] = (black + white) // 2
    inner = np.kron(values, np.ones((cell, cell), np.int64)).astype(image.dtype)
    at = np.s_[y0 + cell : y1 - cell, x0 + cell : x1 - cell]
    image[at] = inner if image.ndim == 2 else inner[..., None]


def read_code(image: Picture, *, corner: Corner) -> int | None:
    """The number burnt into a corner, 0..65535; None when there is none that can be trusted.

    image: (H, W) or (H, W, 3), uint8 or uint16, of the geometry it was burnt into or scaled evenly.
    """
    height, width = image.shape[:2]
    try:
        x0, y0, x1, y1 = code_box(height, width, corner)
    except DataError:
        return None
    patch = np.asarray(image[y0:y1, x0:x1], np.float32)
    if patch.ndim == 3:
        patch = patch.mean(axis=2)
    # Square centres only: edges are where compression and warps do their harm.
    size = ((COLUMNS + 2 * MARGIN_CELLS) * 4, (ROWS + 2 * MARGIN_CELLS) * 4)
    fine = np.asarray(cv2.resize(patch, size, interpolation=cv2.INTER_AREA))
    cells = fine.reshape(size[1] // 4, 4, size[0] // 4, 4)[:, 1:3, :, 1:3].mean(axis=(1, 3))
    cells = cells[MARGIN_CELLS:-MARGIN_CELLS, MARGIN_CELLS:-MARGIN_CELLS].reshape(-1)
    contrast = cells[0] - cells[-1]
    if contrast < MIN_CONTRAST:
        return None
    level = (cells - cells[-1]) / contrast - 0.5
    if np.abs(level).min() < CLEAR_SHARE:
        return None
    bits = (level > 0).astype(int).tolist()
    number = int("".join(map(str, bits[1:17])), 2)
    return number if bits == _squares(number) else None


def _squares(number: int) -> list[int]:
    number %= 1 << 16
    check = _remainder(number)
    bits = [number >> k & 1 for k in range(15, -1, -1)] + [check >> k & 1 for k in range(_ORDER - 1, -1, -1)]
    return [1, *bits, 0]


def _remainder(number: int) -> int:
    """CRC-6-ITU of 16 bits, complemented so that an even patch is not a valid code."""
    value = number << _ORDER
    for k in range(15 + _ORDER, _ORDER - 1, -1):
        if value >> k & 1:
            value ^= _POLYNOMIAL << (k - _ORDER)
    return value ^ (1 << _ORDER) - 1
