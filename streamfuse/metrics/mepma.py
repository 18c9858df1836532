"""The six fusion metrics of the ME-PMA table, exactly as its evaluator computes them.

They carry the names of the common toolbox but depart from the definitions in its papers: the quirks are
kept here, because only with them the published numbers come out, and named in each docstring; the
standard forms are in `standard`. The infrared reference is the undeformed picture.
`ir`, `vis`, `fused`: 8-bit grey (H, W) of one size.
"""

from collections.abc import Callable

import cv2
import numpy as np
import scipy.fft

from streamfuse.metrics.edges import edge_preservation, sobel
from streamfuse.metrics.information import histogram, stretched_mutual_information
from streamfuse.metrics.picture import Floats, Grey, Picture, pictures, remembered, stretched
from streamfuse.metrics.vif import MIN_SIDE as VIF_MIN_SIDE
from streamfuse.metrics.vif import fidelity

# Q_CB (Chen and Blum 2009): band-pass of the eye as a difference of Gaussians in cycles per degree, for
# 15 frequency steps a degree; local contrast of two Gaussian means; masking constants.
CB_STEPS_PER_DEGREE = 15.0
CB_CENTRE, CB_SURROUND, CB_SURROUND_WEIGHT = 15.3870, 1.3456, 0.7622
CB_TAPS, CB_SIGMA_NEAR, CB_SIGMA_FAR = 31, 2.0, 4.0
CB_MASKING = 1e-4

# Q_CV (Chen and Varshney 2007): regions of 16x16, saliency |gradient|^5, Mannos-Sakrison sensitivity.
CV_BLOCK = 16
CV_STEPS_PER_DEGREE = 4.0
CV_MIN_SIDE = CV_BLOCK


def q_mi(ir: Grey, vis: Grey, fused: Grey) -> float:
    """Mutual information with both sources, MI(ir, fused) + MI(vis, fused), in bits. Higher is better.

    Not normalised, unlike Hossny et al. 2008; each picture is min-max stretched and truncated to 256
    levels first. 0 when the fused picture is constant.
    """
    a, b, f = pictures(ir, vis, fused)
    return stretched_mutual_information(a, f) + stretched_mutual_information(b, f)


def _relative_entropy(source: Picture, fused: Picture) -> float:
    p, q = histogram(source), histogram(fused)
    both = (p > 0) & (q > 0)
    return float(np.sum(p[both] * np.log2(p[both] / q[both])))


def q_ce(ir: Grey, vis: Grey, fused: Grey) -> float:
    """Cross entropy: mean of KL(ir || fused) and KL(vis || fused) of the histograms, bits. Lower is better.

    Quirk: levels empty in either histogram are dropped, so histograms without a common level score 0
    and the value may be negative.
    """
    a, b, f = pictures(ir, vis, fused)
    return (_relative_entropy(a, f) + _relative_entropy(b, f)) / 2


def q_vif(ir: Grey, vis: Grey, fused: Grey) -> float:
    """Visual information fidelity, VIF(ir -> fused) + VIF(vis -> fused). Higher is better; sides >= 41.

    Quirk: at the finest scale x^2, y^2 and xy are formed in 8 bits and wrap modulo 256, so that this
    scale counts only in very dark areas; `standard.vif_std` has no wrap. Two constant sources score 2.
    """
    a, b, f = pictures(ir, vis, fused, min_side=VIF_MIN_SIDE)
    return fidelity(a, f, True) + fidelity(b, f, True)


def q_abf(ir: Grey, vis: Grey, fused: Grey) -> float:
    """Edge preservation of Xydeas and Petrovic 2000, 0..1. Higher is better.

    Quirks: edge angles come from the four-quadrant arc tangent and their difference is not wrapped, so
    an edge of reversed polarity counts as a turned one; where source and fused magnitude are equal the
    magnitude stands for their ratio. 0 when both sources are black.
    """
    a, b, f = pictures(ir, vis, fused)
    return edge_preservation(a, b, f, "four_quadrant")


def _filtered(image: Floats, steps_per_degree: float, sensitivity: Callable[[Floats], Floats]) -> Floats:
    """Filter by a radial frequency response. Quirk of the reference: frequencies are the integer indices
    of the transform, not scaled by the size of the picture."""
    height, width = image.shape
    v = scipy.fft.fftfreq(height, 1 / height)[:, None] / steps_per_degree
    u = scipy.fft.rfftfreq(width, 1 / width)[None, :] / steps_per_degree
    response = sensitivity(np.hypot(u, v))
    return np.asarray(scipy.fft.irfft2(scipy.fft.rfft2(image) * response, s=image.shape))


def _band_pass(r: Floats) -> Floats:
    centre, surround = np.exp(-((r / CB_CENTRE) ** 2)), np.exp(-((r / CB_SURROUND) ** 2))
    return np.asarray(centre - CB_SURROUND_WEIGHT * surround)


def _local_mean(image: Floats, sigma: float) -> Floats:
    # Divided by 2 pi sigma^2, not by its own sum: a truncated Gaussian stays a little below 1.
    offset = np.arange(CB_TAPS) - CB_TAPS // 2
    kernel = np.exp(-(offset**2) / (2 * sigma**2)) / (np.sqrt(2 * np.pi) * sigma)
    return np.asarray(cv2.sepFilter2D(image, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_CONSTANT))


@remembered
def _masked_contrast(picture: Picture) -> Floats:
    seen = _filtered(np.rint(stretched(picture)), CB_STEPS_PER_DEGREE, _band_pass)
    near, far = _local_mean(seen, CB_SIGMA_NEAR), _local_mean(seen, CB_SIGMA_FAR)
    contrast = np.abs(np.divide(near, far, out=np.ones_like(near), where=far != 0) - 1)
    return np.asarray(contrast**2 * contrast / (contrast**2 + CB_MASKING))


def _contrast_kept(source: Floats, fused: Floats) -> Floats:
    smaller, larger = np.minimum(source, fused), np.maximum(source, fused)
    return np.divide(smaller, larger, out=np.ones_like(smaller), where=larger > 0)


def q_cb(ir: Grey, vis: Grey, fused: Grey) -> float:
    """Chen and Blum 2009: local contrast kept, as the eye filters and masks it, 0..1. Higher is better.

    Quirks: frequencies are transform indices, whatever the size of the picture; the local means are not
    renormalised and see zeros beyond the border. A contrast absent from source and fused counts as kept,
    absent from both sources they share the weight, so three constant pictures score 1.
    """
    a, b, f = (_masked_contrast(picture) for picture in pictures(ir, vis, fused))
    total = a**2 + b**2
    share = np.divide(a**2, total, out=np.full_like(a, 0.5), where=total > 0)
    kept = share * _contrast_kept(a, f) + (1 - share) * _contrast_kept(b, f)
    return float(kept.mean())


def _mannos_sakrison(r: Floats) -> Floats:
    return np.asarray(2.6 * (0.0192 + 0.144 * r) * np.exp(-((0.144 * r) ** 1.1)))


def _block_sums(image: Floats) -> Floats:
    rows, columns = (side // CV_BLOCK for side in image.shape)
    whole = image[: rows * CV_BLOCK, : columns * CV_BLOCK]
    return np.asarray(whole.reshape(rows, CV_BLOCK, columns, CV_BLOCK).sum(axis=(1, 3)))


@remembered
def _stretched_rounded(picture: Picture) -> Picture:
    return Picture(np.rint(stretched(picture)))


@remembered
def _saliency(picture: Picture) -> Floats:
    magnitude = sobel(_stretched_rounded(picture)).magnitude
    return _block_sums(magnitude**2 * magnitude**2 * magnitude)


def _seen_difference(source: Picture, fused: Picture) -> Floats:
    difference = np.rint(stretched(source)) - np.rint(stretched(fused))
    seen = _filtered(difference, CV_STEPS_PER_DEGREE, _mannos_sakrison)
    return _block_sums(seen**2) / CV_BLOCK**2


def q_cv(ir: Grey, vis: Grey, fused: Grey) -> float:
    """Chen and Varshney 2007: visible difference to the sources, weighted by their edges. Lower is better.

    Quirks: each picture is min-max stretched first; frequencies are transform indices, whatever the size
    of the picture; incomplete 16x16 blocks at the right and bottom are dropped. 0 when neither source has
    an edge. Sides >= 16.
    """
    a, b, f = pictures(ir, vis, fused, min_side=CV_MIN_SIDE)
    weight_a, weight_b = _saliency(a), _saliency(b)
    total = float(weight_a.sum() + weight_b.sum())
    if total == 0:
        return 0.0
    error = np.vdot(weight_a, _seen_difference(a, f)) + np.vdot(weight_b, _seen_difference(b, f))
    return float(error) / total
