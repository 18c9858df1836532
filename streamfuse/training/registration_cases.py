"""Pictures with known displacement that the registration network is judged by."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from streamfuse.errors import DataError
from streamfuse.flow import compose, invert
from streamfuse.frame import Image8, Registration
from streamfuse.nn.live_registration import LiveConfig
from streamfuse.registration.live_geometry import positions, stage_fit
from streamfuse.registration.registrar import Registrar
from streamfuse.registration.working import sample
from streamfuse.sampling import pixel_grid
from streamfuse.training.data import Pair, read_grey
from streamfuse.training.deform import DeformationRange, Field, mepma_field, random_field

CASE_SHAPE = (304, 400)
"""Size of the pictures of ME-PMA's set."""
CASE_SEED = 20240607
"""Fixed: the same pairs are always judged by the same deformations."""

SMOOTH = DeformationRange(
    rotation_deg=2.0,
    translation=0.02,
    scale=0.02,
    shear=0.01,
    perspective=0.0,
    elastic=2.0,
    elastic_sigma=(32.0, 32.0),
)
"""As strong as ME-PMA's set, without its roughness."""


@dataclass(frozen=True, slots=True)
class Case:
    """Deformed infrared, visible, uint8 (H, W), and the pull field that registers them, (H, W, 2)."""

    name: str
    ir: Image8
    vis: Image8
    truth: Field


def stretched(pair: Pair) -> Pair:
    """A pair at the size of ME-PMA's set, aspect ratio given up as there."""
    ir, vis = (
        np.asarray(cv2.resize(p, CASE_SHAPE[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        for p in (pair.ir, pair.vis)
    )
    return Pair(pair.name, ir, vis)


def make_cases(pairs: Sequence[Pair], *, smooth: bool = False) -> list[Case]:
    """Pairs deformed like ME-PMA's set, black where nothing was seen.

    That set's elastic part jumps by 0.2 px from pixel to pixel. smooth: of the same size and correlation
    length, but differentiable, as what lenses and parallax do mostly is.
    """
    cases = []
    for number, pair in enumerate(map(stretched, pairs)):
        rng = np.random.default_rng([CASE_SEED, number])
        field = random_field(CASE_SHAPE, rng, SMOOTH) if smooth else mepma_field(CASE_SHAPE, rng)
        moved = sample(pair.ir, pixel_grid(CASE_SHAPE) + field, border=cv2.BORDER_CONSTANT)
        cases.append(Case(pair.name, np.asarray(moved, np.uint8), pair.vis, invert(field)))
    return cases


def same_modality(pairs: Sequence[Pair], *, smooth: bool) -> list[Case]:
    """The infrared against its own deformed copy; `smooth`: by a field without roughness at pixel scale."""
    doubled = [Pair(p.name, p.ir, p.ir) for p in pairs]
    return make_cases(doubled, smooth=smooth)


def warp_truth(folder: Path) -> list[Case]:
    """A set of ir/, vis/, ir_warp/ and disp/ (int16 (H, W, 2), 1/64 px). Raises DataError."""
    cases = []
    for path in sorted((folder / "disp").glob("*.npz")):
        with np.load(path) as file:
            field = file["disp_q64"].astype(np.float32) / 64
        ir, vis = (read_grey(folder / name / f"{path.stem}.png") for name in ("ir_warp", "vis"))
        cases.append(Case(path.stem, ir, vis, invert(field)))
    if not cases:
        raise DataError(f"{folder}: no disp/*.npz")
    return cases


def estimate(registrar: Registrar, ir: Image8, vis: Image8) -> Field:
    """The field that a registrar finds in one cold pass."""
    return field_of(registrar.register(ir, vis))


def field_of(registration: Registration) -> Field:
    """A registration as a field (H, W, 2); only those that hold one."""
    if registration.flow is None:
        raise DataError("only registrations that hold a flow are judged here")
    return registration.flow


def distance(field: Field, truth: Field) -> npt.NDArray[np.float32]:
    """(H, W) end-point error, pixels."""
    return np.asarray(np.linalg.norm(field - truth, axis=-1), np.float32)


def affine_part(field: Field) -> Field:
    """The affine field nearest to a field: what a perfect affine registrar would find."""
    shape = field.shape[:2]
    columns = np.concatenate([pixel_grid(shape), np.ones((*shape, 1), np.float32)], axis=-1).reshape(-1, 3)
    best = np.linalg.lstsq(columns, field.reshape(-1, 2), rcond=None)[0]
    return np.asarray((columns @ best).reshape(field.shape), np.float32)


def spline_part(field: Field) -> Field:
    """The spline surface nearest to a field: what a perfect registrar of this make would find."""
    config = LiveConfig().fine
    shape = (field.shape[0], field.shape[1])
    fitter = stage_fit(shape, config)
    at_cells = torch.from_numpy(sample(field, positions(shape, config))).permute(2, 0, 1)[None]
    dense = fitter.dense(fitter.project(at_cells), torch.arange(shape[0]), torch.arange(shape[1]))
    return np.asarray(dense[0].permute(1, 2, 0).numpy(), np.float32)


def shifted_expectation(own: Field, applied: Field) -> Field:
    """What should be found after deforming a pair whose own misalignment is `own`: own(p) + applied(p +
    own(p)).
    """
    return compose(applied, own)
