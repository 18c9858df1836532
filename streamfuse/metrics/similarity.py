"""Structural similarity of two pictures. The maps are scikit-image's."""

from collections.abc import Callable

import cv2
import numpy as np
from skimage.metrics import structural_similarity

from streamfuse.metrics.picture import Floats, Picture, remembered, values

_mean_similarity: Callable[..., float] = structural_similarity  # untyped

DATA_RANGE = 255

# Wang, Bovik, Sheikh, Simoncelli 2004: 11-tap Gaussian (what sigma 1.5 is truncated to), biased variances.
WINDOW = 11
SIGMA = 1.5
# The uniform window that scikit-image, and with it FILM's evaluator, uses when not told otherwise.
UNIFORM_WINDOW = 7

# Wang, Simoncelli, Bovik 2003.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_MIN_SIDE = (WINDOW - 1) * 2 ** (len(SCALE_WEIGHTS) - 1) + 1
# With a luminance constant this large the luminance term is 1 and SSIM is its contrast-structure part.
NO_LUMINANCE_K1 = 1e9


def _gaussian_ssim(a: Floats, b: Floats, k1: float = 0.01) -> float:
    return _mean_similarity(
        a, b, data_range=DATA_RANGE, K1=k1, gaussian_weights=True, sigma=SIGMA, use_sample_covariance=False
    )


@remembered
def ssim(a: Picture, b: Picture) -> float:
    """Mean SSIM as first published: Gaussian window, valid positions only."""
    return _gaussian_ssim(values(a), values(b))


@remembered
def uniform_ssim(a: Picture, b: Picture) -> float:
    """Mean SSIM under a 7x7 uniform window with unbiased variances."""
    return _mean_similarity(values(a), values(b), data_range=DATA_RANGE, win_size=UNIFORM_WINDOW)


def _halved(image: Floats) -> Floats:
    """2x2 means; an odd side first gets a black row or column at both ends, which counts."""
    odd_rows, odd_columns = (side % 2 for side in image.shape)
    padded = np.pad(image, ((odd_rows, odd_rows), (odd_columns, odd_columns)))
    rows, columns = (side // 2 for side in padded.shape)
    even = padded[: rows * 2, : columns * 2]
    return np.asarray(cv2.resize(even, (columns, rows), interpolation=cv2.INTER_AREA))


@remembered
def ms_ssim(a: Picture, b: Picture) -> float:
    """Multi-scale SSIM over five scales: contrast-structure at four, full SSIM at the coarsest, negative
    means clipped to 0. Sides >= 161 px."""
    x, y = values(a), values(b)
    product = 1.0
    for scale, weight in enumerate(SCALE_WEIGHTS, start=1):
        coarsest = scale == len(SCALE_WEIGHTS)
        mean = _gaussian_ssim(x, y) if coarsest else _gaussian_ssim(x, y, k1=NO_LUMINANCE_K1)
        product *= max(mean, 0.0) ** weight
        if not coarsest:
            x, y = _halved(x), _halved(y)
    return float(product)
