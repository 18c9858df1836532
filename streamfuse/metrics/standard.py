"""The field's usual measures in their published form, under plain names.

`_ir`, `_vis`: to one source; without a suffix: sum (MI, VIF) or mean (SSIM, MS_SSIM, NCC) over both;
`_min`: to the source that came off worse, which a method cannot raise by copying the other one.
`ir`, `vis`, `fused`: 8-bit grey (H, W) of one size.
"""

import numpy as np

from streamfuse.metrics import similarity
from streamfuse.metrics.edges import edge_preservation
from streamfuse.metrics.information import entropy, histogram, stretched_mutual_information
from streamfuse.metrics.picture import Floats, Grey, Picture, pictures, remembered, values
from streamfuse.metrics.similarity import MS_SSIM_MIN_SIDE
from streamfuse.metrics.similarity import WINDOW as SSIM_MIN_SIDE
from streamfuse.metrics.vif import MIN_SIDE as VIF_MIN_SIDE
from streamfuse.metrics.vif import fidelity, fusion_fidelity


def en(fused: Grey) -> float:
    """Entropy of the histogram, 0..8 bits."""
    (f,) = pictures(fused)
    return entropy(histogram(f))


def sd(fused: Grey) -> float:
    """Population standard deviation, grey levels."""
    (f,) = pictures(fused)
    return float(values(f).std())


def sf(fused: Grey) -> float:
    """Spatial frequency: root of the mean squared horizontal plus vertical differences, each mean over
    its own number of differences."""
    (f,) = pictures(fused)
    across, down = np.diff(values(f), axis=1), np.diff(values(f), axis=0)
    return float(np.sqrt(np.mean(across**2) + np.mean(down**2)))


def ag(fused: Grey) -> float:
    """Average gradient: mean of sqrt((dx^2 + dy^2) / 2), forward differences."""
    (f,) = pictures(fused)
    grey = values(f)
    across, down = np.diff(grey, axis=1)[:-1], np.diff(grey, axis=0)[:, :-1]
    return float(np.mean(np.sqrt((across**2 + down**2) / 2)))


def vif_std(ir: Grey, vis: Grey, fused: Grey) -> float:
    """VIF(ir -> fused) + VIF(vis -> fused), pixel domain, noise variance 2: Q_VIF without its 8-bit wrap.
    2 for two constant sources. Sides >= 41."""
    a, b, f = pictures(ir, vis, fused, min_side=VIF_MIN_SIDE)
    return fidelity(a, f, False) + fidelity(b, f, False)


def viff(ir: Grey, vis: Grey, fused: Grey) -> float:
    """VIFF of Han et al. 2013, which asks at each pixel for the source kept less. 1 for two constant
    sources. Sides >= 41."""
    a, b, f = pictures(ir, vis, fused, min_side=VIF_MIN_SIDE)
    return fusion_fidelity(a, b, f)


def qabf_std(ir: Grey, vis: Grey, fused: Grey) -> float:
    """Edge preservation of Xydeas and Petrovic 2000 with their angle, that of the edge line whatever side
    is bright. 0 when both sources are black."""
    a, b, f = pictures(ir, vis, fused)
    return edge_preservation(a, b, f, "ratio")


def mi(a: Grey, b: Grey) -> float:
    """Mutual information in bits after a min-max stretch of each picture, as in Q_MI; 0 when either is
    constant."""
    x, y = pictures(a, b)
    return stretched_mutual_information(x, y)


def mi_ir(ir: Grey, vis: Grey, fused: Grey) -> float:
    """Mutual information with the infrared: one addend of Q_MI."""
    return mi(ir, fused)


def mi_vis(ir: Grey, vis: Grey, fused: Grey) -> float:
    """Mutual information with the visible: the other addend of Q_MI."""
    return mi(vis, fused)


def mi_min(ir: Grey, vis: Grey, fused: Grey) -> float:
    """Mutual information with the source kept less."""
    return min(mi_ir(ir, vis, fused), mi_vis(ir, vis, fused))


def ssim_ir(ir: Grey, vis: Grey, fused: Grey) -> float:
    """SSIM to the infrared (Gaussian window)."""
    a, f = pictures(ir, fused, min_side=SSIM_MIN_SIDE)
    return similarity.ssim(a, f)


def ssim_vis(ir: Grey, vis: Grey, fused: Grey) -> float:
    """SSIM to the visible (Gaussian window)."""
    b, f = pictures(vis, fused, min_side=SSIM_MIN_SIDE)
    return similarity.ssim(b, f)


def ssim(ir: Grey, vis: Grey, fused: Grey) -> float:
    """Mean SSIM over both sources (Gaussian window)."""
    return (ssim_ir(ir, vis, fused) + ssim_vis(ir, vis, fused)) / 2


def ssim_min(ir: Grey, vis: Grey, fused: Grey) -> float:
    """SSIM to the source kept less (Gaussian window)."""
    return min(ssim_ir(ir, vis, fused), ssim_vis(ir, vis, fused))


def ms_ssim(ir: Grey, vis: Grey, fused: Grey) -> float:
    """Mean multi-scale SSIM over both sources. Sides >= 161."""
    a, b, f = pictures(ir, vis, fused, min_side=MS_SSIM_MIN_SIDE)
    return (similarity.ms_ssim(a, f) + similarity.ms_ssim(b, f)) / 2


def correlation(x: Floats, y: Floats) -> float:
    """Pearson correlation; 0 when either is constant."""
    x, y = x - x.mean(), y - y.mean()
    energy = float(np.vdot(x, x)) * float(np.vdot(y, y))
    return float(np.vdot(x, y)) / float(np.sqrt(energy)) if energy > 0 else 0.0


@remembered
def _correlation(a: Picture, b: Picture) -> float:
    return correlation(values(a), values(b))


def ncc(ir: Grey, vis: Grey, fused: Grey) -> float:
    """Mean Pearson correlation with both sources over the whole picture; 0 towards a constant one."""
    a, b, f = pictures(ir, vis, fused)
    return (_correlation(a, f) + _correlation(b, f)) / 2
