"""What a good fusion is, differentiably: smooth twins of the metrics that no trivial method wins together.

All take (B, 1, H, W) in [0, 1] and give one value per picture, (B,).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

BINS = 48
"""Of five grey levels: with one a level the gradient of a histogram is noise."""
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
VIFF_NOISE = 0.005
VIFF_SCALES = ((17, 1.0), (5, 0.15), (3, 1.0))
"""(taps, weight) of the scales that Han et al. 2013 weight above zero; the second one stands at a quarter."""
TINY = 1e-6


def _window(x: Tensor, taps: int, sigma: float) -> Tensor:
    side = torch.arange(taps, dtype=x.dtype, device=x.device) - (taps - 1) / 2
    kernel = torch.exp(-(side**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    return F.conv2d(F.conv2d(x, kernel, groups=x.shape[1]), kernel.transpose(2, 3), groups=x.shape[1])


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM with the usual Gaussian window, valid positions."""
    stack = torch.cat([a, b, a * a, b * b, a * b], dim=1)
    ma, mb, aa, bb, ab = _window(stack, SSIM_WINDOW, SSIM_SIGMA).chunk(5, dim=1)
    va, vb, cov = aa - ma * ma, bb - mb * mb, ab - ma * mb
    top = (2 * ma * mb + SSIM_C1) * (2 * cov + SSIM_C2)
    index: Tensor = top / ((ma * ma + mb * mb + SSIM_C1) * (va + vb + SSIM_C2))
    return index.mean((1, 2, 3))


def mutual_information(a: Tensor, b: Tensor) -> Tensor:
    """Mutual information in bits of the joint histogram, each value shared linearly by its two nearest
    BINS."""
    values = []
    for x, y in zip(a.flatten(1), b.flatten(1), strict=True):
        joint = x.new_zeros(BINS * BINS)
        xs, ys = x.clamp(0, 1) * (BINS - 1), y.clamp(0, 1) * (BINS - 1)
        xi, yi = xs.detach().floor().clamp(max=BINS - 2), ys.detach().floor().clamp(max=BINS - 2)
        xf, yf = xs - xi, ys - yi
        index = (xi * BINS + yi).long()
        for step, weight in (
            (0, (1 - xf) * (1 - yf)),
            (1, (1 - xf) * yf),
            (BINS, xf * (1 - yf)),
            (BINS + 1, xf * yf),
        ):
            joint = joint.index_add(0, index + step, weight)
        p = (joint / joint.sum()).view(BINS, BINS)
        px, py = p.sum(1, keepdim=True), p.sum(0, keepdim=True)
        values.append((p * torch.log2((p + 1e-10) / (px * py + 1e-10))).sum())
    return torch.stack(values)


def _histogram(x: Tensor) -> Tensor:
    values = x.flatten().clamp(0, 1) * (BINS - 1)
    low = values.detach().floor().clamp(max=BINS - 2)
    index, part = low.long(), values - low
    counts = x.new_zeros(BINS).index_add(0, index, 1 - part).index_add(0, index + 1, part)
    return counts / counts.sum()


def cross_entropy(ir: Tensor, vis: Tensor, fused: Tensor) -> Tensor:
    """Mean divergence, bits, of the histogram of the fused picture from those of its sources (Q_CE): bins
    that are empty in either count for nothing."""
    values = []
    for pictures in zip(ir, vis, fused, strict=True):
        a, b, f = (_histogram(picture) for picture in pictures)
        empty = 0.5 / pictures[0].numel()
        kept = [(s > empty) & (f > empty) for s in (a, b)]
        parts = [(s[k] * torch.log2(s[k] / f[k])).sum() for s, k in zip((a, b), kept, strict=True)]
        values.append((parts[0] + parts[1]) / 2)
    return torch.stack(values)


class Gradient(NamedTuple):
    """Sobel derivatives, each (B, 1, H, W), replicated at the border."""

    x: Tensor
    y: Tensor

    @property
    def magnitude(self) -> Tensor:
        return torch.sqrt(self.x**2 + self.y**2 + TINY)


def sobel(image: Tensor) -> Gradient:
    """Derivatives per pixel (the kernels are divided by 8)."""
    rows = image.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]).view(1, 1, 3, 3) / 8
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    return Gradient(F.conv2d(padded, rows), F.conv2d(padded, rows.transpose(2, 3)))


def edge_preservation(ir: Gradient, vis: Gradient, fused: Gradient) -> Tensor:
    """Q_AB/F of Xydeas and Petrovic 2000 with the angle of the edge line, constants as published."""
    kept = carried = torch.zeros(())
    for source in (ir, vis):
        gs, gf = source.magnitude, fused.magnitude
        ratio = torch.minimum(gs, gf) / torch.maximum(gs, gf)
        # |angle between the two lines| from |sin|: smooth where the textbook's arctan jumps
        cross = (source.x * fused.y - source.y * fused.x).abs() / (gs * gf)
        agreement = 1 - torch.asin(cross.clamp(0, 0.999)) / (torch.pi / 2)
        strength = 0.9994 / (1 + torch.exp(-15 * (ratio - 0.5)))
        orientation = 0.9879 / (1 + torch.exp(-22 * (agreement - 0.8)))
        kept = kept + (strength * orientation * gs).sum((1, 2, 3))
        carried = carried + gs.sum((1, 2, 3))
    return kept / carried.clamp_min(TINY)


def viff(ir: Tensor, vis: Tensor, fused: Tensor) -> Tensor:
    """VIFF of Han et al. 2013 without its choice per scale of the sampling: three Gaussian windows, the
    coarser ones on pictures halved as in the metric, each pixel asking for the source that is followed
    less."""
    total = fused.new_zeros(fused.shape[0])
    stack = torch.cat([ir, vis, fused], dim=1)
    norm = sum(weight for _, weight in VIFF_SCALES)
    for index, (taps, weight) in enumerate(VIFF_SCALES):
        if index:
            for _ in range(2 if index == 1 else 1):
                stack = _window(stack, 5, 1.0)[:, :, ::2, ::2]
        a, b, f = stack.chunk(3, dim=1)
        moments = _window(torch.cat([stack, a * a, b * b, f * f, a * f, b * f], 1), taps, taps / 5)
        ma, mb, mf, aa, bb, ff, af, bf = moments.chunk(8, dim=1)
        va, vb, vf = (m.clamp_min(0) for m in (aa - ma * ma, bb - mb * mb, ff - mf * mf))
        ga = ((af - ma * mf) / (va + TINY)).clamp_min(0)
        gb = ((bf - mb * mf) / (vb + TINY)).clamp_min(0)
        first = ga.detach() < gb.detach()
        gain, variance = torch.where(first, ga, gb), torch.where(first, va, vb)
        cov = torch.where(first, af - ma * mf, bf - mb * mf)
        residual = (vf - gain * cov).clamp_min(0)
        kept = torch.log1p(gain**2 * variance / (residual + VIFF_NOISE)).sum((1, 2, 3))
        carried = torch.log1p(variance / VIFF_NOISE).sum((1, 2, 3))
        total = total + weight / norm * (kept + TINY) / (carried + TINY)
    return total
