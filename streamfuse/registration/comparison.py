"""Which of several fields explains two pictures best? A judge that belongs to no registrar.

A registrar's confidence says how its own matches agree; a narrow search that locked into a wrong field agrees
with itself. So fields are compared on the pictures: the infrared is pulled through each, and block by block
its gradient maps are correlated with the visible ones, on the blocks that all candidates cover.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.flow import resample
from streamfuse.frame import Image8, Mask, Registration
from streamfuse.registration.gradient_maps import Maps, gradient_maps, reduced, working_size
from streamfuse.sampling import positions_of, pull_map, pull_matrix, resize_matrix

LONGEST = 320
HALVINGS, WINDOW = 1, 9
"""The maps of the `blocks` registrar: what it matches is what the cameras have in common."""
BLOCK = 8
"""Side in map pixels, 32 pixels of a 640-pixel picture."""
MIN_ENERGY = 0.05
"""Mean energy a map pixel must have (1 = textured) for a block to count."""
MIN_COMPARED = 12
"""Blocks, a twentieth of a picture: fewer do not tell which field is better for all of it."""
CLEARLY_BETTER = 0.01
"""Block correlation by which a field must explain the pictures better than another one. Between fields half
a pixel apart the correlation differs by less from noise alone."""
SURE = 3.0
"""Standard errors by which the mean difference must stand out."""
NEIGHBOURS = 4.0
"""Blocks that count as one: maps are averaged over a window as wide as a block, so neighbours are alike."""


def likeness(
    ir: Image8, vis: Image8, candidates: Sequence[Registration], *, valid: Mask | None = None
) -> list[float]:
    """Mean normalised correlation of the blocks under each candidate, -1..1; 0 where nothing can be compared.

    Args:
        ir, vis: uint8 (H, W). valid: 255 where `ir` holds picture.
        candidates: fields for pictures of this size.
    """
    by_block = correlations(ir, vis, candidates, valid=valid)
    return [float(blocks.mean()) if blocks.size else 0.0 for blocks in by_block]


def explains_better(
    ir: Image8, vis: Image8, challenger: Registration, held: Registration, *, valid: Mask | None = None
) -> bool:
    """Whether the challenger explains the pictures clearly better than the field held, block beside block.

    Where the scene is hidden, what correlates is chance; it differs from block to block and favours nobody,
    so the mean difference must stand out from its own scatter as well.
    """
    by_challenger, by_held = correlations(ir, vis, (challenger, held), valid=valid)
    gain = by_challenger - by_held
    if gain.size < MIN_COMPARED:
        return False
    mean = float(gain.mean())
    independent = max(1.0, gain.size / NEIGHBOURS)
    return mean > max(CLEARLY_BETTER, SURE * float(gain.std()) / math.sqrt(independent))


def correlations(
    ir: Image8, vis: Image8, candidates: Sequence[Registration], *, valid: Mask | None = None
) -> npt.NDArray[np.float32]:
    """Normalised correlation (candidates, blocks), of the blocks that all candidates cover with texture."""
    size = working_size(vis.shape, LONGEST)
    small_ir, small_vis = reduced(ir, size), reduced(vis, size)
    small_valid = np.full(small_ir.shape, 255, np.uint8) if valid is None else reduced(valid, size)
    vis_maps = gradient_maps(small_vis, halvings=HALVINGS, window=WINDOW)
    moved = [_maps(small_ir, small_valid, vis.shape, candidate) for candidate in candidates]
    vis_energy = _block_means(np.einsum("yxc,yxc->yx", vis_maps, vis_maps))
    energies = [_block_means(np.einsum("yxc,yxc->yx", maps, maps)) for maps in moved]
    textured = np.all([energy > MIN_ENERGY for energy in (vis_energy, *energies)], axis=0)
    return np.stack(
        [
            _block_means(np.einsum("yxc,yxc->yx", maps, vis_maps))[textured]
            / np.sqrt(vis_energy * energy)[textured]
            for maps, energy in zip(moved, energies, strict=True)
        ]
    )


def _maps(ir: Image8, valid: Mask, full: tuple[int, ...], field: Registration) -> Maps:
    """Gradient maps of the working-size infrared pulled through a full-size field; 0 where it is not seen."""
    shape = ir.shape
    if field.matrix is not None:
        to_working = resize_matrix((shape[1], shape[0]), (full[1], full[0]))
        matrix = to_working @ field.matrix @ np.linalg.inv(to_working)
        pulled, inside = pull_matrix(ir, matrix, shape)
        held, _ = pull_matrix(valid, matrix, shape)
    else:
        assert field.flow is not None
        positions = positions_of(resample(field.flow, shape))
        pulled, inside = pull_map(ir, positions)
        held, _ = pull_map(valid, positions)
    covered = np.where((inside == 255) & (held == 255), 255, 0).astype(np.uint8)
    return gradient_maps(pulled, valid=covered, halvings=HALVINGS, window=WINDOW)


def _block_means(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    rows, columns = (max(1, side // BLOCK) for side in values.shape)
    return np.asarray(cv2.resize(values, (columns, rows), interpolation=cv2.INTER_AREA), np.float32)
