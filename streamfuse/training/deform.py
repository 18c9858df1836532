"""Random displacement fields whose truth is known, and the algebra to invert and compose them.

A field `d` is float32 (H, W, 2), channels (dx, dy) in pixels, and deforms by pulling:
`deformed(p) = image(p + d(p))`. The field that undoes it is its inverse `u`: `u(p) = -d(p + u(p))`.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.flow import compose
from streamfuse.frame import Flow
from streamfuse.sampling import pixel_grid

Matrix = npt.NDArray[np.float64]
Field = Flow

MEPMA_ROTATION_DEG = 2.0
MEPMA_TRANSLATION = 0.02
MEPMA_KERNEL = 63
MEPMA_SIGMA = 32.0
MEPMA_GAIN = 0.86
"""Brings the recipe, as it stands here, to what was measured on the published set: 5.5 px mean, 1.84 px not
affine.
"""
NOISE_STEP = 4
"""Smooth noise is drawn on a grid this much coarser than the picture: 16 times less to blur."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeformationRange:
    """How far a random deformation may go; every magnitude is drawn evenly from 0 to its bound.

    rotation_deg; translation: share of the longer side; scale, shear: relative; perspective: relative
    change of scale over the longer side; elastic: standard deviation in pixels; elastic_sigma: range of the
    Gaussian that smooths the elastic noise, pixels.
    """

    rotation_deg: float
    translation: float
    scale: float
    shear: float
    perspective: float
    elastic: float
    elastic_sigma: tuple[float, float]


def homography_field(shape: tuple[int, int], matrix: Matrix) -> Field:
    """The field of a homography that acts on coordinates whose origin is the centre of the picture."""
    rows, columns = shape
    shift = np.array([[1, 0, (columns - 1) / 2], [0, 1, (rows - 1) / 2], [0, 0, 1]], np.float64)
    about_centre = shift @ matrix @ np.linalg.inv(shift)
    grid = pixel_grid(shape)
    moved = cv2.perspectiveTransform(grid.reshape(1, -1, 2), about_centre)
    return np.asarray(moved.reshape(rows, columns, 2) - grid, dtype=np.float32)


def smooth_noise(shape: tuple[int, int], rng: np.random.Generator, *, sigma: float, std: float) -> Field:
    """White noise under a Gaussian of `sigma` pixels, scaled to a standard deviation of `std` pixels."""
    rows, columns = shape
    margin = math.ceil(2 * sigma / NOISE_STEP)
    coarse = rows // NOISE_STEP + 2 * margin + 2, columns // NOISE_STEP + 2 * margin + 2
    noise = rng.standard_normal((*coarse, 2), dtype=np.float32)
    width = sigma / NOISE_STEP
    blurred = cv2.GaussianBlur(noise, (0, 0), width, borderType=cv2.BORDER_REFLECT)
    gain = std * 2 * math.sqrt(math.pi) * width
    inner = blurred[margin:-margin, margin:-margin] * gain
    return np.asarray(cv2.resize(inner, (columns, rows), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def random_field(shape: tuple[int, int], rng: np.random.Generator, reach: DeformationRange) -> Field:
    """A random homography followed by smooth elastic noise, within `reach`."""
    longer = max(shape)
    strength = rng.uniform(0, 1)

    def draw(bound: float) -> float:
        return float(rng.uniform(-bound, bound) * strength)

    angle = math.radians(draw(reach.rotation_deg))
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    common = draw(reach.scale)
    stretch = np.array([[1 + common + draw(reach.shear), draw(reach.shear)], [0, 1 + common]])
    matrix = np.eye(3)
    matrix[:2, :2] = rotation @ stretch
    matrix[:2, 2] = [draw(reach.translation) * longer, draw(reach.translation) * longer]
    matrix[2, :2] = [draw(reach.perspective) / longer, draw(reach.perspective) / longer]
    field = homography_field(shape, matrix)
    std = rng.uniform(0, reach.elastic)
    return compose(field, smooth_noise(shape, rng, sigma=rng.uniform(*reach.elastic_sigma), std=std))


def mepma_field(shape: tuple[int, int], rng: np.random.Generator) -> Field:
    """The deformation of ME-PMA's set: +-2 degrees, +-2 % of each side, then uniform noise under a 63-tap
    Gaussian.

    The elastic noise is in units of half a side, as in the augmentation library that set was made with.
    """
    rows, columns = shape
    angle = math.radians(rng.uniform(-MEPMA_ROTATION_DEG, MEPMA_ROTATION_DEG))
    matrix = np.eye(3)
    matrix[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    matrix[:2, 2] = rng.uniform(-MEPMA_TRANSLATION, MEPMA_TRANSLATION, 2) * (columns, rows)
    noise = rng.uniform(-1, 1, (rows, columns, 2)).astype(np.float32)
    blurred = cv2.GaussianBlur(
        noise, (MEPMA_KERNEL, MEPMA_KERNEL), MEPMA_SIGMA, borderType=cv2.BORDER_REFLECT_101
    )
    elastic = np.asarray(blurred * np.array([columns / 2, rows / 2]), np.float32)
    return np.asarray(MEPMA_GAIN * compose(homography_field(shape, matrix), elastic), dtype=np.float32)
