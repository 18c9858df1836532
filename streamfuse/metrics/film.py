"""The fusion metrics of FILM's evaluator, the reference set of that literature, exactly.

`en`, `sd` and `sf` are the standard ones. The others share names with `standard` and `mepma` but not
the definition (MI in nats and without a stretch, AG by central differences, VIFF a plain sum, SSIM under
a uniform window and summed), hence the prefix `film_` in every table.
`ir`, `vis`, `fused`: 8-bit grey (H, W) of one size.
"""

import numpy as np

from streamfuse.metrics import standard
from streamfuse.metrics.information import mutual_information
from streamfuse.metrics.picture import Grey, pictures, values
from streamfuse.metrics.similarity import UNIFORM_WINDOW as SSIM_MIN_SIDE
from streamfuse.metrics.similarity import uniform_ssim
from streamfuse.metrics.standard import en, sd, sf

__all__ = ["ag", "cc", "en", "mi", "mse", "psnr", "qabf", "scd", "sd", "sf", "ssim", "viff"]

PSNR_LIMIT_DB = 100.0
"""Stands for the infinite ratio of identical pictures."""


def ag(fused: Grey) -> float:
    """Average gradient by central differences (one-sided at the border): mean sqrt((gx^2 + gy^2) / 2)."""
    (f,) = pictures(fused)
    down, across = np.gradient(values(f))
    return float(np.mean(np.sqrt((across**2 + down**2) / 2)))


def mi(ir: Grey, vis: Grey, fused: Grey) -> float:
    """MI(ir, fused) + MI(vis, fused) of the grey levels as they are, in nats."""
    a, b, f = pictures(ir, vis, fused)
    return float((mutual_information(a, f) + mutual_information(b, f)) * np.log(2))


def mse(ir: Grey, vis: Grey, fused: Grey) -> float:
    """Mean squared difference to both sources, averaged, grey levels squared. Lower is better."""
    a, b, f = (values(picture) for picture in pictures(ir, vis, fused))
    return float((np.mean((a - f) ** 2) + np.mean((b - f) ** 2)) / 2)


def psnr(ir: Grey, vis: Grey, fused: Grey) -> float:
    """10 log10(peak^2 / MSE) in dB, at most 100. Quirk: the peak is the fused picture's own maximum, not
    255 (1 where it is black)."""
    (f,) = pictures(fused)
    error = mse(ir, vis, fused)
    peak = max(float(f.pixels.max()), 1.0)
    return min(float(10 * np.log10(peak**2 / error)), PSNR_LIMIT_DB) if error > 0 else PSNR_LIMIT_DB


def cc(ir: Grey, vis: Grey, fused: Grey) -> float:
    """Mean Pearson correlation with both sources; 0 towards a constant one."""
    return standard.ncc(ir, vis, fused)


def scd(ir: Grey, vis: Grey, fused: Grey) -> float:
    """Sum of correlations of differences: r(ir, fused - vis) + r(vis, fused - ir); an addend is 0 where a
    side of it is constant."""
    a, b, f = (values(picture) for picture in pictures(ir, vis, fused))
    return standard.correlation(a, f - b) + standard.correlation(b, f - a)


def viff(ir: Grey, vis: Grey, fused: Grey) -> float:
    """Despite its name a plain sum of pixel-domain VIF over both sources (2 for identical pictures)."""
    return standard.vif_std(ir, vis, fused)


def qabf(ir: Grey, vis: Grey, fused: Grey) -> float:
    """Edge preservation with the angle of the edge line (0.9753 for identical pictures)."""
    return standard.qabf_std(ir, vis, fused)


def ssim(ir: Grey, vis: Grey, fused: Grey) -> float:
    """SSIM(fused, ir) + SSIM(fused, vis) under a 7x7 uniform window (2 for identical pictures)."""
    a, b, f = pictures(ir, vis, fused, min_side=SSIM_MIN_SIDE)
    return uniform_ssim(a, f) + uniform_ssim(b, f)
