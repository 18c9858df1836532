"""Pictures that a camera, a capture box or a re-encoder delivered twice, and cameras that froze.

Problem. Small thermal cores put each picture on the wire three times and stand still for 0.2..1 s while
their shutter closes. After a re-encoding the copies are no longer bit-identical, and a static scene hardly
changes from one honest picture to the next either, so a fixed threshold finds the wrong ones.

Design. A repeat is a sudden absence of change where there was change: the thumbnail differs from the one
before by far less than recent thumbnails did, in the mean *and* where it differs most (a single walking
person is change enough). Where nothing changed lately, nothing is called a repeat: it could not be
told, and it would not matter.
"""

from collections import deque

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.clock import NS_PER_S
from streamfuse.frame import Image8, Image16

# Averaging away coding noise and small enough to compare in microseconds.
THUMBNAIL_SIZE = (64, 48)
# More pixels than this add nothing to a thumbnail but time.
SAMPLED_SIZE = (640, 480)
# Long enough to hold five different pictures of a core that sends each three times, short enough to forget
# a person within a second of their leaving.
HISTORY = 16
HISTORY_MIN = 4
# Of a core that sends three copies, a third of the changes are real: their level is found above 2/3.
LEVEL_PERCENTILE = 75
# Halves of honest change happen (a 30 Hz stream of a camera that exposes unevenly), thirds hardly do.
MEAN_RATIO = 0.3
LOCAL_RATIO = 0.4
LOCAL_PERCENTILE = 99
# Mean change, in grey levels or counts, below which a scene counts as static: rounding alone makes 0.25.
STATIC_LEVEL = 0.5
FROZEN_NS = NS_PER_S
FROZEN_PERIODS = 5


class DuplicateDetector:
    """Looks at every picture of one stream, in order."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything: other geometry, or another connection."""
        self._thumbnail: npt.NDArray[np.float32] | None = None
        self._means: deque[float] = deque(maxlen=HISTORY)
        self._peaks: deque[float] = deque(maxlen=HISTORY)
        self._last_t = 0
        self._last_new_t = 0
        self._period_ns = 0

    def update(self, image: Image8 | Image16, t_ns: int) -> tuple[bool, bool]:
        """Compare a picture with the ones before it.

        Args:
            image: as delivered, uint8 or uint16, (H, W) or (H, W, 3), same shape since the last `reset`.
            t_ns: its capture time.

        Returns:
            Whether it shows what the one before showed, and whether all have for a second or more.
        """
        thumbnail = _thumbnail(image)
        if self._thumbnail is None:
            self._thumbnail, self._last_t, self._last_new_t = thumbnail, t_ns, t_ns
            return False, False
        change = np.abs(thumbnail - self._thumbnail).ravel()
        self._thumbnail = thumbnail
        self._period_ns, self._last_t = t_ns - self._last_t, t_ns
        mean = float(change.mean())
        rank = round(LOCAL_PERCENTILE / 100 * (change.size - 1))
        peak = float(np.partition(change, rank)[rank])
        duplicate = self._stands_out(mean, peak)
        # A copy that is exact says nothing about how much honest pictures differ; one that is not might be
        # the beginning of a static scene, which the level must come down to.
        if change.any():
            self._means.append(mean)
            self._peaks.append(peak)
        if not duplicate:
            self._last_new_t = t_ns
        still_ns = t_ns - self._last_new_t
        return duplicate, still_ns > max(FROZEN_NS, FROZEN_PERIODS * self._period_ns)

    def _stands_out(self, mean: float, peak: float) -> bool:
        if len(self._means) < HISTORY_MIN:
            return False
        level = float(np.percentile(self._means, LEVEL_PERCENTILE))
        local = float(np.percentile(self._peaks, LEVEL_PERCENTILE))
        return level >= STATIC_LEVEL and mean < MEAN_RATIO * level and peak < LOCAL_RATIO * local


def _thumbnail(image: Image8 | Image16) -> npt.NDArray[np.float32]:
    if image.shape[1] > SAMPLED_SIZE[0] and image.shape[0] > SAMPLED_SIZE[1]:
        image = cv2.resize(image, SAMPLED_SIZE, interpolation=cv2.INTER_NEAREST)  # type: ignore[assignment]
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)  # type: ignore[assignment]
    small = cv2.resize(image.astype(np.float32), THUMBNAIL_SIZE, interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.float32)
