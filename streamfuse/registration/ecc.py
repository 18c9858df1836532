"""The `ecc` registrar: enhanced correlation coefficient maximisation on gradient magnitude.

Evangelidis and Psarakis, "Parametric image alignment using enhanced correlation coefficient maximization",
PAMI 2008, as in OpenCV. Gradient magnitude instead of intensity, because heat and light do not correlate, and
its square root, so that a few strong edges do not decide alone. The criterion is local: a shift is found at a
quarter of the size, a turn at half of it, and the full model last. ECC is precise when it converges and far
off when it does not, so a result outside the search range is refused.
"""

from typing import Annotated, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from streamfuse.flow import nearest_affine
from streamfuse.frame import Image8, Mask, Registration, Status
from streamfuse.registration.gradient_maps import reduced, working_size
from streamfuse.registration.registrar import check_pictures
from streamfuse.registration.trust import Trust
from streamfuse.registry import Options
from streamfuse.sampling import Matrix, resize_matrix

Map = npt.NDArray[np.float32]

MIN_SIDE = 48
"""Pixels: smaller pictures do not hold the pyramid."""
WARMING_UP = ((2, cv2.MOTION_TRANSLATION, 5), (1, cv2.MOTION_EUCLIDEAN, 9))
"""(halvings, motion, Gaussian filter in pixels) of the steps before the full model."""
SMOOTHING = 7
"""Gaussian filter of the last step, pixels: wider reaches farther, narrower is more precise."""
MODELS = {"affine": cv2.MOTION_AFFINE, "homography": cv2.MOTION_HOMOGRAPHY}
ITERATIONS = 30
TOLERANCE = 1e-4
MIN_TEXTURE = 0.3
"""Standard deviation of the gradient map (root of grey levels a pixel) below which there is only noise."""
CHANCE_CORRELATION = 0.25
"""Of the maps; nothing was matched below this: unrelated pictures reach 0.26."""
COLD_TRUST, WARM_TRUST = Trust((14.46,), -5.17), Trust((9.57,), -2.62)
"""From `streamfuse train confidence --model ecc`: 929 cases, RoadScene pairs and rendered streets."""


class EccOptions(Options):
    """Options of the `ecc` registrar."""

    model: Literal["affine", "homography"] = "affine"
    search: Annotated[
        float,
        Field(ge=0.01, le=0.25, description="largest displacement believed, as a share of the longer side"),
    ] = 0.06
    longest: Annotated[int, Field(ge=64, le=4096, description="longest side aligned, pixels")] = 400


class EccRegistrar:
    """OpenCV's ECC from coarse to fine and from simple to full motion."""

    Options = EccOptions

    def __init__(self, options: EccOptions, *, device: str = "cpu") -> None:
        self._options = options

    def register(
        self, ir: Image8, vis: Image8, *, valid: Mask | None = None, prior: Registration | None = None
    ) -> Registration:
        """See `Registrar.register`; the field is a matrix. DataError: see `check_pictures`."""
        check_pictures(ir, vis)
        if min(vis.shape) < MIN_SIDE:
            return _off(f"the picture is smaller than {MIN_SIDE} pixels")
        size = working_size(vis.shape, self._options.longest)
        maps = _gradient(reduced(vis, size)), _gradient(reduced(ir, size))
        for name, gradient in zip(("visible", "infrared"), maps, strict=True):
            if gradient.std() < MIN_TEXTURE:
                return _off(f"too little texture in the {name} picture")
        inside = np.full(maps[0].shape, 255, np.uint8) if valid is None else reduced(valid, size)
        to_working = resize_matrix(size, (vis.shape[1], vis.shape[0]))
        back = np.linalg.inv(to_working)
        full = [(0, MODELS[self._options.model], SMOOTHING)]
        if prior is not None:
            found = self._result(maps, inside, to_working @ nearest_affine(prior) @ back, full)
        else:
            found = self._result(maps, inside, np.eye(3), [*WARMING_UP, *full])
        if found is None:
            return _off("the alignment did not converge within the search range")
        return self._registration(back @ found[0] @ to_working, found[1], warm=prior is not None)

    def _result(
        self,
        maps: tuple[Map, Map],
        inside: Mask,
        start: Matrix,
        steps: list[tuple[int, int, int]],
    ) -> tuple[Matrix, float] | None:
        """Matrix in working pixels and the correlation it reaches; None: diverged."""
        matrix, correlation = start, 0.0
        size = (maps[0].shape[1], maps[0].shape[0])
        for halvings, motion, smoothing in steps:
            level_size = (max(1, size[0] >> halvings), max(1, size[1] >> halvings))
            vis, ir = (_at_size(gradient, level_size) for gradient in maps)
            mask = np.where(reduced(inside, level_size) == 255, 255, 0).astype(np.uint8)
            to_level = resize_matrix(level_size, size)
            initial = to_level @ matrix @ np.linalg.inv(to_level)
            found = _ecc(vis, ir, mask, initial, motion, smoothing)
            if found is None:
                return None
            matrix, correlation = np.linalg.inv(to_level) @ found[0] @ to_level, found[1]
        corners = np.array([[[0, 0], [size[0] - 1, 0], [0, size[1] - 1], [size[0] - 1, size[1] - 1.0]]])
        moved = np.abs(cv2.perspectiveTransform(corners, matrix) - corners).max()
        return (matrix / matrix[2, 2], correlation) if moved <= self._options.search * max(size) else None

    def _registration(self, matrix: Matrix, correlation: float, *, warm: bool) -> Registration:
        if correlation < CHANCE_CORRELATION:
            return _off(f"gradients correlate by {correlation:.2f} only")
        return Registration(
            status=Status.OK,
            confidence=(WARM_TRUST if warm else COLD_TRUST)((correlation,)),
            matrix=matrix / matrix[2, 2],
            warm=warm,
            evidence=(correlation,),
        )


def _ecc(
    vis: Map, ir: Map, mask: Mask, initial: Matrix, motion: int, smoothing: int
) -> tuple[Matrix, float] | None:
    """One run of ECC; None when it did not converge."""
    perspective = motion == cv2.MOTION_HOMOGRAPHY
    guess = (initial if perspective else initial[:2]).astype(np.float32)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, ITERATIONS, TOLERANCE)
    try:
        correlation, rows = cv2.findTransformECC(vis, ir, guess, motion, criteria, mask, smoothing)
    except cv2.error:  # OpenCV says by exception that the iteration diverged or the overlap vanished
        return None
    matrix = np.eye(3)
    matrix[: rows.shape[0]] = rows
    usable = np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > 1e-6
    return (matrix, float(correlation)) if usable else None


def _gradient(image: Image8) -> Map:
    """Square root of the gradient magnitude in grey levels a pixel, float32 (H, W)."""
    gx = cv2.Sobel(image, cv2.CV_32F, 1, 0, scale=1 / 8)
    gy = cv2.Sobel(image, cv2.CV_32F, 0, 1, scale=1 / 8)
    return np.sqrt(cv2.magnitude(gx, gy))


def _at_size(gradient: Map, size: tuple[int, int]) -> Map:
    if (gradient.shape[1], gradient.shape[0]) == size:
        return gradient
    return np.asarray(cv2.resize(gradient, size, interpolation=cv2.INTER_AREA), np.float32)


def _off(reason: str) -> Registration:
    return Registration(status=Status.OFF, confidence=0.0, matrix=np.eye(3), reason=reason)
