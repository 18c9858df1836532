"""Arithmetic on flows.

A flow is a pull field in pixels, float32 (H, W, 2), channels (dx, dy): warped(p) = moving(p + flow(p)).
"""

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.errors import DataError
from streamfuse.frame import Flow, Registration
from streamfuse.sampling import NO_SECOND_MAP, Matrix, Points, apply_matrix, pixel_grid, resize_matrix

INVERSION_STEPS = 20
"""Fixed-point steps of `invert`: the error halves with each where neighbours differ by half a pixel."""


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
    return looked_up(field, pixel_grid(flow.shape[:2]) + flow)


def looked_up(field: npt.NDArray[np.float32], positions: Points) -> npt.NDArray[np.float32]:
    """field(positions(p)), bilinear, border replicated; positions float32 (H, W, 2)."""
    found = cv2.remap(field, positions, NO_SECOND_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, np.float32)


def compose(first: Flow, then: Flow) -> Flow:
    """One flow for warping by `first` and warping the result by `then`: then(p) + first(p + then(p))."""
    return then + pull_flow(first, then)


def invert(flow: Flow, at: Points | None = None) -> Flow:
    """The flow that undoes `flow`: compose(flow, invert(flow)) is 0 where both stay inside.

    Fixed point of inverse(p) = -flow(p + inverse(p)); converges while neighbours differ by less than 1 px.

    Args:
        at: positions (h, w, 2) to find it at; None: every pixel.
    """
    positions = pixel_grid(flow.shape[:2]) if at is None else at
    inverse = np.zeros_like(positions)
    for _ in range(INVERSION_STEPS):
        inverse = -looked_up(flow, positions + inverse)
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
