"""Histograms, entropy and mutual information of 8-bit pictures."""

import numpy as np

from streamfuse.metrics.picture import Floats, Picture, remembered, stretched

LEVELS = 256


@remembered
def histogram(picture: Picture) -> Floats:
    """Shares of the 256 grey levels, sum 1."""
    return np.bincount(picture.pixels.ravel(), minlength=LEVELS) / picture.pixels.size


def entropy(shares: Floats) -> float:
    """Shannon entropy in bits. Empty bins count nothing."""
    occupied = shares[shares > 0]
    return float(-np.sum(occupied * np.log2(occupied)))


def _mutual_information(a: Picture, b: Picture) -> float:
    joint = np.bincount(
        a.pixels.ravel().astype(np.intp) * LEVELS + b.pixels.ravel(), minlength=LEVELS * LEVELS
    ) / float(a.pixels.size)
    shared = entropy(histogram(a)) + entropy(histogram(b)) - entropy(joint)
    return max(shared, 0.0)


@remembered
def mutual_information(a: Picture, b: Picture) -> float:
    """H(a) + H(b) - H(a, b) of the grey levels as they are, in bits; 0 when either is constant."""
    return _mutual_information(a, b)


@remembered
def _stretched8(picture: Picture) -> Picture:
    return Picture(stretched(picture).astype(np.uint8))


@remembered
def stretched_mutual_information(a: Picture, b: Picture) -> float:
    """Mutual information in bits after each picture was min-max stretched on its own and truncated to
    0..255 (truncation merges and empties bins, so this is not quite the value without the stretch)."""
    return _mutual_information(_stretched8(a), _stretched8(b))
