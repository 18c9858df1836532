"""`LiveFusion.look` and `LiveFusion.compose` on the CPU, by the formulas of `nn/live_fusion.py`.

Done in full-size float32 tensors they took 8 ms of processor time at 640x480 and touched 40 MB of memory.
But nearly all of a picture is the brighter source as it is, a few OpenCV calls on bytes, and what the network
sees is sums of bytes. So only those patches go through float32 in which a cell has a share (`patches.py`).

The means, gradients and picture are those of `LiveFusion` up to rounding.
"""

import math
from functools import lru_cache

import cv2
import numpy as np
from cv2.typing import MatLike
from torch import Tensor

from streamfuse.frame import Image8
from streamfuse.fusion.patches import Floats, Patches, highest
from streamfuse.nn.live_fusion import (
    CELL,
    DROP,
    EDGE,
    LEAST_COLD,
    LOW,
    SAMPLE,
    TIE,
    TIE_SLOPE,
    WARM_SLOPE,
    WARM_START,
    WIDE,
)

HALF = CELL // 2
IR, VIS, BRIGHTER = range(3)


class LiveComposition:
    """Looks at pairs of one size and composes the fused picture of the pair looked at last.

    Args:
        shape: (H, W), any.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        rows, columns = (CELL * (-(-side // CELL) + 1) for side in shape)
        # With the border that patches need, which is a whole number of samples, too
        self._pictures = np.zeros((3, rows, columns), np.uint8)
        self._fused = np.zeros((rows, columns), np.uint8)
        self._columns = np.empty((SAMPLE, 3 * rows, columns // SAMPLE), np.uint8)
        self._sums = np.empty((2, 3, rows // SAMPLE, columns // SAMPLE), np.float32)
        self._means = np.empty((0, 0, 0), np.float32)

    def look(self, ir: Image8, vis: Image8) -> tuple[Floats, Floats]:
        """Mean and gradient of ir, vis and max in [0, 1], float32 (3, 2 h, 2 w) each for h x w cells.

        Args:
            ir, vis: uint8 (H, W).
        """
        for picture, framed in zip((ir, vis), self._pictures[:BRIGHTER], strict=True):
            below, right = (of - HALF - side for of, side in zip(framed.shape, self.shape, strict=True))
            cv2.copyMakeBorder(picture, HALF, below, HALF, right, cv2.BORDER_REPLICATE, dst=framed)
        cv2.max(self._pictures[IR], self._pictures[VIS], dst=self._pictures[BRIGHTER])
        self._sum_up()
        levels, differences = self._sums[:, :, 1:-1, 1:-1]
        self._means = levels * np.float32(1 / (255 * SAMPLE**2))
        # Of neighbours down, and of neighbours across, half of all make pairs
        return self._means, differences * np.float32(2 / (255 * SAMPLE**2))

    def _sum_up(self) -> None:
        """Sums over SAMPLE x SAMPLE pixels, of levels and of absolute differences in pairs.

        Every SAMPLE-th column goes to a plane of its own. Neighbours across are then one place in two planes,
        neighbours down one column of two rows, and a sum over samples adds up planes: OpenCV calls on bytes.
        """
        _, height, width = self._columns.shape
        cv2.split(self._pictures.reshape(height, width, SAMPLE), list(self._columns))
        self._sums[:] = 0
        levels, differences = self._sums.reshape(2, -1, width)
        for column in self._columns:
            _add_rows(column, levels, SAMPLE)
            _add_rows(cv2.absdiff(column[::2], column[1::2]), differences, SAMPLE // 2)
        for left, right in zip(self._columns[::2], self._columns[1::2], strict=True):
            _add_rows(cv2.absdiff(left, right), differences, SAMPLE)

    def compose(self, shares: Floats) -> Image8:
        """The fused picture, uint8 (H, W).

        Args:
            shares: float32 (3, h, w), to take the visible, to take the infrared, people, 0..1.
        """
        ir, vis, brighter = (_halved(means) for means in self._means)
        cold = _cold(ir)
        darkest = self._paint_brighter()
        visible, infrared = EDGE * (shares[:2] - 0.5) + 0.5
        taken, lent = highest(visible) > 0, highest(infrared) > 0
        if at := Patches(taken | lent):
            fused = at.read(self._fused)
            if taken.any():
                self._go_over(fused, VIS, visible, (_mean(brighter - vis, LOW) - DROP).clip(0), at)
            if lent.any():
                self._go_over(fused, IR, infrared, _mean_over(cold, brighter - ir, LOW), at)
            at.write(self._fused, fused.clamp_min_(darkest))
        # But for a TIE, the picture is nowhere darker than the infrared where the visible was not taken
        self._raise_people(shares[2], np.where(taken, 0, 1 - TIE))
        return self._inside(self._fused).copy()

    def with_people(self, fused: Image8, share: Floats) -> Image8:
        """A picture fused in another way, uint8 (H, W), with people as bright as `compose` makes them.

        Args:
            share: float32 (h, w), of people, 0..1.
        """
        self._inside(self._fused)[:] = fused
        self._raise_people(share, 0)
        return self._inside(self._fused).copy()

    def _paint_brighter(self) -> int:
        """Paint the brighter source everywhere. Returns its darkest level."""
        ir, vis, _ = self._pictures
        visible_wins = float((self._means[VIS] > self._means[IR]).mean())
        preference = 255 * TIE * min(max(TIE_SLOPE * (visible_wins - 0.5), -1), 1)
        least = math.floor(-preference) + 1  # by which infrared that is copied is brighter
        if least > 0:
            how = cv2.subtract(ir, vis), least - 1, 255, cv2.THRESH_BINARY
        else:
            how = cv2.subtract(vis, ir), -least, 255, cv2.THRESH_BINARY_INV
        self._fused[:] = vis
        cv2.copyTo(ir, cv2.threshold(*how)[1], self._fused)
        return int(cv2.minMaxLoc(self._inside(self._fused))[0])

    def _go_over(self, fused: Tensor, source: int, share: Floats, lift: Floats, at: Patches) -> None:
        """To a source, made brighter by `lift`, as far as the share, cut to 0..1, says; in place."""
        lifted = at.spread(255 * lift).add_(at.read(self._pictures[source]))
        fused.lerp_(lifted, at.spread(share).clamp_(0, 1))

    def _raise_people(self, share: Floats, least: Floats | float) -> None:
        """In what is painted, in the patches with more than the `least` of share and what is hidden."""
        ir, vis, _ = (_halved(means) for means in self._means)
        people = share * (1 + _mean_over(_cold(ir), (vis - ir).clip(0), WIDE))
        at = Patches(highest(people) > least)
        if not at:
            return
        pixels = at.read(self._pictures[IR])
        warmth = at.spread(-_mean(ir, WIDE) * WARM_SLOPE - WARM_START)
        warmth.add_(pixels, alpha=WARM_SLOPE / 255).clamp_(0, 1)
        raised = at.spread(people).mul_(warmth).sub_(1).mul_(255).add_(pixels)
        at.write(self._fused, raised.clamp_min_(at.read(self._fused)))

    def _inside(self, framed: Image8) -> Image8:
        """The picture without its border."""
        return framed[HALF : HALF + self.shape[0], HALF : HALF + self.shape[1]]


def _add_rows(picture: MatLike, to: Floats, count: int) -> None:
    """Add the sum of each `count` rows."""
    for first in range(count):
        cv2.accumulate(picture[first::count], to)


def _halved(samples: Floats) -> Floats:
    rows, columns = samples.shape
    return np.asarray(
        cv2.resize(samples, (columns // 2, rows // 2), interpolation=cv2.INTER_AREA), np.float32
    )


def _mean(x: Floats, side: int) -> Floats:
    """Local mean over `side` x `side` cells, of those that there are."""
    return _sum(x, side) / _counts(x.shape, side)


def _cold(ir: Floats) -> Floats:
    """Of the infrared's cells, 0..1."""
    return np.asarray(1 - ((ir - _mean(ir, WIDE)) * WARM_SLOPE - WARM_START).clip(0, 1), np.float32)


def _mean_over(cold: Floats, x: Floats, side: int) -> Floats:
    """The same over what is cold."""
    known: Floats = _mean(cold, side).clip(LEAST_COLD)
    return _mean(cold * x, side) / known


@lru_cache(maxsize=8)
def _counts(shape: tuple[int, int], side: int) -> Floats:
    return _sum(np.ones(shape, np.float32), side)


def _sum(x: Floats, side: int) -> Floats:
    window = (side, side)
    return np.asarray(
        cv2.boxFilter(x, -1, window, normalize=False, borderType=cv2.BORDER_CONSTANT), np.float32
    )
