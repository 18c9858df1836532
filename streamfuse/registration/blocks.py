"""The `blocks` registrar: classical matching of edges across modalities, no learning.

Gradient maps at a fraction of the picture's size, correlation surfaces of overlapping blocks, and an affine
field fitted to all surfaces at once. On RoadScene training pairs under random affine and elastic deformations
(mean 6.0 px at 400x304) it leaves 2.5 px; a perfect affine fit leaves 1.9, and the pairs themselves are only
aligned to 1 or 2 px.

Finer maps do not help across modalities (2.4 -> 2.5 px median): at fine scale the two cameras see different
things. So the maps have one size, 160 columns, and only searches too wide for it begin on a coarser one.
"""

from dataclasses import dataclass
from math import ceil
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field

from streamfuse.flow import nearest_affine
from streamfuse.frame import Image8, Mask, Registration, Status
from streamfuse.registration.block_match import block_scores, correlate_cells
from streamfuse.registration.gradient_maps import gradient_maps, reduced, working_size
from streamfuse.registration.registrar import check_pictures
from streamfuse.registration.smooth_fit import (
    agreement,
    attract,
    design_matrix,
    likelihoods,
    polish,
    step_matrix,
)
from streamfuse.registration.trust import Trust
from streamfuse.registry import Options
from streamfuse.sampling import Matrix, is_identity, pull_matrix, resize_matrix
from streamfuse.spans import span

WORKING_SIDE = 320
"""Longest side, in pixels, that gradients are taken at: fine enough for texture, cheap."""
FINE_HALVINGS, COARSE_HALVINGS = 1, 2
"""The maps are the gradient energy at a half, or for wide searches first a quarter, of the working size."""
CELL = 8
SPAN = 2
"""Blocks of 16 map pixels (64 pixels of a 640-pixel picture), overlapping by half."""
NORMALISING_WINDOW = 9
MAX_RADIUS = 12
"""Map pixels: a wider search begins on the coarse maps, which cost a quarter."""
NEAR_RADIUS = 6
"""Search in map pixels around a coarser result."""
WARM_RADIUS = 3
"""Search in map pixels around a prior: 12 pixels of a 640-pixel picture, more than a rig moves between two
frames, at less than half the time of a cold search."""
WIDE_PASSES = 2
"""Fine passes after a coarse one: large turns are found in two steps, for the prior damps each."""
WINDOWS = (6.0, 4.0, 3.0, 2.0, 1.5, 1.0)
"""Widths of the fitting window, map pixels, from the whole reach to the width of a correlation peak."""
NEAR_WINDOWS = (3.0, 2.0, 1.5, 1.0)
POLISH_STEPS = 3
PRECISION = np.array([1e-3, 1e-3, 20.0, 20.0, 20.0, 20.0])
"""Of the coefficients before anything was seen. The shift is free, but for pictures without texture.
Rotation, scale and shear rest on few blocks when texture is one-sided: they stay near the start unless about
this much information (1 / map pixel^2, at the picture's side) says otherwise. Tuned with the above on
RoadScene training pairs; 5 to 50 differ little."""
MIN_SIDE = 48
"""Pixels: smaller pictures do not hold the blocks that a fit needs."""
MIN_COVERAGE = 0.04
"""Share of blocks with texture in both pictures below which no affine field is determined."""
CHANCE_AGREEMENT = 0.06
"""Nothing was matched below this. Pictures of different scenes agree by 0.046 (median of 60) to 0.068 (most),
pairs that belong together by 0.13 (least), 0.15 (5 %), 0.35 (median)."""
COLD_TRUST, WARM_TRUST = Trust((2.54,), 4.05), Trust((3.65,), 7.52)
"""From `streamfuse train confidence`, 1014 cases of RoadScene training pairs and rendered streets. How many
blocks speak, or the formal variance of the fit, adds nothing to the agreement there."""


class BlocksOptions(Options):
    """Options of the `blocks` registrar."""

    search: Annotated[
        float,
        Field(ge=0.01, le=0.25, description="largest displacement looked for, as a share of the longer side"),
    ] = 0.05


@dataclass(frozen=True, slots=True)
class Match:
    """A pull matrix in full-size pixels, how well the blocks agree with it and how many can speak (0..1)."""

    matrix: Matrix
    agreement: float
    coverage: float

    @property
    def evidence(self) -> tuple[float, ...]:
        """What the confidence rests on: the logarithm of the agreement."""
        return (float(np.log(max(self.agreement, CHANCE_AGREEMENT))),)


class BlocksRegistrar:
    """Block matching of oriented gradient maps and a robust affine fit."""

    Options = BlocksOptions

    def __init__(self, options: BlocksOptions, *, device: str = "cpu") -> None:
        self._options = options

    def register(
        self, ir: Image8, vis: Image8, *, valid: Mask | None = None, prior: Registration | None = None
    ) -> Registration:
        """See `Registrar.register`; the field is an affine matrix. DataError: see `check_pictures`."""
        check_pictures(ir, vis)
        if min(vis.shape) < MIN_SIDE:
            return _off(f"the picture is smaller than {MIN_SIDE} pixels")
        pair = _Pair(ir, vis, valid)
        if prior is None:
            return _registration(self._cold(pair), warm=False)
        start = nearest_affine(prior)
        return _registration(pair.match(start, FINE_HALVINGS, WARM_RADIUS, NEAR_WINDOWS), warm=True)

    def _cold(self, pair: "_Pair") -> Match:
        radius = ceil(self._options.search * pair.map_side(FINE_HALVINGS))
        if radius <= MAX_RADIUS:
            return pair.match(np.eye(3), FINE_HALVINGS, radius, WINDOWS)
        radius = ceil(self._options.search * pair.map_side(COARSE_HALVINGS))
        match = pair.match(np.eye(3), COARSE_HALVINGS, radius, WINDOWS)
        for _ in range(WIDE_PASSES):
            match = pair.match(match.matrix, FINE_HALVINGS, NEAR_RADIUS, NEAR_WINDOWS)
        return match


class _Pair:
    """Two pictures at working size."""

    def __init__(self, ir: Image8, vis: Image8, valid: Mask | None) -> None:
        self.size = working_size(vis.shape, WORKING_SIDE)
        self.ir, self.vis = reduced(ir, self.size), reduced(vis, self.size)
        self.valid = None if valid is None or valid.all() else reduced(valid, self.size)
        self._to_working = resize_matrix(self.size, (vis.shape[1], vis.shape[0]))

    def map_side(self, halvings: int) -> int:
        return max(self.size) >> halvings

    def match(self, start: Matrix, halvings: int, radius: int, windows: tuple[float, ...]) -> Match:
        """Search +-radius map pixels around the pull matrix `start` (full-size pixels)."""
        if min(self.size) >> halvings < CELL:
            return Match(start, 0.0, 0.0)
        ir, valid = self._started(start)
        with span("maps"):
            ir_maps = gradient_maps(ir, valid=valid, halvings=halvings, window=NORMALISING_WINDOW)
            vis_maps = gradient_maps(self.vis, halvings=halvings, window=NORMALISING_WINDOW)
        with span("correlate"):
            scores = block_scores(correlate_cells(ir_maps, vis_maps, cell=CELL, radius=radius), span=SPAN)
        coverage = float(scores.weight.mean())
        if coverage < MIN_COVERAGE:
            return Match(start, 0.0, coverage)
        map_size = (vis_maps.shape[1], vis_maps.shape[0])
        with span("fit"):
            likelihood = likelihoods(scores)
            design = design_matrix(scores.x, scores.y, map_size, model="affine")
            found = attract(likelihood, design, PRECISION, windows=windows)
            found = polish(scores, design, PRECISION, found, iterations=POLISH_STEPS)

        halved = (map_size[0] << halvings, map_size[1] << halvings)
        to_map = resize_matrix(map_size, halved) @ self._to_working
        step = np.linalg.inv(to_map) @ step_matrix(found, map_size) @ to_map
        return Match(start @ step, agreement(likelihood, design @ found), coverage)

    def _started(self, start: Matrix) -> tuple[Image8, Mask | None]:
        """The infrared pulled through `start`, and where it holds."""
        if is_identity(start):
            return self.ir, self.valid
        matrix = self._to_working @ start @ np.linalg.inv(self._to_working)
        shape = (self.size[1], self.size[0])
        ir, covered = pull_matrix(self.ir, matrix, shape)
        if self.valid is None:
            return ir, covered
        held, _ = pull_matrix(self.valid, matrix, shape)
        return ir, np.asarray(cv2.bitwise_and(covered, np.where(held == 255, held, 0)), np.uint8)


def _registration(match: Match, *, warm: bool) -> Registration:
    if match.coverage < MIN_COVERAGE:
        return _off("too little texture to match")
    if match.agreement < CHANCE_AGREEMENT:
        return _off("infrared and visible do not agree anywhere within reach")
    return Registration(
        status=Status.OK,
        confidence=(WARM_TRUST if warm else COLD_TRUST)(match.evidence),
        matrix=match.matrix,
        warm=warm,
        evidence=match.evidence,
    )


def _off(reason: str) -> Registration:
    return Registration(status=Status.OFF, confidence=0.0, matrix=np.eye(3), reason=reason)
