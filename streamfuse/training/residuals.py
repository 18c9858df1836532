"""How far training pairs are off themselves, found by a network that was trained on them.

Pairs of real cameras are aligned by hand to a pixel or two, and what they are off by is noise in every
label. A network trained on many of them averages that noise out, so the affine part of what it finds in an
*undeformed* pair is, mostly, the pair's own error; training on with it taken off sharpens the lesson. What
all pairs have in common is left in: it may be the network's own bias.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamfuse.errors import DataError
from streamfuse.nn.live_registration import LiveRegistration
from streamfuse.registration.live import LiveOptions, LiveRegistrar
from streamfuse.registration.working import pixel_grid
from streamfuse.training.data import Pair
from streamfuse.training.registration_cases import field_of

Affine = npt.NDArray[np.float64]


def _affine_of(registrar: LiveRegistrar, pair: Pair) -> Affine:
    """Least-squares (2, 3) displacement, in units of half a side, of the mean of the pair and its mirror
    image.
    """
    straight = field_of(registrar.register(pair.ir, pair.vis))
    mirrored = field_of(
        registrar.register(np.ascontiguousarray(pair.ir[:, ::-1]), np.ascontiguousarray(pair.vis[:, ::-1]))
    )[:, ::-1] * np.array([-1, 1], np.float32)
    field = (straight + mirrored) / 2
    rows, columns = pair.ir.shape
    half = np.array([columns, rows], np.float32) / 2
    unit = np.concatenate(
        [pixel_grid((rows, columns)) / half - 1, np.ones((rows, columns, 1), np.float32)], -1
    )
    solved = np.linalg.lstsq(unit.reshape(-1, 3), (field / half).reshape(-1, 2), rcond=None)[0]
    return np.asarray(solved.T, np.float64)


def estimate_residuals(network: LiveRegistration, pairs: Sequence[Pair]) -> dict[str, list[list[float]]]:
    """Affine residual (2, 3) of every pair by stem, in units of half a side, less what is common to all."""
    registrar = LiveRegistrar(LiveOptions(), network=network)
    found = {pair.name: _affine_of(registrar, pair) for pair in pairs}
    common = np.mean(list(found.values()), axis=0)
    return {name: (affine - common).tolist() for name, affine in found.items()}


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
