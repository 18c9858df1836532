"""Rig calibration from recorded clips, without a target.

Feature matches (ORB and the like) do not cross from heat to light. Correlation of oriented gradient maps
does, weakly in one frame and well when the correlation sums of many frames are added up, for on a rig all
frames share one geometry. In three steps:

1. Scale and place: the infrared, at every field of view from half to one and a half times the visible one,
   is slid over the visible picture (normalised correlation by FFT). The likeliest places are tried by step 2
   on a few frames.
2. From the best, block surfaces added up over all frames, and an affine fit to them (the machinery of the
   `blocks` registrar), repeated.
3. The same with a homography, when asked for.

The evidence is judged in the end: enough blocks must agree, and they must be spread over the overlap.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import scipy.fft

from streamfuse.calibration.calibration import RigCalibration
from streamfuse.errors import CalibrationError, DataError
from streamfuse.frame import Image8
from streamfuse.registration.block_match import BlockScores, CellSums, block_scores, correlate_cells
from streamfuse.registration.gradient_maps import gradient_maps, reduced, working_size
from streamfuse.registration.smooth_fit import (
    COEFFICIENTS,
    Model,
    agreement,
    attract,
    design_matrix,
    likelihoods,
    peaks,
    polish,
    step_matrix,
)
from streamfuse.sampling import Matrix, pull_matrix, resize_matrix

log = logging.getLogger(__name__)

WORKING_SIDE = 320
HALVINGS = 1
"""As in the `blocks` registrar: gradients at 320 pixels, averaged to maps of 160."""
WINDOW = 9
CELL, SPAN = 8, 2
FIELD_RATIOS = np.geomspace(0.5, 1.5, 38)
"""Infrared over visible field of view, in steps of 3 %."""
PLACING_HALVINGS = 2
"""Coarser maps for the scale search: a roll of 3 degrees still leaves most of the correlation."""
PLACING_FRAMES = 10
"""Pairs the search uses: it looks at every scale, and needs less precision."""
PLACES, RATIO_APART = 6, 0.045
"""So many candidates are tried, this far apart in log ratio: neighbours in the search are one."""
MIN_OVERLAP = 0.35
"""Share of the smaller picture that must lie on the other one for a place to be considered."""
Passes = tuple[tuple[int, tuple[float, ...]], ...]
PLACING_PASSES: Passes = ((8, (4.0, 3.0, 2.0, 1.5)), (6, (3.0, 2.0, 1.5)))
AFFINE_PASSES: Passes = ((6, (2.0, 1.5, 1.0)), (6, (2.0, 1.5, 1.0)))
FINAL_PASSES: Passes = ((6, (2.0, 1.5, 1.0)), (6, (2.0, 1.5, 1.0)))
"""(search in map pixels, windows of the fit) of each pass; the final ones fit the model asked for."""
JUDGING_RADIUS = 8
CHANCE_AGREEMENT = 0.05
POLISH_STEPS = 4
PRECISION = np.array([1e-3, 1e-3, 10.0, 10.0, 10.0, 10.0, 50.0, 50.0])
"""Prior of each pass's step (see `smooth_fit`). It damps: nearly free slopes slide along stairs and fences,
and what a pass leaves the next one finds."""
INLIER = 2.0
"""Map pixels (8 of a 640-pixel picture) a block's peak may lie off the geometry: parallax and chance."""
MIN_IR_SIDE, MIN_VIS_SIDE = 24, 96
"""Pixels: fewer do not make up the blocks that a geometry rests on."""
MIN_AGREEMENT = 0.15
"""Clips of different scenes reach 0.07; below 0.15 geometries were found that were 3 pixels off."""
MIN_INLIERS = 12
MIN_SPREAD = 0.45
"""Standard deviation of the inliers' places over that of the whole overlap, in x and in y."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A calibration and what it rests on.

    residual_px: mean distance of the inliers' peaks from the geometry, visible pixels. inliers: share of the
    textured blocks inside the overlap that agree. coverage: share of the visible picture the infrared covers.
    agreement: see `smooth_fit.agreement`.
    """

    calibration: RigCalibration
    residual_px: float
    inliers: float
    coverage: float
    agreement: float
    field_ratio: float


def estimate_calibration(
    pairs: Sequence[tuple[Image8, Image8]],
    *,
    model: Model = "homography",
    made_by: str = "estimated from clips",
) -> Estimate:
    """Find the geometry that all pairs share.

    Args:
        pairs: (raw infrared, visible luma), both uint8 (H, W), each stream of one size. Pairs that show
            different things (people walking, a moving rig) say more than many that are alike.
        model: of the visible-to-infrared mapping.

    Raises:
        DataError: a picture is not uint8 (H, W).
        CalibrationError: no pairs, sizes change, or the evidence is too weak, and what to do about it.
    """
    if not pairs:
        raise CalibrationError("no pairs of frames to calibrate from: the clips do not overlap in time")
    for i, pair in enumerate(pairs):
        for name, image in zip(("infrared", "visible luma"), pair, strict=True):
            if image.dtype != np.uint8 or image.ndim != 2:
                raise DataError(f"pair {i}: {name} is {image.dtype} {image.shape}; must be uint8 (H, W)")
    ir_shape, vis_shape = pairs[0][0].shape, pairs[0][1].shape
    if any(ir.shape != ir_shape or vis.shape != vis_shape for ir, vis in pairs):
        raise CalibrationError("the picture size changes within a clip: calibrate from one recording")
    if min(ir_shape) < MIN_IR_SIDE or min(vis_shape) < MIN_VIS_SIDE:
        raise CalibrationError(
            f"pictures too small to calibrate from: infrared {ir_shape[1]}x{ir_shape[0]}, visible "
            f"{vis_shape[1]}x{vis_shape[0]}; sides of {MIN_IR_SIDE} and {MIN_VIS_SIDE} pixels are needed"
        )
    evidence = _Evidence(pairs)
    few = evidence.thinned(PLACING_FRAMES)
    trials = [few.refine(place, PLACING_PASSES, "affine") for place in few.places()]
    matrix = max(trials, key=few.significance)
    matrix = evidence.refine(matrix, AFFINE_PASSES, "affine")
    matrix = evidence.refine(matrix, FINAL_PASSES, model)
    return evidence.judge(matrix, made_by)


class _Evidence:
    """All pairs at working size, and what their sums say about a geometry."""

    def __init__(self, pairs: Sequence[tuple[Image8, Image8]]) -> None:
        self._pairs = pairs
        ir, vis = pairs[0]
        self.ir_size, self.vis_size = (ir.shape[1], ir.shape[0]), (vis.shape[1], vis.shape[0])
        self.count = len(pairs)
        self._size = working_size(vis.shape, WORKING_SIDE)
        self._to_working = resize_matrix(self._size, self.vis_size)
        self._ir = [ir for ir, _ in pairs]
        self._vis_small = [reduced(vis, self._size) for _, vis in pairs]
        self._vis_maps = [gradient_maps(vis, halvings=HALVINGS, window=WINDOW) for vis in self._vis_small]
        self.map_size = (self._vis_maps[0].shape[1], self._vis_maps[0].shape[0])

    def thinned(self, count: int) -> "_Evidence":
        """At most `count` of the pairs, evenly."""
        if self.count <= count:
            return self
        return _Evidence([self._pairs[i] for i in np.linspace(0, self.count - 1, count).round().astype(int)])

    def places(self) -> list[Matrix]:
        """The likeliest visible-to-infrared mappings of scale and shift alone."""
        vis_maps = [gradient_maps(vis, halvings=PLACING_HALVINGS, window=WINDOW) for vis in self._vis_small]
        found: list[tuple[float, float, Matrix]] = []
        for ratio in FIELD_RATIOS:
            width = round(float(ratio) * self._size[0])
            height = round(width * self.ir_size[1] / self.ir_size[0])
            ir_maps = [
                gradient_maps(_resized(ir, (width, height)), halvings=PLACING_HALVINGS, window=WINDOW)
                for ir in self._ir
            ]
            significance, dx, dy = _slide(vis_maps, ir_maps)
            # Visible pixels -> map pixels -> the same in the infrared's maps -> raw infrared pixels.
            side = 1 << PLACING_HALVINGS
            to_map = resize_matrix((1, 1), (side, side)) @ self._to_working
            shift = np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1.0]])
            from_map = resize_matrix(self.ir_size, (width, height)) @ resize_matrix((side, side), (1, 1))
            found.append((significance, float(ratio), from_map @ shift @ to_map))
            log.debug("field ratio %.3f: %.1f at (%d, %d)", ratio, significance, dx, dy)
        chosen: list[tuple[float, Matrix]] = []
        for _, ratio, place in sorted(found, key=lambda item: -item[0]):
            if all(abs(np.log(ratio / other)) > RATIO_APART for other, _ in chosen):
                chosen.append((ratio, place))
        return [place for _, place in chosen[:PLACES]]

    def refine(self, matrix: Matrix, passes: Passes, model: Model) -> Matrix:
        """Fit the model to the block surfaces around `matrix`, again and again. Raises CalibrationError."""
        for radius, windows in passes:
            scores = self.scores(matrix, radius)
            likelihood = likelihoods(scores)
            design = design_matrix(scores.x, scores.y, self.map_size, model=model)
            precision = PRECISION[: COEFFICIENTS[model]]
            found = attract(likelihood, design, precision, windows=windows)
            found = polish(scores, design, precision, found, iterations=POLISH_STEPS)
            matrix = matrix @ self._in_full_pixels(step_matrix(found, self.map_size))
        return matrix

    def significance(self, matrix: Matrix) -> float:
        """How far from chance the blocks' agreement with a geometry is."""
        scores = self.scores(matrix, JUDGING_RADIUS)
        share = agreement(likelihoods(scores), np.zeros((len(scores.x), 2)))
        log.debug("agreement %.3f of %d blocks", share, np.count_nonzero(scores.weight))
        return float((share - CHANCE_AGREEMENT) * np.sqrt(np.count_nonzero(scores.weight)))

    def scores(self, matrix: Matrix, radius: int) -> BlockScores:
        """Block surfaces around a geometry, all frames added up."""
        total: CellSums | None = None
        shape = (self._size[1], self._size[0])
        source = matrix @ np.linalg.inv(self._to_working)
        for ir, vis_maps in zip(self._ir, self._vis_maps, strict=True):
            pulled, covered = pull_matrix(ir, source, shape)
            ir_maps = gradient_maps(pulled, valid=covered, halvings=HALVINGS, window=WINDOW)
            sums = correlate_cells(ir_maps, vis_maps, cell=CELL, radius=radius)
            total = sums if total is None else total + sums
        assert total is not None
        return block_scores(total.scaled(1 / self.count), span=SPAN)

    def _in_full_pixels(self, step: Matrix) -> Matrix:
        """A pull matrix in map pixels as one in visible pixels."""
        halved = (self.map_size[0] << HALVINGS, self.map_size[1] << HALVINGS)
        to_map = resize_matrix(self.map_size, halved) @ self._to_working
        return np.asarray(np.linalg.inv(to_map) @ step @ to_map, np.float64)

    def judge(self, matrix: Matrix, made_by: str) -> Estimate:
        """The estimate, or CalibrationError when it rests on too little."""
        scores = self.scores(matrix, JUDGING_RADIUS)
        textured = scores.weight > 0
        off = np.hypot(*peaks(scores)[textured].T)
        agreed = off <= INLIER
        share = agreement(likelihoods(scores), np.zeros((len(scores.x), 2)))
        advice = "record clips in which warm things and structure fill the picture, and let the rig move"
        if share < MIN_AGREEMENT or agreed.sum() < MIN_INLIERS:
            raise CalibrationError(
                f"infrared and visible do not agree on any geometry (agreement {share:.2f} of at least "
                f"{MIN_AGREEMENT:.2f}, {agreed.sum()} blocks, {MIN_INLIERS} needed): are they of one "
                f"scene and time? If so, {advice}"
            )
        for axis, places in (("left to right", scores.x[textured]), ("top to bottom", scores.y[textured])):
            spread = places[agreed].std() / max(places.std(), 1e-9)
            if spread < MIN_SPREAD:
                raise CalibrationError(
                    f"what agrees lies in one place, not spread {axis} (spread {spread:.2f} of at least "
                    f"{MIN_SPREAD}): {advice}"
                )
        pixel = (2**HALVINGS) * self.vis_size[0] / self._size[0]
        residual = float(off[agreed].mean() * pixel)
        calibration = RigCalibration.from_matrix(
            matrix,
            ir_size=self.ir_size,
            vis_size=self.vis_size,
            residual_px=round(residual, 3),
            frames=self.count,
            made_by=made_by,
        )
        covered = calibration.bring_infrared(self._ir[0])[1]
        zoom = np.sqrt(np.linalg.det(calibration.matrix[:2, :2] / calibration.matrix[2, 2]))
        return Estimate(
            calibration=calibration,
            residual_px=residual,
            inliers=float(agreed.mean()),
            coverage=float((covered > 0).mean()),
            agreement=share,
            field_ratio=float(self.ir_size[0] / self.vis_size[0] / zoom),
        )


def _resized(image: Image8, size: tuple[int, int]) -> Image8:
    """Averaged when it shrinks, interpolated when it grows."""
    if size[0] <= image.shape[1]:
        return reduced(image, size)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _slide(
    vis: Sequence[npt.NDArray[np.float32]], ir: Sequence[npt.NDArray[np.float32]]
) -> tuple[float, int, int]:
    """Best place of the infrared maps on the visible ones, all frames added up.

    Returns:
        (significance, dx, dy): infrared(p + (dx, dy)) lies on visible(p). The significance is the correlation
        times the root of the number of pixels that overlap: its scatter by chance is the same everywhere.
    """
    (rows, columns), (ir_rows, ir_columns) = vis[0].shape[:2], ir[0].shape[:2]
    shape = tuple(scipy.fft.next_fast_len(n, real=True) for n in (rows + ir_rows, columns + ir_columns))

    def spectrum(maps: npt.NDArray[np.float32]) -> npt.NDArray[np.complex64]:
        return np.asarray(scipy.fft.rfft2(maps, shape, axes=(0, 1)), np.complex64)

    def correlation(a: npt.NDArray[np.complex64], b: npt.NDArray[np.complex64]) -> npt.NDArray[np.float64]:
        return np.asarray(scipy.fft.irfft2(a.conj() * b, shape), np.float64)

    ones_vis, ones_ir = (spectrum(np.ones(n, np.float32)) for n in ((rows, columns), (ir_rows, ir_columns)))
    cross: npt.NDArray[np.complex64] | float = 0.0
    vis_energy, ir_energy = np.zeros((rows, columns), np.float32), np.zeros((ir_rows, ir_columns), np.float32)
    for vis_maps, ir_maps in zip(vis, ir, strict=True):
        cross = cross + (spectrum(vis_maps).conj() * spectrum(ir_maps)).sum(axis=2)
        vis_energy += np.einsum("yxc,yxc->yx", vis_maps, vis_maps)
        ir_energy += np.einsum("yxc,yxc->yx", ir_maps, ir_maps)
    total = np.asarray(scipy.fft.irfft2(cross, shape), np.float64)
    overlap = np.rint(correlation(ones_vis, ones_ir))
    energy = correlation(spectrum(vis_energy), ones_ir) * correlation(ones_vis, spectrum(ir_energy))
    enough = overlap >= MIN_OVERLAP * min(rows * columns, ir_rows * ir_columns)
    score = np.where(enough, total / np.sqrt(np.maximum(energy, 1e-6)), -np.inf) * np.sqrt(
        np.maximum(overlap, 1)
    )
    dy, dx = np.unravel_index(int(score.argmax()), score.shape)
    return (
        float(score[dy, dx]),
        int(dx) - (shape[1] if dx >= ir_columns else 0),
        int(dy) - (shape[0] if dy >= ir_rows else 0),
    )
