"""What it is worth to leave the pixel-wise maximum at a place: the metrics, taken apart pixel by pixel.

Most fusion metrics are sums over places, and a small change moves the others by the sum of its first-order
effects. So the gain of a decision can be computed for every place at once: each alternative is made for the
whole picture and compared with the maximum. The network then learns where gains lie (`training/fusion.py`).
Mutual information is not among them: what it costs to change a place is much the same everywhere, a price.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from streamfuse.nn.live_fusion import CELL, LOW

ALTERNATIVES = ("vis", "ir texture")
"""The visible as it is; the texture of the infrared on the brightness of the maximum."""
NAMES = ("ssim_min", "edges", "cv", "ce", "texture")
TYPICAL = {"ssim_min": 0.58, "edges": 0.56, "cv": 550.0, "ce": 0.47, "texture": 1.0}
"""What the pixel-wise maximum reaches on RoadScene, by which gains are divided: then they are shares."""

PRIOR = 20.0
"""Pixels of prior belief in a bin of a histogram that a changed picture would fill anew."""
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
CV_BLOCK = 16
CV_SIGMA = 4.0
"""Pixels of the difference that the eye averages over, at about the peak of Q_CV's sensitivity."""
TEXTURE_SIGMA = 3.0
TEXTURED, FLAT = 2.5 / 255, 0.4
"""As in `metrics/salience.py`."""
TINY = 1e-6


@dataclass(frozen=True, slots=True)
class Sobel:
    """Derivatives per pixel, (1, 1, H, W)."""

    x: Tensor
    y: Tensor

    @property
    def magnitude(self) -> Tensor:
        return torch.sqrt(self.x**2 + self.y**2 + TINY)


def sobel(image: Tensor) -> Sobel:
    """Replicated at the border."""
    rows = image.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]).view(1, 1, 3, 3) / 8
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    return Sobel(F.conv2d(padded, rows), F.conv2d(padded, rows.transpose(2, 3)))


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian mean of the same size, each channel on its own, replicated at the border."""
    reach = round(3 * sigma)
    side = torch.arange(-reach, reach + 1, dtype=x.dtype)
    kernel = torch.exp(-(side**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    flat = x.flatten(0, 1)[:, None]
    flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0), mode="replicate"), kernel)
    flat = F.conv2d(F.pad(flat, (0, 0, reach, reach), mode="replicate"), kernel.transpose(2, 3))
    return flat.view(x.shape)


def alternatives(ir: Tensor, vis: Tensor) -> list[Tensor]:
    """The picture that each of ALTERNATIVES gives if it is chosen everywhere, values of 8-bit pictures."""
    lost = blur(F.avg_pool2d(torch.maximum(ir, vis) - ir, CELL, ceil_mode=True), LOW / 3)
    offset = F.interpolate(lost, scale_factor=CELL, mode="bilinear", align_corners=False)
    lifted = (ir + offset[:, :, : ir.shape[2], : ir.shape[3]]).clamp(0, 1)
    return [vis, (lifted * 255).round() / 255]


class Judge:
    """Gains over the maximum for one pair, (1, 1, H, W) luma in [0, 1] each, values of 8-bit pictures."""

    def __init__(self, ir: Tensor, vis: Tensor) -> None:
        self.sources = ir, vis
        self.maximum = torch.maximum(ir, vis)
        self._levels = [_level(x) for x in (*self.sources, self.maximum)]
        self._similar = [_ssim(source, self.maximum) for source in self.sources]
        self._edges = [sobel(x) for x in (*self.sources, self.maximum)]
        self._saliency = [_cv_saliency(edge) for edge in self._edges[:2]]
        self._worse = int(self._similar[1].mean() < self._similar[0].mean())

    def gains(self, picture: Tensor) -> Tensor:
        """Gain of each pixel by NAMES, (1, 5, H, W), in shares of TYPICAL; the mean over a picture is its
        gain."""
        edges = sobel(picture)
        found = {
            "ssim_min": _ssim(self.sources[self._worse], picture) - self._similar[self._worse],
            "edges": self._edge_gain(edges),
            "cv": self._difference_gain(picture),
            "ce": self._histogram_gain(picture),
            "texture": self._texture_gain(edges),
        }
        return torch.cat([found[name] / TYPICAL[name] for name in NAMES], 1)

    def _edge_gain(self, edges: Sobel) -> Tensor:
        strengths = [edge.magnitude for edge in self._edges[:2]]
        carried = (strengths[0] + strengths[1]).mean()
        gain = torch.zeros_like(carried)
        for edge, strength in zip(self._edges[:2], strengths, strict=True):
            gain = gain + (_preserved(edge, edges) - _preserved(edge, self._edges[2])) * strength
        return gain / carried

    def _difference_gain(self, picture: Tensor) -> Tensor:
        """A loss, always: Q_CV does not see how bright a wide place is, but it sees the edge of one that was
        made brighter or darker, and more so near edges of the sources."""
        weight = self._saliency[0] + self._saliency[1]
        step = blur(picture - self.maximum, CV_SIGMA)
        return -weight * step**2 * 255**2 / weight.mean().clamp_min(1e-12)

    def _histogram_gain(self, picture: Tensor) -> Tensor:
        """First order of the relative entropies; a pixel in a bin that was empty makes all of the source's
        count."""
        counts = [torch.bincount(level.flatten(), minlength=256).float() for level in self._levels]
        filled = counts[2] + PRIOR
        pull = (counts[0] + counts[1]) / 2 / filled
        cost = torch.where(counts[2] > 0, -pull, pull * torch.log(filled / PRIOR + 1) + pull)
        gain: Tensor = cost[self._levels[2]] - cost[_level(picture)]
        return gain / 0.693

    def _texture_gain(self, edges: Sobel) -> Tensor:
        strengths = [blur(edge.magnitude, TEXTURE_SIGMA) for edge in (*self._edges, edges)]
        ir, vis, before, after = strengths
        there = (vis > TEXTURED) & (ir < FLAT * vis)
        gain = (torch.minimum(after, vis) - torch.minimum(before, vis)) * there
        return gain / (vis * there).mean().clamp_min(1e-4)


def cell_gains(ir: Tensor, vis: Tensor) -> Tensor:
    """(2, 5, h, w): ALTERNATIVES by NAMES, mean over each cell, for a pair of (1, 1, H, W)."""
    judge = Judge(ir, vis)
    rows, columns = ir.shape[2:]
    gains = torch.cat([judge.gains(picture) for picture in alternatives(ir, vis)])
    return F.avg_pool2d(F.pad(gains, (0, -columns % CELL, 0, -rows % CELL), mode="replicate"), CELL)


def _level(x: Tensor) -> Tensor:
    return (x * 255).round().long()


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    moments = blur(torch.cat([a, b, a * a, b * b, a * b], 1), SSIM_SIGMA)
    ma, mb, aa, bb, ab = moments.chunk(5, dim=1)
    top = (2 * ma * mb + SSIM_C1) * (2 * (ab - ma * mb) + SSIM_C2)
    return top / ((ma * ma + mb * mb + SSIM_C1) * (aa - ma * ma + bb - mb * mb + SSIM_C2))


def _preserved(source: Sobel, fused: Sobel) -> Tensor:
    """Per-pixel edge preservation of Xydeas and Petrovic 2000, angle of the edge line."""
    gs, gf = source.magnitude, fused.magnitude
    ratio = torch.minimum(gs, gf) / torch.maximum(gs, gf)
    cross = (source.x * fused.y - source.y * fused.x).abs() / (gs * gf)
    agreement = 1 - torch.asin(cross.clamp(0, 0.999)) / (torch.pi / 2)
    strength = 0.9994 / (1 + torch.exp(-15 * (ratio - 0.5)))
    return strength * 0.9879 / (1 + torch.exp(-22 * (agreement - 0.8)))


def _cv_saliency(edge: Sobel) -> Tensor:
    """Gradient to the fifth power, mean of each block, at every pixel (Chen and Varshney 2007)."""
    power = edge.magnitude**5
    rows, columns = power.shape[2:]
    blocks = F.avg_pool2d(power, CV_BLOCK, ceil_mode=True, count_include_pad=False)
    return F.interpolate(blocks, scale_factor=CV_BLOCK)[:, :, :rows, :columns]
