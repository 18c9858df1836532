"""People for the training of the `live` fusion network: where they are, and more of them.

Real pairs carry boxes marked by hand, rendered pairs their exact masks (`training/rendered.py`). As both have
few people, those that are large enough are cut out and set into other pictures, in any size and contrast.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional as F

from streamfuse.errors import DataError
from streamfuse.frame import Mask
from streamfuse.nn.live_fusion import CELL
from streamfuse.training.data import Pair, load_pairs, read_grey
from streamfuse.training.rendered import PEOPLE

Box = tuple[int, int, int, int]
Floats = npt.NDArray[np.float32]

MARGIN = 16
"""Pixels around a box that help to tell warm from cold inside it."""
CUT_HEIGHT = 28
"""Pixels: smaller people have no shape worth to be set elsewhere."""
CUT_WARMER = 15.0
"""Grey levels by which a person has to be warmer than around to be cut out."""
SET_HEIGHT = 14, 210
"""Pixels: heights of people set into a crop, evenly in their logarithm."""
SET_WARMER = 0.1, 0.65
"""Of full scale: by how much they are warmer than where they are set."""
SET_MOST = 5
UNSEEN = 0.35
"""Share of those that the visible picture does not show at all."""
GROWN = 9
"""Pixels by which masks are widened: the network must not stop short of an outline."""
COVERED = 0.25
"""Share of a cell from which it counts as people's."""


@dataclass(frozen=True, slots=True)
class Street:
    """A pair and where people are in it: uint8 (H, W), 255 on them."""

    pair: Pair
    people: Mask


@dataclass(frozen=True, slots=True)
class Person:
    """Cut out: infrared and visible less their means over the mask, of full scale, and the mask, 0..1;
    float32 (h, w) each."""

    ir: Floats
    vis: Floats
    mask: Floats


def mark(pair: Pair, boxes: Sequence[Box]) -> Street:
    """What is warm in boxes (left, top, right, bottom): above Otsu's threshold of the box and a margin."""
    people = np.zeros_like(pair.ir)
    for left, top, right, bottom in boxes:
        area = pair.ir[max(0, top - MARGIN) : bottom + MARGIN, max(0, left - MARGIN) : right + MARGIN]
        if area.size == 0:
            raise DataError(f"{pair.name}: box {left}, {top}, {right}, {bottom} is not in the picture")
        level, _ = cv2.threshold(area, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
        inside = people[top:bottom, left:right]
        inside[pair.ir[top:bottom, left:right] > level] = 255
    return Street(pair, people)


def load_streets(folder: Path) -> list[Street]:
    """Rendered pairs with their masks. Raises DataError."""
    streets = []
    for pair in load_pairs(folder):
        people = read_grey(folder / PEOPLE / f"{pair.name}.png")
        if people.shape != pair.ir.shape:
            raise DataError(f"{folder}: mask {pair.name} is {people.shape}, the pictures are {pair.ir.shape}")
        streets.append(Street(pair, people))
    return streets


def cut_people(streets: Sequence[Street]) -> list[Person]:
    """Everybody who is large and warm enough."""
    found = []
    for street in streets:
        ir, vis = street.pair.ir, street.pair.vis
        number, labels, boxes, _ = cv2.connectedComponentsWithStats(street.people)
        for label in range(1, number):
            left, top, width, height, area = (int(x) for x in boxes[label])
            if height < CUT_HEIGHT or height < width or 4 * area < width * height:
                continue
            around = (slice(max(0, top - 4), top + height + 4), slice(max(0, left - 4), left + width + 4))
            inside = labels[around] == label
            warmth = ir[around][inside].mean() - ir[around][street.people[around] == 0].mean()
            if not warmth > CUT_WARMER:
                continue
            planes = [
                (image[around].astype(np.float32) - np.float32(image[around][inside].mean()))
                / np.float32(255)
                for image in (ir, vis)
            ]
            found.append(Person(planes[0], planes[1], inside.astype(np.float32)))
    return found


def set_people(
    planes: Sequence[Floats], people: Floats, cut: Sequence[Person], rng: np.random.Generator
) -> None:
    """Set some of `cut` into pictures (ir, vis) and mask, float32 (H, W) in [0, 1], changed in place."""
    for _ in range(int(rng.integers(1, SET_MOST + 1))):
        person = cut[int(rng.integers(len(cut)))]
        height = float(np.exp(rng.uniform(*np.log(SET_HEIGHT))))
        zoom = height / person.mask.shape[0]
        size = (max(4, round(person.mask.shape[1] * zoom)), max(4, round(height)))
        way = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
        ir, vis, mask = (
            np.asarray(cv2.resize(x, size, interpolation=way), np.float32)
            for x in (person.ir, person.vis, person.mask)
        )
        mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), 0.3 + 0.01 * height), np.float32)
        if rng.random() < 0.5:
            ir, vis, mask = ir[:, ::-1], vis[:, ::-1], mask[:, ::-1]
        rows, columns = people.shape
        y = int(rng.integers(-size[1] // 4, max(1, rows - size[1] // 2)))
        x = int(rng.integers(-size[0] // 2, max(1, columns - size[0] // 2)))
        there = (slice(max(0, y), y + size[1]), slice(max(0, x), x + size[0]))
        here = (slice(max(0, -y), rows - y), slice(max(0, -x), columns - x))
        alpha = mask[here]
        if alpha.size == 0 or alpha.max() < 0.5:
            continue
        warm = planes[0][there][alpha > 0.5].mean() + rng.uniform(*SET_WARMER)
        texture = np.float32(rng.uniform(0.3, 1.2))
        _blend(planes[0][there], np.clip(np.float32(min(warm, 1)) + texture * ir[here], 0, 1), alpha)
        if rng.random() > UNSEEN:
            light = np.float32(rng.uniform(0, 0.7) ** 1.5)
            _blend(planes[1][there], np.clip(light + texture * vis[here], 0, 1), alpha)
        np.maximum(people[there], alpha, out=people[there])


def _blend(place: Floats, what: Floats, alpha: Floats) -> None:
    np.clip(place + alpha * (what - place), 0, 1, out=place)


def people_cells(people: Tensor) -> Tensor:
    """Which cells hold people, (1, 1, h, w) of 0 and 1, out of a mask (1, 1, H, W) in [0, 1]."""
    grown = F.max_pool2d((people > 0.5).float(), GROWN, 1, GROWN // 2)
    return (F.avg_pool2d(grown, CELL, ceil_mode=True) > COVERED).float()
