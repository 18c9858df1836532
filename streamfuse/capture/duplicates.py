"""Pictures that a camera delivers twice, and cameras that freeze.

Thermal cores send each picture up to three times and stand still for half a second at a shutter event; video
that was re-coded never repeats bit by bit. So a picture is a duplicate when it differs from the one before by
far less than pictures of this camera have differed lately, in the mean and in its liveliest spots. A scene in
which nothing moves has differences of pure sensor noise, and a repeat has less than that.
"""

from collections import deque

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.clock import NS_PER_S
from streamfuse.frame import Image8

THUMBNAIL = (64, 48)
SAMPLED = (256, 192)
"""Nearest-neighbour samples that the thumbnail averages: keeps the sensor's noise, which plain area means
hide."""
HISTORY = 16
LEARN_FROM = 8
USUAL_PERCENTILE = 75
"""What is usual is told by the livelier frames: a core that sends all three times has two dull of three."""
MEAN_RATIO = 0.3
PEAK_RATIO = 0.4
PEAK_PERCENTILE = 99
SMALLEST_USUAL = 0.5
"""Grey levels: below, the camera's frames hardly differ at all and nothing can be told."""
FROZEN_PERIODS = 5
FROZEN_NS = NS_PER_S
"""Frozen: nothing new for longer than both. One shutter event of a thermal core takes 0.2 to 1 s."""


class DuplicateDetector:
    """Tells repeats from new pictures, one stream, in order."""

    def __init__(self) -> None:
        self._before: npt.NDArray[np.float32] | None = None
        self._usual: deque[tuple[float, float]] = deque(maxlen=HISTORY)
        self._new_at_ns = 0
        self._gaps: deque[int] = deque(maxlen=HISTORY)

    def reset(self) -> None:
        """Forget everything: another time line or another picture size."""
        self.__init__()  # type: ignore[misc]

    def update(self, image: Image8, t_ns: int) -> tuple[bool, bool]:
        """(duplicate, frozen) for the next picture, uint8 (H, W) or (H, W, 3), taken at `t_ns`."""
        sampled = cv2.resize(image, SAMPLED, interpolation=cv2.INTER_NEAREST)
        if sampled.ndim == 3:
            sampled = cv2.cvtColor(sampled, cv2.COLOR_RGB2GRAY)
        thumbnail = cv2.resize(sampled.astype(np.float32), THUMBNAIL, interpolation=cv2.INTER_AREA)
        before, self._before = self._before, np.asarray(thumbnail, np.float32)
        if before is None:
            self._new_at_ns = t_ns
            return False, False
        difference = np.abs(self._before - before)
        mean, peak = float(difference.mean()), float(np.percentile(difference, PEAK_PERCENTILE))
        duplicate = self._is_repeat(mean, peak)
        self._usual.append((mean, peak))
        if not duplicate:
            self._gaps.append(t_ns - self._new_at_ns)
            self._new_at_ns = t_ns
            return False, False
        period = int(np.median(self._gaps)) if self._gaps else 0
        return True, t_ns - self._new_at_ns > max(FROZEN_PERIODS * period, FROZEN_NS)

    def _is_repeat(self, mean: float, peak: float) -> bool:
        if mean == 0.0:
            return True
        if len(self._usual) < LEARN_FROM:
            return False
        usual_mean, usual_peak = np.percentile(np.array(self._usual), USUAL_PERCENTILE, axis=0)
        if usual_mean < SMALLEST_USUAL:
            return False
        return bool(mean < MEAN_RATIO * usual_mean and peak < PEAK_RATIO * usual_peak)
