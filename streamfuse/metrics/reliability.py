"""Does a confidence say what it means? Reliability curve and expected calibration error.

Guo, Pleiss, Sun, Weinberger: "On calibration of modern neural networks", ICML 2017.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Cases with a confidence in [low, high): how many, their mean confidence, the share that was good."""

    low: float
    high: float
    count: int
    confidence: float
    good: float

    def __str__(self) -> str:
        return (
            f"{self.low:.1f} to {self.high:.1f}: {self.count:5d} cases, "
            f"confidence {self.confidence:.2f}, good {self.good:.2f}"
        )


def reliability_curve(confidence: Sequence[float], good: Sequence[bool], *, bins: int = BINS) -> list[Bin]:
    """The bins that hold a case. confidence in 0..1, one for each outcome in `good`."""
    trust, right = np.asarray(confidence, np.float64), np.asarray(good, np.float64)
    place = np.minimum((trust * bins).astype(np.intp), bins - 1)
    return [
        Bin(
            i / bins,
            (i + 1) / bins,
            int((place == i).sum()),
            float(trust[place == i].mean()),
            float(right[place == i].mean()),
        )
        for i in range(bins)
        if (place == i).any()
    ]


def calibration_error(curve: Sequence[Bin]) -> float:
    """Mean |confidence - share that was good| over all cases: the expected calibration error (ECE), 0..1."""
    cases = sum(part.count for part in curve)
    return sum(part.count * abs(part.confidence - part.good) for part in curve) / max(cases, 1)
