"""Pixel-domain visual information fidelity (Sheikh and Bovik 2006) and its fusion form (Han et al. 2013)."""

from typing import NamedTuple

import numpy as np

from streamfuse.metrics.picture import Floats, Picture, gaussian, remembered, values, window

TAPS = (17, 9, 5, 3)
TAPS_PER_SIGMA = 5.0
SCALES = len(TAPS)
NOISE = 2.0
TINY = 1e-10

MIN_SIDE = 41
"""Three times filtered and halved, the last scale must still hold one 3x3 window."""

# Han et al.: noise (k L)^2 with k^2 = 0.005 and L = 255, weights of the four scales, and the addend that
# keeps flat pictures finite.
HAN_NOISE = 0.005 * 255.0**2
HAN_WEIGHTS = np.array([1.0, 0.0, 0.15, 1.0]) / 2.15
HAN_ADDEND = 1e-7


class Channel(NamedTuple):
    """Distortion model of one scale: distorted = gain * reference + noise of variance `residual`."""

    reference_variance: Floats
    gain: Floats
    residual: Floats


def _kernel(scale: int) -> Floats:
    return gaussian(TAPS[scale], TAPS[scale] / TAPS_PER_SIGMA)


@remembered
def _level(picture: Picture, scale: int) -> Floats:
    if scale == 0:
        return values(picture)
    return np.ascontiguousarray(window(_level(picture, scale - 1), _kernel(scale))[::2, ::2])


def _product(a: Picture, b: Picture, scale: int, wrap: bool) -> Floats:
    if wrap:
        return (a.pixels * b.pixels).astype(np.float64)
    return _level(a, scale) * _level(b, scale)


@remembered
def _mean(picture: Picture, scale: int) -> Floats:
    return window(_level(picture, scale), _kernel(scale))


@remembered
def _variance(picture: Picture, scale: int, wrap: bool) -> Floats:
    square = window(_product(picture, picture, scale, wrap), _kernel(scale))
    return np.maximum(square - _mean(picture, scale) ** 2, 0)


@remembered
def _channel(reference: Picture, distorted: Picture, scale: int, wrap: bool) -> Channel:
    before, after = _variance(reference, scale, wrap), _variance(distorted, scale, wrap)
    covariance = window(_product(reference, distorted, scale, wrap), _kernel(scale))
    covariance -= _mean(reference, scale) * _mean(distorted, scale)

    gain = covariance / (before + TINY)
    residual = after - gain * covariance
    flat_before, flat_after = before < TINY, after < TINY
    gain[flat_before | flat_after] = 0
    residual[flat_before] = after[flat_before]
    residual[flat_after] = 0
    inverted = gain < 0
    residual[inverted] = after[inverted]
    gain[inverted] = 0
    return Channel(np.where(flat_before, 0, before), gain, np.maximum(residual, TINY))


@remembered
def fidelity(reference: Picture, distorted: Picture, wrap: bool) -> float:
    """Information of `reference` still found in `distorted`, 1 for identical pictures.

    Over all four scales sum log(1 + g^2 v / (s + 2)) / sum log(1 + v / 2). A reference without any
    variance carries no information; the value is then 1, as in FILM's evaluator.

    Args:
        wrap: form x^2, y^2 and xy of the finest scale in 8-bit arithmetic, modulo 256 (see `mepma`).
    """
    kept = carried = 0.0
    for scale in range(SCALES):
        variance, gain, residual = _channel(reference, distorted, scale, wrap and scale == 0)
        kept += float(np.log1p(gain**2 * variance / (residual + NOISE)).sum())
        carried += float(np.log1p(variance / NOISE).sum())
    return kept / carried if carried > 0 else 1.0


@remembered
def fusion_fidelity(a: Picture, b: Picture, fused: Picture) -> float:
    """VIFF of Han et al. 2013: at each pixel only the source that the fused picture follows less
    (the smaller gain; `b` on a tie) is asked for, and the four scales are weighted 1, 0, 0.15, 1."""
    ratios = np.zeros(SCALES)
    for scale in np.flatnonzero(HAN_WEIGHTS):
        one, other = (_channel(source, fused, int(scale), False) for source in (a, b))
        first = one.gain < other.gain
        variance, gain, residual = (np.where(first, x, y) for x, y in zip(one, other, strict=True))
        addend = HAN_ADDEND * first.size
        kept = np.log10(1 + gain**2 * variance / (residual + HAN_NOISE)).sum() + addend
        carried = np.log10(1 + variance / HAN_NOISE).sum() + addend
        ratios[scale] = kept / carried
    return float(HAN_WEIGHTS @ ratios)
