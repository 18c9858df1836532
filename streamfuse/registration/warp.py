"""The warp on the CPU: one resampling of the raw infrared picture, and arithmetic on flows.

A flow is a pull field in pixels, float32 (H, W, 2), channels (dx, dy): warped(p) = moving(p + flow(p)).
"""

from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.calibration.calibration import RigCalibration
from streamfuse.errors import DataError
from streamfuse.frame import Flow, Image8, Image16, Mask, Registration
from streamfuse.sampling import (
    NO_SECOND_MAP,
    Matrix,
    Points,
    apply_matrix,
    is_identity,
    pixel_grid,
    pull_map,
    pull_matrix,
    resize_matrix,
)

_Image = TypeVar("_Image", Image8, Image16)

INVERSION_STEPS = 20
"""Fixed-point steps of `invert`: the error halves with each where neighbours differ by half a pixel."""


def warp_infrared(
    ir: _Image,
    registration: Registration,
    calibration: RigCalibration,
    shape: tuple[int, int],
    *,
    motion: Flow | None = None,
) -> tuple[_Image, Mask]:
    """The raw infrared picture on the visible one, resampled once (bicubic).

    source(p) = calibration(q + flow(q)), q = p + motion(p).

    Args:
        ir: uint8 or uint16 (H, W), raw, as the calibration knows it.
        registration: the residual in visible geometry.
        shape: (rows, columns) of the visible picture.
        motion: where in visible geometry the infrared saw what is at p now; float32 (h, w, 2) of a picture
            of any size that shows the same.

    Returns:
        (image of `shape` with the border replicated, mask of 255 where infrared covers it and 0 elsewhere).
        `ir` itself, not a copy, when nothing moves.

    Raises:
        CalibrationError: `ir` has not the size the calibration was made for.
        DataError: calibration or flow is for another visible size.
    """
    if (calibration.vis_size[1], calibration.vis_size[0]) != shape:
        raise DataError(
            f"the calibration is for visible pictures of "
            f"{calibration.vis_size[0]}x{calibration.vis_size[1]}, this one is {shape[1]}x{shape[0]}"
        )
    if motion is None and registration.matrix is not None and is_identity(registration.matrix):
        return calibration.bring_infrared(ir, sharp=True)
    image, reduction = calibration.prepared(ir)
    if motion is None and registration.matrix is not None and calibration.is_homography:
        return pull_matrix(image, reduction @ calibration.matrix @ registration.matrix, shape, sharp=True)
    positions = pixel_grid(shape)
    if motion is not None:
        positions += resample(motion, shape)
    total = np.eye(3)
    if registration.matrix is not None:
        total = registration.matrix
    else:
        flow = to_flow(registration, shape)
        positions += flow if motion is None else _look_up(flow, positions)
    if calibration.is_homography:
        total = reduction @ calibration.matrix @ total
    else:
        positions, total = calibration.look_up(_mapped(total, positions)), reduction
    return pull_map(image, _mapped(total, positions), sharp=True)


def _mapped(matrix: Matrix, positions: Points) -> Points:
    return positions if is_identity(matrix) else apply_matrix(matrix, positions)


def to_flow(registration: Registration, shape: tuple[int, int]) -> Flow:
    """The displacement of every pixel of a picture of `shape`. Raises DataError on a flow of another size."""
    if registration.matrix is not None:
        return matrix_flow(registration.matrix, shape)
    assert registration.flow is not None
    if registration.flow.shape[:2] != shape:
        height, width = registration.flow.shape[:2]
        raise DataError(f"a flow of {width}x{height} for a picture of {shape[1]}x{shape[0]}")
    return registration.flow


def matrix_flow(matrix: Matrix, shape: tuple[int, int]) -> Flow:
    """matrix @ p - p for every pixel of a picture of `shape`."""
    grid = pixel_grid(shape)
    return apply_matrix(matrix, grid) - grid


def nearest_affine(registration: Registration) -> Matrix:
    """The pull matrix (3, 3) that follows a registration best: its affine part where it is a flow."""
    if registration.matrix is not None:
        return registration.matrix
    assert registration.flow is not None
    height, width = registration.flow.shape[:2]
    step = max(1, min(height, width) // 32)
    at = np.s_[step // 2 :: step, step // 2 :: step]
    points = pixel_grid((height, width))[at].reshape(-1, 2).astype(np.float64)
    design = np.column_stack([points, np.ones(len(points))])
    solution, *_ = np.linalg.lstsq(design, points + registration.flow[at].reshape(-1, 2), rcond=None)
    return np.vstack([solution.T, [0.0, 0.0, 1.0]])


def pull_flow(field: npt.NDArray[np.float32], flow: Flow) -> npt.NDArray[np.float32]:
    """field(p + flow(p)) for a float32 (H, W) or (H, W, C) field, border replicated."""
    return _look_up(field, pixel_grid(flow.shape[:2]) + flow)


def _look_up(field: npt.NDArray[np.float32], positions: Points) -> npt.NDArray[np.float32]:
    found = cv2.remap(field, positions, NO_SECOND_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, np.float32)


def compose(first: Flow, then: Flow) -> Flow:
    """One flow for warping by `first` and warping the result by `then`: then(p) + first(p + then(p))."""
    return then + pull_flow(first, then)


def invert(flow: Flow) -> Flow:
    """The flow that undoes `flow`: compose(flow, invert(flow)) is 0 where both stay inside.

    Fixed point of inverse(p) = -flow(p + inverse(p)); converges while neighbours differ by less than 1 px.
    """
    inverse: Flow = -flow
    for _ in range(INVERSION_STEPS):
        inverse = -pull_flow(flow, inverse)
    return inverse


def resample(flow: Flow, shape: tuple[int, int]) -> Flow:
    """The same motion for the picture resized to `shape` (rows, columns); lengths scale with it."""
    height, width = flow.shape[:2]
    if (height, width) == shape:
        return flow
    scale = resize_matrix((shape[1], shape[0]), (width, height))[:2, :2]
    small_first = height * width <= shape[0] * shape[1]
    if small_first:
        flow = np.asarray(cv2.transform(flow, scale), np.float32)
    resized = cv2.resize(flow, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized if small_first else cv2.transform(resized, scale), np.float32)
