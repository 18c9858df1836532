"""Crops of pairs for the training of the `live` fusion network, as varied as what it will meet."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from streamfuse.nn.live_fusion import CELL, LiveFusion
from streamfuse.training.fusion_gains import cell_gains
from streamfuse.training.fusion_people import Person, Street, people_cells, set_people

HAZE = 0.25
"""Share of the crops whose visible picture is filled with smoke: the data sets have none."""
DENSE = 0.75
"""Share of the visible that dense smoke takes away, at least."""
SET = 0.5
"""Share of the crops into which people are set."""
DARK = 0.35
"""Share of the crops whose infrared is darkened around what is hot."""


def _augment(image: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    if rng.random() < 0.5:
        image = image ** np.float32(np.exp(rng.uniform(-0.5, 0.5)))
    if rng.random() < 0.5:
        image = image * np.float32(rng.uniform(0.6, 1.0)) + np.float32(rng.uniform(0, 0.1))
    return np.clip(image, 0, 1)


def _darken(ir: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """As a camera whose gain follows the hottest thing: nearly black around it."""
    black, white = np.quantile(ir, (rng.uniform(0.01, 0.6), 0.999))
    stretched = np.clip((ir - black) / max(float(white - black), 0.05), 0, 1)
    return np.asarray(stretched ** np.float32(rng.uniform(0.9, 1.8)), np.float32)


def add_smoke(
    vis: npt.NDArray[np.float32], rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The visible picture (H, W) in [0, 1] through smoke of uneven thickness, lit evenly, and what share of
    it passes."""
    rows, columns = vis.shape
    thickness = np.zeros_like(vis)
    for cells in (2, 4, 8):
        clouds = rng.random((cells, cells), dtype=np.float32) / np.float32(np.sqrt(cells))
        thickness += cv2.resize(clouds, (columns, rows), interpolation=cv2.INTER_CUBIC)
    thickness = (thickness - thickness.min()) / max(float(np.ptp(thickness)), 1e-6)
    low, high = rng.uniform(-1.5, 1.0), rng.uniform(1.5, 5.0)
    passed = np.exp(-np.maximum(low + (high - low) * thickness, 0))
    light = rng.uniform(0.35, 0.8) + rng.uniform(-0.08, 0.08) * thickness
    return np.asarray(vis * passed + light * (1 - passed), np.float32), passed.astype(np.float32)


def make_crop(
    street: Street, shape: tuple[int, int], rng: np.random.Generator, *, cut: Sequence[Person] = ()
) -> npt.NDArray[np.float32]:
    """One crop, zoomed, perhaps mirrored, with changed tones: float32 (4, H, W) in [0, 1]: ir, vis, where
    people are, where smoke lets pass nothing. cut: people to set into it."""
    rows, columns = shape
    height, width = street.people.shape
    zoom = max(rng.uniform(0.7, 1.6), rows / height, columns / width)
    h, w = min(height, round(rows / zoom)), min(width, round(columns / zoom))
    y, x = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    ir, vis, people = (
        np.asarray(
            cv2.resize(image[y : y + h, x : x + w], (columns, rows), interpolation=cv2.INTER_AREA), np.float32
        )
        / np.float32(255)
        for image in (street.pair.ir, street.pair.vis, street.people)
    )
    if cut and rng.random() < SET:
        set_people((ir, vis), people, cut, rng)
    planes = [_augment(ir, rng), _augment(vis, rng)]
    if rng.random() < DARK:
        planes[0] = _darken(planes[0], rng)
    passed = np.ones_like(people)
    if rng.random() < HAZE:
        planes[1], passed = add_smoke(planes[1], rng)
    # 8-bit values, as the network will meet them: only then is a copied pixel a copied pixel
    crop = np.stack([*(np.round(plane * 255) / np.float32(255) for plane in planes), people, 1 - passed])
    return np.ascontiguousarray(crop[:, :, ::-1] if rng.random() < 0.5 else crop)


@dataclass(frozen=True, slots=True)
class Sample:
    """One crop as the network sees it (`LiveFusion.look`), the cells of people and of dense smoke in it, and
    the gains of each cell (`cell_gains`); None: not judged."""

    means: Tensor
    gradients: Tensor
    people: Tensor
    smoke: Tensor
    gains: Tensor | None


def make_sample(
    street: Street,
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    cut: Sequence[Person] = (),
    judged: bool = True,
) -> Sample:
    """A crop, who is in it, and, if it is to be judged, what it is worth to leave the maximum in it."""
    crop = torch.from_numpy(make_crop(street, shape, rng, cut=cut))[:, None, None]
    ir, vis, people, smoke = crop
    means, gradients = LiveFusion.look(ir, vis)
    dense = (F.avg_pool2d(smoke, CELL, ceil_mode=True) > DENSE).float()
    return Sample(
        means, gradients, people_cells(people), dense, cell_gains(ir, vis)[None] if judged else None
    )
