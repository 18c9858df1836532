"""Sixteen bits of thermal counts as a picture of eight, without flicker.

Problem. Stretching each picture between its own percentiles makes the background jump whenever something
hot enters, which a temporal registrar or fuser takes for change.

Design. The mapping is a monotone look-up table. Each picture proposes a table of its own (linear between
two percentiles, or a plateau-equalised histogram); the table in use moves a fraction of the way towards it.
The mean luma of a picture is its histogram times the table, so it is linear in that fraction: the fraction
that keeps the mean within `max_step` of the last picture's is found in closed form, before a pixel is
touched. Where no fraction does (the whole scene brightens at once), the table is shifted.
"""

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.capture.options import AgcOptions
from streamfuse.frame import Image8, Image16

LEVELS = 1 << 16
WHITE = 255.0
# Of the way to a picture's own table: settles within a second at 25 Hz, within three at 9 Hz.
APPROACH = 0.1
# Counts spread over the whole grey scale at least: about 1 K of a microbolometer. Less would show its noise.
MIN_SPAN = 32
# Factor over the mean count of an occupied bin at which the histogram is cut. 1 would be nearly linear,
# and from 10 on a large uniform background eats the grey scale.
PLATEAU = 3.0
# The step is aimed at a little inside its bound, because the table is rounded to whole grey levels.
AIM = 0.9
SHIFT_STEPS = 12
"""Halvings of 255 grey levels: a sixteenth of one."""

Table = npt.NDArray[np.float32]


class Agc:
    """Turns the raw pictures of one stream into 8-bit views, bright for high counts."""

    def __init__(self, options: AgcOptions) -> None:
        self._options = options
        self._table: Table | None = None
        self._mean = 0.0

    def reset(self) -> None:
        """The next picture is shown by its own table at once."""
        self._table = None

    @property
    def limits(self) -> tuple[int, int] | None:
        """Counts shown as black and as white at present, None before the first picture."""
        if self._table is None:
            return None
        low = int(np.searchsorted(self._table, 0.5, side="left"))
        high = int(np.searchsorted(self._table, WHITE - 0.5, side="right"))
        return max(low - 1, 0), min(high, LEVELS - 1)

    def apply(self, raw: Image16) -> Image8:
        """The view of one picture: uint16 (H, W) in, uint8 (H, W) out."""
        counted = cv2.calcHist([raw], [0], None, [LEVELS], [0, LEVELS])
        histogram: Table = np.asarray(counted.ravel() / np.float32(raw.size), np.float32)
        own = self._own_table(histogram)
        self._table = own if self._table is None else self._moved(self._table, own, histogram)
        rounded = np.rint(self._table).astype(np.uint8)
        self._mean = float(histogram @ rounded)
        return np.take(rounded, raw, mode="clip")

    def _own_table(self, histogram: Table) -> Table:
        cumulative = np.cumsum(histogram, dtype=np.float64)
        low = int(np.searchsorted(cumulative, self._options.low_percentile / 100))
        high = int(np.searchsorted(cumulative, min(self._options.high_percentile / 100, cumulative[-1])))
        if self._options.mode == "plateau":
            return _plateau_table(histogram, low, high)
        centre, span = (low + high) / 2, max(high - low, MIN_SPAN)
        counts = np.arange(LEVELS, dtype=np.float32)
        ramp = (counts - np.float32(centre - span / 2)) * np.float32(WHITE / span)
        return np.asarray(np.clip(ramp, 0, WHITE), np.float32)

    def _moved(self, table: Table, own: Table, histogram: Table) -> Table:
        """The table, moved towards the picture's own as far as the mean luma allows."""
        step = AIM * self._options.max_step
        stay, go = float(histogram @ table), float(histogram @ own)
        fraction = _fraction_within(stay, go, self._mean - step, self._mean + step)
        moved = table + np.float32(fraction) * (own - table)
        mean = float(histogram @ np.rint(moved))
        if abs(mean - self._mean) <= self._options.max_step:
            return np.asarray(moved, np.float32)
        return _shifted(moved, histogram, self._mean + np.copysign(step, mean - self._mean))


def _fraction_within(stay: float, go: float, low: float, high: float) -> float:
    """The fraction nearest to APPROACH for which stay + fraction * (go - stay) lies in [low, high], or
    comes nearest to it."""
    if abs(go - stay) < 1e-6:
        return APPROACH
    first, last = sorted(((low - stay) / (go - stay), (high - stay) / (go - stay)))
    return min(max(min(max(APPROACH, first), last), 0.0), 1.0)


def _shifted(table: Table, histogram: Table, mean: float) -> Table:
    """The table, brightened or darkened as a whole until the picture has the given mean luma."""
    low, high = -WHITE, WHITE
    for _ in range(SHIFT_STEPS):
        shift = (low + high) / 2
        if float(histogram @ np.rint(np.clip(table + np.float32(shift), 0, WHITE))) > mean:
            high = shift
        else:
            low = shift
    return np.asarray(np.clip(table + np.float32(low), 0, WHITE), np.float32)


def _plateau_table(histogram: Table, low: int, high: int) -> Table:
    """Histogram equalisation with the counts per bin cut at a plateau and the contrast limited."""
    inside = histogram[low : high + 1]
    plateau = PLATEAU * inside.sum() / max(np.count_nonzero(inside), 1)
    share = np.minimum(inside, plateau)
    slope = np.minimum(share * (WHITE / share.sum()), WHITE / MIN_SPAN)
    table = np.empty(LEVELS, np.float32)
    rise = np.cumsum(slope)
    margin = (WHITE - rise[-1]) / 2
    table[:low] = margin
    table[low : high + 1] = margin + rise
    table[high + 1 :] = margin + rise[-1]
    return table
