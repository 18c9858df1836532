"""Pull sampling: each pixel of the result says where in the source it comes from.

Positions are (x, y) in pixels with integer pixel centres. A position is covered when it falls on a pixel's
area, [-0.5, side - 0.5]; beyond, the border is replicated and the validity mask is 0.
"""

from functools import lru_cache
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.frame import Flow, Image8, Image16, Mask

Matrix = npt.NDArray[np.float64]
Points = npt.NDArray[np.float32]
_Image = TypeVar("_Image", Image8, Image16)

SHARP, QUICK = cv2.INTER_CUBIC, cv2.INTER_LINEAR
"""Between pixels bilinear sampling loses 6 to 16 % of an infrared picture's average gradient, more or less of
it as the fraction of a pixel changes from frame to frame; bicubic 0 to 3 %, for 2 ms at 640x480."""
NO_SECOND_MAP: Any = None
"""What cv2.remap takes beside one map that holds both coordinates, though its type stub does not know.
(OpenCV 5 samples garbage when given an empty array instead.)"""


@lru_cache(maxsize=4)
def pixel_grid(shape: tuple[int, int]) -> Points:
    """The position of every pixel: float32 (H, W, 2), channels (x, y); not to be written to."""
    height, width = shape
    grid = np.empty((height, width, 2), np.float32)
    grid[..., 0] = np.arange(width, dtype=np.float32)
    grid[..., 1] = np.arange(height, dtype=np.float32)[:, None]
    grid.flags.writeable = False
    return grid


def resize_matrix(source: tuple[int, int], target: tuple[int, int]) -> Matrix:
    """Positions in a picture of size `target` (width, height) to the same places at size `source`.

    The outer edges of the pictures coincide (half-pixel centres, as cv2.resize has them).
    """
    scale_x, scale_y = source[0] / target[0], source[1] / target[1]
    return np.array([[scale_x, 0, (scale_x - 1) / 2], [0, scale_y, (scale_y - 1) / 2], [0, 0, 1.0]])


def apply_matrix(matrix: Matrix, points: Points) -> Points:
    """Map points (..., 2) by a 3 x 3 matrix. Returns float32 of the same shape."""
    if not points.size:
        return points
    rows = points.reshape(-1, 1, 2).astype(np.float32, copy=False)
    if matrix[2, 0] == 0 and matrix[2, 1] == 0:
        mapped = cv2.transform(rows, matrix[:2] / matrix[2, 2])
    else:
        mapped = cv2.perspectiveTransform(rows, matrix)
    return np.asarray(mapped, np.float32).reshape(points.shape)


def is_identity(matrix: Matrix) -> bool:
    return bool(np.array_equal(matrix, np.eye(3)))


def pull_matrix(
    image: _Image, matrix: Matrix, shape: tuple[int, int], *, sharp: bool = False
) -> tuple[_Image, Mask]:
    """result(p) = image(matrix @ p) for a result of `shape` (rows, columns), and what of it is covered.

    sharp: bicubic, for pictures that are shown; else bilinear, for those that are only matched.
    `image` itself comes back, not copied, when it would not change.
    """
    height, width = shape
    if is_identity(matrix) and image.shape == shape:
        return image, np.full(shape, 255, np.uint8)
    flags = (SHARP if sharp else QUICK) | cv2.WARP_INVERSE_MAP
    pulled: Any = cv2.warpPerspective(
        image, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    covered = cv2.warpPerspective(
        np.full(image.shape, 255, np.uint8),
        matrix,
        (width, height),
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
    )
    return pulled, np.asarray(covered, np.uint8)


def pull_map(image: _Image, positions: Points, *, sharp: bool = False) -> tuple[_Image, Mask]:
    """result(p) = image(positions(p)) and what of it is covered; positions float32 (H, W, 2)."""
    height, width = image.shape[:2]
    pulled: Any = cv2.remap(
        image, positions, NO_SECOND_MAP, SHARP if sharp else QUICK, borderMode=cv2.BORDER_REPLICATE
    )
    covered = cv2.inRange(positions, (-0.5, -0.5), (width - 0.5, height - 0.5))
    return pulled, np.asarray(covered, np.uint8)


def positions_of(flow: Flow) -> Points:
    """p + flow(p) for every pixel."""
    return pixel_grid(flow.shape[:2]) + flow
