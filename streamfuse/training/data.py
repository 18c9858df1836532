"""Pairs of pictures for training: found in folders, held in memory, split once and for all.

A folder holds `ir/` and `vis/` with the same file stems. Everything is read as 8-bit grey at its own size.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.errors import DataError
from streamfuse.frame import Image8

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Pair:
    """One scene: `ir` and `vis` (full-range BT.601 luma), uint8 (H, W) of one size, and its file stem.

    residual: float64 (2, 3), how far the pair itself is off: what vis shows at p lies in ir at residual @
    (p, 1).
    """

    name: str
    ir: Image8
    vis: Image8
    residual: npt.NDArray[np.float64] | None = None


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: a data set holds ir/ and vis/ with equal file stems")
    return {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in PICTURES}


def read_grey(path: Path) -> Image8:
    """A picture as uint8 (H, W). Raises DataError."""
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise DataError(f"{path} is not a picture that can be read")
    return np.asarray(image, np.uint8)


def load_pairs(folder: Path, *, drop: Iterable[str] = ()) -> list[Pair]:
    """Every pair of `folder`, sorted by stem, without those in `drop`. Raises DataError."""
    infrared, visible = _by_stem(folder / "ir"), _by_stem(folder / "vis")
    stems = sorted((infrared.keys() & visible.keys()) - set(drop))
    if not stems:
        raise DataError(f"{folder} has no pair: no file stem is in both ir/ and vis/")
    pairs = []
    for stem in stems:
        ir, vis = read_grey(infrared[stem]), read_grey(visible[stem])
        if ir.shape != vis.shape:
            raise DataError(
                f"{folder}: pair {stem} has ir {ir.shape} and vis {vis.shape}; they must be equal"
            )
        pairs.append(Pair(stem, ir, vis))
    return pairs


def split(pairs: list[Pair], *, held_back: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(training, validation): `held_back` pairs drawn by `seed` are never trained on. Raises DataError."""
    if not 0 < held_back < len(pairs):
        raise DataError(f"cannot hold back {held_back} of {len(pairs)} pairs")
    chosen = set(np.random.default_rng(seed).permutation(len(pairs))[:held_back].tolist())
    train = [p for i, p in enumerate(pairs) if i not in chosen]
    return train, [p for i, p in enumerate(pairs) if i in chosen]
