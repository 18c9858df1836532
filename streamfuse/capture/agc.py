"""Automatic gain control: 16-bit thermal counts to an 8-bit view that does not flicker.

Problem. A per-frame stretch jumps whenever something hot enters: every other pixel changes its grey level,
fusion pumps, temporal differences are full of nothing. Design. Each frame proposes a tone curve from its own
histogram; the curve in use follows the proposal, but only so far that the mean luma of the frame moves by at
most `max_step` grey levels. Trade-off. After a sudden change the view takes a few seconds to settle.
"""

import numpy as np
import numpy.typing as npt

from streamfuse.capture.options import AgcOptions
from streamfuse.frame import Image8, Image16

LEVELS = 65536
SMALLEST_SPAN = 64
"""Counts: a flat scene is not stretched until its noise fills the range (a core's NETD is 10 to 50
counts)."""
PLATEAU_SHARE = 0.005
"""Plateau mode: no level counts for more than this share of the pixels, so large flat areas leave room."""
FOLLOW = 0.2
"""Share of the way to the proposal that a frame goes when the step limit allows: settles in about 10
frames."""

Curve = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]


class Agc:
    """The gain control of one camera.

    Attributes:
        limits: the counts shown as 0 and as 255 by the curve in use.
    """

    def __init__(self, options: AgcOptions) -> None:
        self._options = options
        self._curve: Curve | None = None
        self._lut = np.zeros(LEVELS, np.uint8)
        self.limits = (0, LEVELS - 1)

    def reset(self) -> None:
        """Begin anew with the next frame (another camera, another gain mode)."""
        self._curve = None

    def apply(self, raw: Image16) -> Image8:
        """The view of one frame, uint8 of the same shape. The first frame is shown by its own curve."""
        histogram = np.bincount(raw.ravel(), minlength=LEVELS)
        wanted = self._propose(histogram)
        self._curve = wanted if self._curve is None else self._follow(self._curve, wanted, histogram)
        np.rint(self._curve, out=self._lut, casting="unsafe")
        inside = np.flatnonzero((self._lut > 0) & (self._lut < 255))
        if inside.size:
            self.limits = (int(inside[0]), int(inside[-1]))
        return np.asarray(self._lut[raw])

    def _follow(self, current: Curve, wanted: Curve, histogram: Counts) -> Curve:
        # The mean that this frame would have under either curve: linear in the curve, so the largest
        # allowed share of the way follows directly.
        weight = histogram.astype(np.float32) / histogram.sum()
        shift = abs(float(weight @ (wanted - current)))
        share = FOLLOW if shift == 0 else min(FOLLOW, self._options.max_step / shift)
        return current + np.float32(share) * (wanted - current)

    def _propose(self, histogram: Counts) -> Curve:
        if self._options.mode == "plateau":
            cap = max(1, int(PLATEAU_SHARE * histogram.sum()))
            histogram = np.minimum(histogram, cap)
        cumulated = np.cumsum(histogram)
        total = cumulated[-1]
        low, high = (
            int(np.searchsorted(cumulated, total * percent / 100))
            for percent in (self._options.low_percentile, self._options.high_percentile)
        )
        if high - low < SMALLEST_SPAN:
            middle = (low + high) // 2
            low, high = middle - SMALLEST_SPAN // 2, middle + SMALLEST_SPAN // 2
        levels = np.arange(LEVELS, dtype=np.float32)
        linear = np.clip((levels - low) * np.float32(255 / (high - low)), 0, 255)
        if self._options.mode == "percentile":
            return np.asarray(linear, np.float32)
        inside = np.clip(
            cumulated.astype(np.float32), cumulated[max(low, 0)], cumulated[min(high, LEVELS - 1)]
        )
        spread = inside[-1] - inside[0]
        equalised = (inside - inside[0]) * np.float32(255 / spread) if spread > 0 else linear
        return np.asarray((equalised + linear) / 2, np.float32)
