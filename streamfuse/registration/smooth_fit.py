"""From correlation surfaces to one smooth displacement field.

Picking each block's best peak and fitting a field through the peaks wastes what the surfaces know: a block on
a single edge has a ridge, not a peak, and says much across the edge and nothing along it; an ambiguous block
has several peaks of which the field could pick the right one. So the field is fitted to the surfaces in two
stages.

`attract`: every surface becomes a likelihood exp(score / temperature), and two steps are repeated with a
window that narrows from the whole reach to about a pixel. Around the displacement the field predicts for a
block, the mean and covariance of its likelihood under a Gaussian window are taken; with the window divided
out again they are an observation and its 2 x 2 information. Then the coefficients are fitted to all
observations by least squares, weighted by the informations. A block whose mass lies elsewhere than predicted
gets almost no information: that is the robustness.

`polish`: Newton ascent of the total score from there. Likelihoods of sharp peaks fall on whole pixels (peak
locking); the parabolas through the scores themselves do not.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from streamfuse.registration.block_match import BlockScores, FloatArray
from streamfuse.sampling import Matrix

Array = npt.NDArray[np.float64]
Model = Literal["affine", "homography"]
COEFFICIENTS: dict[Model, int] = {"affine": 6, "homography": 8}

TEMPERATURE = 0.03
"""Score difference that makes a displacement e times less likely: the scatter of cross-modal block NCC."""
MAX_INFORMATION = 4.0
"""Largest precision (1 / map pixel^2) one block may claim: half a map pixel, its own labelling noise."""
MIN_VARIANCE = 0.05
"""Smallest variance a sampled likelihood can show (map pixel^2): a peak narrower than the sampling."""
SCORE_TOLERANCE = 0.3
"""A block whose score at the prediction is this much below its best has 1/e of the say in the polish."""
MIN_CURVATURE = 1e-6
"""Keeps the Newton step finite where all surfaces are flat."""
NEAR = 1.5
"""A block agrees with what lies this close to its prediction (map pixels)."""
REFERENCE = 17**2
"""Displacements in a search of 8 map pixels, which agreement is stated for."""
MAX_STEP = 3.0
"""Observations are clipped to this many window widths: beyond, the window has seen nothing."""


@dataclass(frozen=True, slots=True)
class Observations:
    """What each block says about its displacement, relative to the prediction it was asked around.

    pull: float64 (B, 2), information @ (observed - predicted). information: float64 (B, 3) = (xx, xy, yy).
    """

    pull: Array
    information: Array


def likelihoods(scores: BlockScores) -> FloatArray:
    """float32 (B, D, D), 1 at each block's best displacement, all 0 for blocks without texture."""
    best = scores.score.max(axis=(1, 2), keepdims=True)
    values: FloatArray = np.exp((scores.score - best) * np.float32(1 / TEMPERATURE))
    values *= scores.weight[:, None, None]
    return values


def observe(likelihood: FloatArray, predicted: Array, window: float) -> Observations:
    """Ask every block near its predicted displacement (float64 (B, 2), map pixels)."""
    reach = likelihood.shape[-1] // 2
    steps = np.arange(-reach, reach + 1, dtype=np.float32)
    off_x = steps - predicted[:, :1].astype(np.float32)
    off_y = steps - predicted[:, 1:].astype(np.float32)
    scale = np.float32(-0.5 / window**2)
    gauss_x, gauss_y = np.exp(scale * off_x**2), np.exp(scale * off_y**2)
    powers_x = np.stack([gauss_x, gauss_x * off_x, gauss_x * off_x**2], axis=-1)
    powers_y = np.stack([gauss_y, gauss_y * off_y, gauss_y * off_y**2], axis=1)
    moments = (powers_y @ (likelihood @ powers_x)).astype(np.float64)

    mass = moments[:, 0, 0]
    seen = mass > np.finfo(np.float32).tiny
    mass = np.where(seen, mass, 1.0)
    mean_x, mean_y = moments[:, 0, 1] / mass, moments[:, 1, 0] / mass
    var_x = np.maximum(moments[:, 0, 2] / mass - mean_x**2, MIN_VARIANCE)
    var_y = np.maximum(moments[:, 2, 0] / mass - mean_y**2, MIN_VARIANCE)
    limit = np.sqrt(var_x * var_y) * (1 - 1e-3)
    cov = np.clip(moments[:, 1, 1] / mass - mean_x * mean_y, -limit, limit)

    determinant = var_x * var_y - cov**2
    precision_xx, precision_yy, precision_xy = var_y / determinant, var_x / determinant, -cov / determinant
    pull_x = precision_xx * mean_x + precision_xy * mean_y
    pull_y = precision_xy * mean_x + precision_yy * mean_y

    # Divide the window out along the principal axes; an axis on which nothing is left is not observed.
    major, minor, cos, sin = _eigen(precision_xx - window**-2, precision_xy, precision_yy - window**-2)
    kept, pulls = [], []
    for value, along in ((major, cos * pull_x + sin * pull_y), (minor, cos * pull_y - sin * pull_x)):
        information = np.where(seen, np.clip(value, 0, MAX_INFORMATION), 0)
        offset = np.clip(along / np.maximum(value, 1e-3), -MAX_STEP * window, MAX_STEP * window)
        kept.append(information)
        pulls.append(information * offset)
    return Observations(
        np.stack([cos * pulls[0] - sin * pulls[1], sin * pulls[0] + cos * pulls[1]], axis=1),
        _recomposed(kept[0], kept[1], cos, sin),
    )


def attract(likelihood: FloatArray, design: Array, precision: Array, *, windows: tuple[float, ...]) -> Array:
    """First stage: fit displacement = design @ coefficients to the likelihoods of all blocks, from 0.

    Args:
        likelihood: float32 (B, D, D), see `likelihoods`.
        design: float64 (B, 2, K), what each coefficient moves each block by, (dx, dy) in map pixels.
        precision: float64 (K,), prior precision of each coefficient around 0, in 1 / map pixel^2.
        windows: width of the Gaussian window in each iteration, map pixels.

    Returns:
        Coefficients, float64 (K,).
    """
    coefficients = np.zeros(design.shape[2])
    for window in windows:
        seen = observe(likelihood, design @ coefficients, window)
        coefficients = coefficients + _step(design, seen, precision, coefficients)
    return coefficients


def polish(scores: BlockScores, design: Array, precision: Array, start: Array, *, iterations: int) -> Array:
    """Second stage: sub-pixel ascent of the summed scores from `start`; the rest as in `attract`.

    The precision is that of the likelihoods, so it counts times the temperature here.
    """
    coefficients = start
    for _ in range(iterations):
        seen = _climb(scores, design @ coefficients)
        coefficients = coefficients + _step(design, seen, precision * TEMPERATURE, coefficients)
    return coefficients


def _climb(scores: BlockScores, predicted: Array) -> Observations:
    """Slope (as pull) and curvature (as information) of each block's score at its prediction."""
    surface, reach = scores.score, scores.radius
    block = np.arange(len(surface))
    nearest = np.clip(np.rint(predicted), 1 - reach, reach - 1)
    column, row = (nearest + reach).astype(np.intp).T
    near_x, near_y = (predicted - nearest).T

    centre = surface[block, row, column].astype(np.float64)
    left, right = surface[block, row, column - 1], surface[block, row, column + 1]
    above, below = surface[block, row - 1, column], surface[block, row + 1, column]
    bend_xx, bend_yy = left + right - 2 * centre, above + below - 2 * centre
    bend_xy = (
        surface[block, row + 1, column + 1]
        + surface[block, row - 1, column - 1]
        - surface[block, row - 1, column + 1]
        - surface[block, row + 1, column - 1]
    ) / 4.0
    slope_x = (right - left) / 2 + bend_xx * near_x + bend_xy * near_y
    slope_y = (below - above) / 2 + bend_xy * near_x + bend_yy * near_y

    # |eigenvalues| of the curvature: ascent also where the surface is not (yet) concave.
    major, minor, cos, sin = _eigen(-bend_xx, -bend_xy, -bend_yy)
    major, minor = np.abs(major) + MIN_CURVATURE, np.abs(minor) + MIN_CURVATURE
    trust = scores.weight * np.exp((centre - surface.max(axis=(1, 2))) / SCORE_TOLERANCE)
    trust = np.where(np.abs(predicted).max(axis=1) <= reach, trust, 0)
    return Observations(
        np.stack([trust * slope_x, trust * slope_y], axis=1),
        trust[:, None] * _recomposed(major, minor, cos, sin),
    )


def peaks(scores: BlockScores) -> Array:
    """The displacement of each block's best score, to a fraction of a map pixel: float64 (B, 2)."""
    surface, reach = scores.score, scores.radius
    block = np.arange(len(surface))
    best = surface.reshape(len(surface), -1).argmax(axis=1)
    row, column = (np.clip(i, 1, 2 * reach - 1) for i in np.divmod(best, 2 * reach + 1))
    centre = surface[block, row, column].astype(np.float64)

    def vertex(before: FloatArray, after: FloatArray) -> Array:
        bend = np.minimum(before + after - 2 * centre, -MIN_CURVATURE)
        return np.asarray(np.clip((before - after) / (2 * bend), -0.5, 0.5), np.float64)

    dx = vertex(surface[block, row, column - 1], surface[block, row, column + 1])
    dy = vertex(surface[block, row - 1, column], surface[block, row + 1, column])
    return np.asarray(np.stack([column + dx, row + dy], axis=1) - reach, np.float64)


def agreement(likelihood: FloatArray, predicted: Array) -> float:
    """How much of the blocks' likelihood lies within NEAR of the prediction, 0..1, mean over blocks.

    Counted as if every block had searched the REFERENCE displacements, so that a search of any radius gives
    a comparable figure; pictures that have nothing to do with each other give the share of the area.
    """
    reach = likelihood.shape[-1] // 2
    steps = np.arange(-reach, reach + 1)
    near_x = np.abs(steps - predicted[:, :1]) <= NEAR
    near_y = np.abs(steps - predicted[:, 1:]) <= NEAR
    near = np.einsum("byx,by,bx->b", likelihood, near_y, near_x, optimize=True)
    total = likelihood.sum(axis=(1, 2))
    inside = near_y.sum(axis=1) * near_x.sum(axis=1)
    outside = likelihood.shape[-1] ** 2 - inside
    far = (total - near) * ((REFERENCE - inside) / np.maximum(outside, 1))
    textured = total > 0
    return float(np.mean(near[textured] / (near + far)[textured])) if textured.any() else 0.0


def _step(design: Array, seen: Observations, precision: Array, coefficients: Array) -> Array:
    """One step of weighted least squares towards all observations and the prior."""
    xx, xy, yy = seen.information.T[:, :, None]
    move_x, move_y = design[:, 0], design[:, 1]
    normal = move_x.T @ (xx * move_x + xy * move_y) + move_y.T @ (xy * move_x + yy * move_y)
    right = move_x.T @ seen.pull[:, 0] + move_y.T @ seen.pull[:, 1] - precision * coefficients
    return np.asarray(np.linalg.solve(normal + np.diag(precision), right), np.float64)


def _eigen(xx: Array, xy: Array, yy: Array) -> tuple[Array, Array, Array, Array]:
    """Eigenvalues (larger, smaller) of symmetric 2 x 2 matrices and cos, sin of the larger one's axis."""
    centre, half = (xx + yy) / 2, (xx - yy) / 2
    spread = np.hypot(half, xy)
    angle = 0.5 * np.arctan2(xy, half)
    return centre + spread, centre - spread, np.cos(angle), np.sin(angle)


def _recomposed(major: Array, minor: Array, cos: Array, sin: Array) -> Array:
    """(xx, xy, yy) of the matrices with these eigenvalues and axes: (B, 3)."""
    return np.stack(
        [
            major * cos**2 + minor * sin**2,
            (major - minor) * cos * sin,
            major * sin**2 + minor * cos**2,
        ],
        axis=1,
    )


def design_matrix(x: Array, y: Array, size: tuple[int, int], *, model: Model) -> Array:
    """What each coefficient of a model moves points at (x, y) by: float64 (N, 2, 6 or 8).

    Coefficients are displacements in map pixels: of the centre (dx, dy), then gained over half the width to
    the right (dx, dy) and down (dx, dy), then, for a homography, by perspective to the right and down. It
    is the homography's tangent at the identity: exact for small steps, which is what iterations make.
    """
    width, height = size
    u, v = (x - (width - 1) / 2) / (width / 2), (y - (height - 1) / 2) / (width / 2)
    design = np.zeros((len(x), 2, COEFFICIENTS[model]))
    for axis in (0, 1):
        design[:, axis, axis], design[:, axis, 2 + axis], design[:, axis, 4 + axis] = 1, u, v
    if model == "homography":
        design[:, 0, 6], design[:, 1, 6] = u * u, u * v
        design[:, 0, 7], design[:, 1, 7] = u * v, v * v
    return design


def step_matrix(coefficients: Array, size: tuple[int, int]) -> Matrix:
    """The pull matrix p -> p + displacement(p), float64 (3, 3), of coefficients over `design_matrix`."""
    width, height = size
    half = width / 2
    normalised = np.array(
        [[1 / half, 0, (1 - width) / width], [0, 1 / half, (1 - height) / width], [0, 0, 1.0]]
    )
    step = np.eye(3)
    step[:2, 2] = coefficients[:2] / half
    step[:2, 0] += coefficients[2:4] / half
    step[:2, 1] += coefficients[4:6] / half
    if len(coefficients) == COEFFICIENTS["homography"]:
        step[2, :2] = -coefficients[6:8] / half
    matrix = np.linalg.inv(normalised) @ step @ normalised
    return np.asarray(matrix / matrix[2, 2], np.float64)
