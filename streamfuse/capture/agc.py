"""Automatic gain control: 16-bit thermal counts to an 8-bit view that does not flicker.

Problem. A per-frame stretch jumps whenever something hot enters: every other pixel changes its grey level,
fusion pumps, temporal differences are full of nothing. Design. Each frame proposes a tone curve from its own
histogram; the curve in use follows the proposal, but only so far that neither a pixel, on average, nor the
mean of the frame moves by more than `max_step` grey levels. Where the scene alone moves the mean further
(something hot appears from one frame to the next), the whole curve is shifted against it. Trade-off. After a
sudden change the view takes a few seconds to settle; only when most of the picture could not be seen
meanwhile (a shutter opened, the gain was switched) it jumps.
"""

import math

import numpy as np
import numpy.typing as npt

from streamfuse.capture.options import AgcOptions
from streamfuse.frame import Image8, Image16

LEVELS = 65536
WHITE = 255
SMALLEST_SPAN = 64
"""Counts: a flat scene is not stretched until its noise fills the range (a core's NETD is 10 to 50
counts)."""
PLATEAU = 3.0
"""Times the mean number of pixels a level holds; more do not count. 1 would be nearly linear, from 10 on a
large even background eats the grey scale."""
FOLLOW = 0.2
"""Share of the way to the proposal that a frame goes when the step limit allows: settles in about 10
frames."""
AIM = 0.95
"""The step is aimed at a little inside its limit, because the view is rounded to whole grey levels."""
SHIFT_HALVINGS = 12
"""Of 255 grey levels: a shift is found to a sixteenth of one."""
BLIND_SHARE = 0.5
"""With more of the picture than this in black and white for no reason the curve in use is of no use."""

Curve = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]


class Agc:
    """The gain control of one camera."""

    def __init__(self, options: AgcOptions) -> None:
        self._options = options
        self._curve: Curve | None = None
        self._mean = 0.0
        self._lut = np.zeros(LEVELS, np.uint8)

    @property
    def limits(self) -> tuple[int, int] | None:
        """The counts shown as black and as white by the curve in use; None before the first frame."""
        if self._curve is None:
            return None
        black = int(np.searchsorted(self._lut, 0, side="right")) - 1
        white = int(np.searchsorted(self._lut, WHITE, side="left"))
        return max(black, 0), min(white, LEVELS - 1)

    def reset(self) -> None:
        """Begin anew with the next frame (another camera, another picture size)."""
        self._curve = None

    def apply(self, raw: Image16) -> Image8:
        """The view of one frame, uint8 of the same shape. The first frame is shown by its own curve."""
        histogram = np.bincount(raw.ravel(), minlength=LEVELS)
        levels = np.flatnonzero(histogram)
        weights = histogram[levels] / raw.size
        wanted = self._propose(histogram)
        if self._curve is None or _blind(self._curve[levels], wanted[levels], weights):
            self._curve = wanted
        else:
            share = self._share(self._curve[levels], wanted[levels], weights)
            followed = self._curve + share * (wanted - self._curve)
            self._curve = followed + self._shift(followed[levels], weights)
            np.clip(self._curve, 0, WHITE, out=self._curve)
        np.rint(self._curve, out=self._lut, casting="unsafe")
        self._mean = float(np.sum(weights * self._lut[levels]))
        return np.asarray(np.take(self._lut, raw))

    def _share(self, shown: Curve, wanted: Curve, weights: Weights) -> np.float32:
        """How far to go from the curve in use to the one proposed, both given at the levels of the frame."""
        step = AIM * self._options.max_step
        change = wanted - shown
        moved = float(np.sum(weights * np.abs(change)))
        share = min(FOLLOW, step / moved) if moved > 0 else FOLLOW
        # What the scene itself does to the mean is not doubled by the curve.
        drift = float(np.sum(weights * shown)) - self._mean
        pull = float(np.sum(weights * change))
        room = step - drift if pull > 0 else step + drift
        if pull:
            share = min(share, max(0.0, room / abs(pull)))
        return np.float32(share)

    def _shift(self, shown: Curve, weights: Weights) -> np.float32:
        """What to add to a curve, given at the levels of the frame, so that the mean moves by one step."""
        drift = _mean(shown, weights) - self._mean
        if abs(drift) <= self._options.max_step:
            return np.float32(0)
        wanted = self._mean + math.copysign(AIM * self._options.max_step, drift)
        low, high = -float(WHITE), float(WHITE)
        for _ in range(SHIFT_HALVINGS):
            middle = (low + high) / 2
            if _mean(shown + np.float32(middle), weights) > wanted:
                high = middle
            else:
                low = middle
        return np.float32(low if drift > 0 else high)

    def _propose(self, histogram: Counts) -> Curve:
        cumulated = np.cumsum(histogram)
        total = cumulated[-1]
        low = int(np.searchsorted(cumulated, total * self._options.low_percentile / 100, side="right"))
        high = int(np.searchsorted(cumulated, total * self._options.high_percentile / 100))
        if self._options.mode == "plateau":
            return _equalising(histogram, low, high)
        middle, span = (low + high) / 2, max(high - low, SMALLEST_SPAN)
        levels = np.arange(LEVELS, dtype=np.float32)
        ramp = (levels - np.float32(middle - span / 2)) * np.float32(WHITE / span)
        return np.asarray(np.clip(ramp, 0, WHITE), np.float32)


def _mean(shown: Curve, weights: Weights) -> float:
    return float(np.sum(weights * np.rint(np.clip(shown, 0, WHITE))))


def _blind(shown: Curve, wanted: Curve, weights: Weights) -> bool:
    """Whether most of the picture is lost by the curve in use, and not by the one proposed: counts that are
    clipped themselves are at an end of both."""
    lost = (shown <= 0) | (shown >= WHITE)
    darkest, brightest = wanted.min(), wanted.max()
    told = (darkest < wanted) & (wanted < brightest) if darkest < brightest else np.ones_like(lost)
    return bool(weights[lost & told].sum() > BLIND_SHARE)


def _equalising(histogram: Counts, low: int, high: int) -> Curve:
    """Histogram equalisation between two levels, with the pixels of a level cut at a plateau, and no steeper
    than a linear stretch of the smallest span."""
    inside = histogram[low : high + 1]
    cut = np.minimum(inside, PLATEAU * inside.sum() / np.count_nonzero(inside))
    rise = np.cumsum(np.minimum(cut * (WHITE / cut.sum()), WHITE / SMALLEST_SPAN))
    margin = (WHITE - rise[-1]) / 2
    return np.concatenate(
        [np.full(low, margin), margin + rise, np.full(LEVELS - 1 - high, margin + rise[-1])]
    ).astype(np.float32)
