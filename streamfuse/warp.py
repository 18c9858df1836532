"""The warp on the CPU: the raw infrared picture on the visible one, through all that is known, once."""

from typing import TypeVar

import cv2
import numpy as np

from streamfuse.calibration.calibration import RigCalibration
from streamfuse.flow import looked_up, resample, to_flow
from streamfuse.frame import Flow, Image8, Image16, Mask, Registration
from streamfuse.pairing.motion import Compensation
from streamfuse.sampling import Matrix, Points, apply_matrix, is_identity, pixel_grid, pull_map, pull_matrix

_Image = TypeVar("_Image", Image8, Image16)


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
    calibration.check_visible(shape)
    if motion is None and registration.matrix is not None and is_identity(registration.matrix):
        return calibration.bring_infrared(ir, sharp=True)
    image, reduction = calibration.prepared(ir)
    if motion is None and registration.matrix is not None and calibration.is_homography:
        return pull_matrix(image, reduction @ calibration.matrix @ registration.matrix, shape, sharp=True)
    positions = pixel_grid(shape)
    if motion is not None:
        positions = positions + resample(motion, shape)
    total = np.eye(3)
    if registration.matrix is not None:
        total = registration.matrix
    else:
        flow = to_flow(registration, shape)
        positions = positions + (flow if motion is None else looked_up(flow, positions))
    if calibration.is_homography:
        total = reduction @ calibration.matrix @ total
    else:
        positions, total = calibration.look_up(_mapped(total, positions)), reduction
    return pull_map(image, _mapped(total, positions), sharp=True)


def warp_moved(
    moved: Compensation, registration: Registration, calibration: RigCalibration, shape: tuple[int, int]
) -> tuple[Image8, Mask]:
    """The infrared at the visible time, and where it holds; as `warp_infrared`, each part once."""
    pictures, masks = [], []
    for part in moved.parts:
        picture, mask = warp_infrared(part.ir.image, registration, calibration, shape, motion=part.flow)
        pictures.append(picture)
        masks.append(mask)
    if len(moved.parts) == 1:
        return pictures[0], masks[0]
    first, second = moved.parts
    mixed = cv2.addWeighted(pictures[0], first.weight, pictures[1], second.weight, 0)
    return np.asarray(mixed, np.uint8), np.asarray(cv2.bitwise_and(*masks), np.uint8)


def _mapped(matrix: Matrix, positions: Points) -> Points:
    return positions if is_identity(matrix) else apply_matrix(matrix, positions)
