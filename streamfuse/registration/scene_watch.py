"""Has a stream cut to another scene? Asked of every frame, answered from a thumbnail.

The fine structure of the thumbnail is cut into blocks and each block is correlated with its predecessor, so
neither gain control (gain and offset fall out, a flip of polarity turns the sign only) nor people walking
through look like a cut: it is one when even the quarter of the blocks that changed least is another scene.
In a cold room people are all the structure there is, so the median would not do. Structure rather than
brightness, because streets resemble one another: dark below, bright above. Blocks without texture, before or
now, cannot tell and are left out; when too few can tell there is no answer and the last telling thumbnail is
kept to compare with, so a covered lens is no cut, and what is seen after it may be one. 0.1 ms a frame.
"""

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.frame import Image8

COLUMNS, ROWS, BLOCK = 64, 48, 16
"""12 blocks of 16 x 16 thumbnail pixels, each 10 pixels of a 640-pixel picture: noise averages away."""
DETAIL = 7
"""Side of the box whose mean is taken off, thumbnail pixels."""
MIN_DEVIATION = 1.5
"""Grey levels of contrast below which a block has nothing to recognise."""
MIN_BLOCKS = 4
"""A third of the blocks must be able to tell."""
KEPT = 75
"""Percentile of the blocks' |correlation| that decides."""
SAME_SCENE = 0.4
"""Below this the scene is another one. Successive frames of rendered streets, camera swaying, at 15 Hz: 0.97
at least. Different RoadScene pictures: 0.14 median, 0.28 at 99 %. Different rendered streets seen from one
spot: 0.3 to 0.5, for they share much: a cut between those may pass for none, and key frames remain."""

Blocks = npt.NDArray[np.float32]


class SceneWatch:
    """Watches one stream."""

    def __init__(self) -> None:
        self._known: Blocks | None = None

    def cut(self, image: Image8) -> bool:
        """Whether `image`, uint8 (H, W) or (H, W, C), shows another scene than the frames before it."""
        blocks, known = _blocks(image), self._known
        if known is None:
            self._known = blocks
            return False
        can_tell = _deviation(blocks) >= MIN_DEVIATION
        both = can_tell & (_deviation(known) >= MIN_DEVIATION)
        if both.sum() < MIN_BLOCKS:
            if can_tell.sum() >= MIN_BLOCKS:
                self._known = blocks
            return False
        self._known = blocks
        return _likeness(known[both], blocks[both]) < SAME_SCENE


def _likeness(before: Blocks, now: Blocks) -> float:
    """|Normalised correlation| of the blocks that kept most; both (B, pixels) without their means."""
    product = np.einsum("bp,bp->b", before, now)
    norms = np.linalg.norm(before, axis=1) * np.linalg.norm(now, axis=1)
    return float(np.percentile(np.abs(product / norms), KEPT))


def _blocks(image: Image8) -> Blocks:
    """(12, 256) float32, each row without its mean."""
    small = np.asarray(cv2.resize(image, (COLUMNS, ROWS), interpolation=cv2.INTER_AREA), np.float32)
    if small.ndim == 3:
        small = small.mean(axis=2)
    fine = small - cv2.blur(small, (DETAIL, DETAIL))
    tiles = fine.reshape(ROWS // BLOCK, BLOCK, COLUMNS // BLOCK, BLOCK).swapaxes(1, 2)
    flat = tiles.reshape(-1, BLOCK * BLOCK)
    return np.asarray(flat - flat.mean(axis=1, keepdims=True), np.float32)


def _deviation(blocks: Blocks) -> npt.NDArray[np.float32]:
    return np.asarray(np.sqrt(np.mean(blocks**2, axis=1)), np.float32)
