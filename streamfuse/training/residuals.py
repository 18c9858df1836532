"""How far training pairs are off themselves, found by two registrars that share nothing.

Pairs of real cameras are aligned by hand to a pixel or two, and what they are off by is noise in every
label. A network trained on many of them averages that noise out, so the affine part of what it finds in an
*undeformed* pair is, in part, the pair's own error; so is what `blocks`, which was never trained, finds.
Their mean, shrunk by how far they can be believed, is taken off before training goes on. What all pairs have
in common is left in: it may be a bias of the methods.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamfuse.errors import DataError
from streamfuse.flow import to_flow
from streamfuse.nn.live_registration import LiveRegistration
from streamfuse.registration import REGISTRARS
from streamfuse.registration.blocks import BlocksOptions
from streamfuse.registration.live import LiveOptions, LiveRegistrar
from streamfuse.registration.registrar import Registrar
from streamfuse.sampling import pixel_grid
from streamfuse.training.data import Pair

Affine = npt.NDArray[np.float64]


def _affine_of(registrar: Registrar, pair: Pair) -> Affine:
    """Least-squares (2, 3) displacement, in units of half a side, of the mean of the pair and its mirror
    image.
    """
    rows, columns = pair.ir.shape
    mirrored = (np.ascontiguousarray(picture[:, ::-1]) for picture in (pair.ir, pair.vis))
    straight = to_flow(registrar.register(pair.ir, pair.vis), (rows, columns))
    flipped = to_flow(registrar.register(*mirrored), (rows, columns))[:, ::-1] * np.array([-1, 1], np.float32)
    field = (straight + flipped) / 2
    half = np.array([columns, rows], np.float32) / 2
    unit = np.concatenate(
        [pixel_grid((rows, columns)) / half - 1, np.ones((rows, columns, 1), np.float32)], -1
    )
    solved = np.linalg.lstsq(unit.reshape(-1, 3), (field / half).reshape(-1, 2), rcond=None)[0]
    return np.asarray(solved.T, np.float64)


def estimate_residuals(network: LiveRegistration, pairs: Sequence[Pair]) -> dict[str, list[list[float]]]:
    """Affine residual (2, 3) of every pair by stem, in units of half a side, less what is common to all.

    Two estimates a, b of t with independent errors: E[a b] = E[t^2], so the best multiple of their mean is
    E[a b] / E[((a + b) / 2)^2] (Wiener).
    """
    registrars = (LiveRegistrar(LiveOptions(), network=network), REGISTRARS.load("blocks")(BlocksOptions()))
    found = np.array([[_affine_of(registrar, pair) for registrar in registrars] for pair in pairs])
    found -= found.mean(axis=0)
    mean = found.mean(axis=1)
    believed = np.clip((found[:, 0] * found[:, 1]).sum() / max(float((mean * mean).sum()), 1e-12), 0, 1)
    return {pair.name: (believed * affine).tolist() for pair, affine in zip(pairs, mean, strict=True)}


def write_residuals(residuals: dict[str, list[list[float]]], path: Path) -> None:
    path.write_text(json.dumps(residuals, indent=1) + "\n", encoding="utf-8")


def apply_residuals(pairs: Sequence[Pair], path: Path) -> list[Pair]:
    """The pairs, those that the file knows with their residual. Raises DataError."""
    try:
        residuals = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: residuals cannot be read: {error}") from error
    return [
        replace(pair, residual=_in_pixels(np.array(residuals[pair.name]), pair.ir.shape))
        if pair.name in residuals
        else pair
        for pair in pairs
    ]


def _in_pixels(unit: Affine, shape: tuple[int, ...]) -> Affine:
    """From displacement in half sides over coordinates -1..1 to a map of pixels."""
    half = np.array([shape[1], shape[0]], np.float64) / 2
    linear = unit[:, :2] * half[:, None] / half[None, :]
    offset = unit[:, 2] * half - linear @ half
    return np.column_stack([np.eye(2) + linear, offset])
