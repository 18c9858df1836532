"""Warm people marked by hand in real clips: boxes, and the mask of what is warm inside them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.frame import Image8


@dataclass(frozen=True)
class Scene:
    """A frame of a clip, and boxes (left, top, right, bottom) around the people in it."""

    name: str
    ir: Image8
    vis: Image8
    boxes: tuple[tuple[int, int, int, int], ...]


M2VD = {
    ("0111_1716", 75): ((214, 114, 303, 373), (337, 26, 380, 150), (193, 77, 220, 148)),
    ("0117_1620", 200): (
        (93, 165, 183, 357),
        (257, 163, 292, 297),
        (287, 220, 378, 354),
        (369, 163, 422, 305),
        (411, 128, 485, 376),
    ),
    ("0117_1620", 400): ((422, 144, 483, 368), (559, 125, 640, 415), (360, 135, 380, 197)),
    ("1230_1202", 30): ((510, 225, 545, 297), (12, 239, 30, 304)),
}
M3SVD = {
    ("0111_1753", 10): ((412, 247, 480, 407), (488, 223, 573, 445)),
    ("0114_1551", 10): ((380, 210, 425, 240), (412, 258, 462, 317)),
    ("0115_1834", 10): (
        (312, 213, 362, 468),
        (167, 213, 233, 443),
        (78, 220, 128, 398),
        (578, 203, 638, 398),
    ),
}


def scenes(data: Path) -> Iterator[Scene]:
    """All marked frames. data: the folder of data sets."""
    for (clip, frame), boxes in M2VD.items():
        planes = []
        for kind in ("infrared", "visible"):
            (path,) = (data / "m2vd" / kind).glob(f"*{clip}*.mp4")
            video = cv2.VideoCapture(str(path))
            video.set(cv2.CAP_PROP_POS_FRAMES, frame)
            found, picture = video.read()
            assert found, path
            planes.append(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY))
        yield Scene(f"{clip} {frame}", planes[0], planes[1], boxes)
    for (clip, frame), boxes in M3SVD.items():
        planes = []
        for kind in ("infrared", "visible"):
            path = sorted((data / "m3svd_val" / kind / clip).iterdir())[frame]
            planes.append(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
        yield Scene(f"{clip} {frame}", planes[0], planes[1], boxes)


def warm_mask(ir: Image8, box: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
    """255 on what is warm in a box: above Otsu's threshold of the box and a margin around it."""
    left, top, right, bottom = box
    margin = 16
    area = ir[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin]
    level, _ = cv2.threshold(area, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    mask = np.zeros_like(ir)
    mask[top:bottom, left:right] = np.where(ir[top:bottom, left:right] > level, 255, 0)
    return mask
