"""Samples for the `live` registration network.

One sample is one crop of a pair, deformed twice: far, for the coarse stage, and near, for the fine stage,
which at run time sees what the coarse stage (or the field of the last frame) left over. Both truths are
known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from streamfuse.flow import invert
from streamfuse.nn.live_registration import LiveConfig
from streamfuse.registration.live_geometry import positions
from streamfuse.registration.working import normalise, sample
from streamfuse.sampling import pixel_grid
from streamfuse.training.augment import Plane, occlude, photometric
from streamfuse.training.data import Pair
from streamfuse.training.deform import DeformationRange, Field, random_field

COARSE_EVERY = 6
"""Steps from one lesson of the coarse stage to the next: it learns faster, and less is asked of it."""
SELF_SHARE = 0.14
"""Share of samples where both pictures are of one modality: a lesson in precision, without label noise."""
SELF_FLIP, IR_FLIP, VIS_FLIP = 0.5, 0.06, 0.03
"""How often polarity is reversed: cold on warm is as common as warm on cold, over a day."""
OCCLUDED = 0.15
FRAMED = 0.6
INSET = 0.06
"""How often the infrared ends inside the picture, and how far at most, of its side."""
FAR = DeformationRange(
    rotation_deg=7,
    translation=0.11,
    scale=0.09,
    shear=0.04,
    perspective=0.06,
    elastic=4.0,
    elastic_sigma=(20, 64),
)
"""What the coarse stage must find: well beyond the public sets, within its search."""
NEAR = DeformationRange(
    rotation_deg=2,
    translation=0.024,
    scale=0.02,
    shear=0.012,
    perspective=0.02,
    elastic=2.4,
    elastic_sigma=(18, 40),
)
"""What the fine stage must find: what a coarse fit leaves, or what the field of the last frame is off by."""


@dataclass(frozen=True, slots=True)
class Deformed:
    """A deformed infrared crop, where it holds picture, and at given positions what brings it back."""

    ir: Plane
    valid: Plane
    truth: Field


def _crop(pair: Pair, shape: tuple[int, int], rng: np.random.Generator) -> Field:
    """Source positions of a random window of the pair, zoomed, stretched and perhaps mirrored."""
    rows, columns = shape
    height, width = pair.ir.shape
    zoom = np.exp(rng.uniform(-0.25, 0.35)) * np.exp(rng.uniform(-0.12, 0.12, 2) * (1, -1))
    fit = max(1.0, columns / ((width - 1) * zoom[0]), rows / ((height - 1) * zoom[1]))
    zoom = zoom * fit
    room = np.array([width - 1 - (columns - 1) / zoom[0], height - 1 - (rows - 1) / zoom[1]])
    origin = rng.uniform(0, 1, 2) * np.maximum(room, 0)
    grid = pixel_grid(shape).copy()
    if rng.random() < 0.5:
        grid[..., 0] = columns - 1 - grid[..., 0]
    return np.asarray(grid / zoom + origin, np.float32)


def _deform(
    image: Plane,
    window: Field,
    residual: npt.NDArray[np.float64] | None,
    at: Field,
    reach: DeformationRange,
    rng: np.random.Generator,
) -> Deformed:
    """Deform what `window` cuts out of `image`; what a sensor of that field of view misses is black,
    mostly.
    """
    rows, columns = window.shape[:2]
    field = random_field((rows, columns), rng, reach)
    moved = pixel_grid((rows, columns)) + field
    step_x, step_y = window[0, 1] - window[0, 0], window[1, 0] - window[0, 0]
    source = window[0, 0] + moved[..., :1] * step_x + moved[..., 1:] * step_y
    if residual is not None:
        source = source @ residual[:, :2].T + residual[:, 2]
    ir = sample(image, np.asarray(source, np.float32), border=cv2.BORDER_REPLICATE)
    valid = np.ones((rows, columns), np.float32)
    if rng.random() < FRAMED:
        inset = rng.uniform(0, INSET, 4) * (rng.random() < 0.4)
        x, y = moved[..., 0], moved[..., 1]
        inside = (x >= inset[0] * columns) & (x <= columns - 1 - inset[1] * columns)
        inside &= (y >= inset[2] * rows) & (y <= rows - 1 - inset[3] * rows)
        valid = inside.astype(np.float32)
        ir = ir * valid
    return Deformed(ir, valid, invert(field, at))


class Cells(NamedTuple):
    """Positions (h, w, 2) of the matches of both stages in a picture."""

    coarse: Field
    fine: Field

    @classmethod
    def of(cls, shape: tuple[int, int], config: LiveConfig) -> "Cells":
        return cls(*(positions(shape, stage) for stage in (config.coarse, config.fine)))


def make_sample(
    pairs: Sequence[Pair], shape: tuple[int, int], cells: Cells, rng: np.random.Generator, *, far: bool
) -> dict[str, npt.NDArray[np.float32]]:
    """One training sample: `vis` (H, W), and for the `near` and, if asked for, the `far` deformation
    `ir_*`, `valid_*` (H, W) and `truth_*` (2, h, w) at the cells of their stage."""
    pair = pairs[int(rng.integers(len(pairs)))]
    other = pairs[int(rng.integers(len(pairs)))]
    window = _crop(pair, shape, rng)
    sources = {"ir": pair.ir.astype(np.float32), "vis": pair.vis.astype(np.float32)}
    kind = rng.random()
    ir_from = "vis" if kind < SELF_SHARE / 2 else "ir"
    vis_from = "ir" if kind > 1 - SELF_SHARE / 2 else "vis"
    flip = SELF_FLIP if ir_from == vis_from else IR_FLIP
    vis = photometric(np.asarray(sample(sources[vis_from], window)), rng, flip=VIS_FLIP, softest=1.5)
    if rng.random() < OCCLUDED:
        vis = occlude(vis, _stretched(other.vis, shape), rng)
    result = {"vis": normalise(vis)}
    for name, reach, at in (("far", FAR, cells.coarse), ("near", NEAR, cells.fine)):
        if name == "far" and not far:
            continue
        own = pair.residual if ir_from != vis_from else None
        deformed = _deform(sources[ir_from], window, own, at, reach, rng)
        ir = photometric(deformed.ir, rng, flip=flip, softest=2.0)
        if rng.random() < OCCLUDED:
            ir = occlude(ir, _stretched(other.ir, shape), rng)
        told = rng.random() < 0.5
        result |= {
            f"ir_{name}": normalise(ir),
            f"valid_{name}": deformed.valid if told else np.ones_like(deformed.valid),
            f"truth_{name}": np.ascontiguousarray(deformed.truth.transpose(2, 0, 1)),
        }
    return result


def _stretched(image: npt.NDArray[np.uint8], shape: tuple[int, int]) -> Plane:
    return np.asarray(cv2.resize(image, (shape[1], shape[0])), np.float32)


def make_batch(
    pairs: Sequence[Pair], shape: tuple[int, int], cells: Cells, size: int, *, seed: int, step: int
) -> dict[str, Tensor]:
    """The batch of one step; it depends on (seed, step) alone, so a resumed run sees what it would have
    seen.
    """
    far = step % COARSE_EVERY == 0
    samples = [
        make_sample(pairs, shape, cells, np.random.default_rng([seed, step, i]), far=far) for i in range(size)
    ]
    batch = {}
    for key in samples[0]:
        stacked = torch.from_numpy(np.stack([s[key] for s in samples]))
        batch[key] = stacked if stacked.ndim == 4 else stacked[:, None]
    return batch
