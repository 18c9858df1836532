"""The `live` fusion network: where to leave the pixel-wise maximum, decided on cells of 8 x 8 pixels.

Pixel-wise maximum is a strong and steady fuser, and every pixel of it is the exact copy of a source, which is
what information measures and eyes that look for noise are fond of. What it gets wrong is regional: texture
lost under bright, flat infrared; people drowned in daylight or in smoke that is brighter than they are. So
the network predicts for each cell a share of the visible, one of the infrared, and whether there are people,
all exactly zero in most places. The visible is copied, unless it is so dark that it would be a hole; the
infrared lends its texture to the brightness of the maximum; people are the maximum of the picture and of
lifted infrared: as much brighter than what is around them as the infrared shows them.

    a, b, c = shares of vis and ir, and people, 0..1;  m = the brighter one;  low(x) = local mean of x
    lost = low(m - ir) over what is not warm;  warm = 0..1 with ir - low(ir)
    n = m + a (vis - m + max(0, low(m - vis) - DROP))
    n = n + b (ir - n + lost nearby), not darker than the darkest m
    fused = max(n, ir - 1 + c warm (1 + lost)): ir + lost where both are 1, nothing where either is 0

The result is continuous but for TIE: nothing jumps where the sources cross, nor between cells.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamfuse.nn.network import Network

SAMPLE = 4
"""Pixels per side over which brightness and gradient are averaged: all that the network sees."""
CELL = 8
"""Pixels per side that share a decision."""
WIDTH = 32
DILATIONS = (1, 2, 4, 8, 1)
"""Sees 16 * 2 + 3 cells, 280 pixels: smoke is told from sky by what surrounds it."""
LOW = 5
"""Cells per side of a local mean: 40 pixels, above the size of texture."""
GRADIENT_FLOOR = 2 / 255
"""Gradient, per pixel, that counts as noise; above it the network sees the logarithm."""
WIDE = 11
"""Cells per side of what a person is compared with: 88 pixels, above the size of people."""
WARM_SLOPE, WARM_START = 255 / 10, 1.0
"""Infrared 10 levels above the mean around it is not yet warm, 20 levels above it fully so."""
LEAST_COLD = 0.05
"""Share of the surroundings that is known to be cold, at least, before it tells their brightness."""
DROP = 20 / 255
"""Darker than the maximum by more, on average, a copy of the visible is a hole: there it is lifted."""
TIE = 4.25 / 255
"""Sources that differ by less, 4 grey levels at most, look the same: then the one is copied that is seen less
in the picture as a whole, which is worth one percent of its mutual information. Not a whole number of levels,
or the rounding of floats would decide."""
TIE_SLOPE = 4.0
"""Of that preference over the share of the picture where the visible is brighter: full from a quarter away
from half, none at half, so that it drifts and never jumps."""
STRETCH = 1.2
"""Sigmoids are stretched by this and cut to 0..1, so that shares of exactly 0 and 1 are within reach (hard
concrete distribution, Louizos et al. 2018)."""
START = -2.5
"""Bias of the shares: an untrained network leaves the brighter source nowhere."""
EDGE = 4.0
"""Steepness of the change-over between cells: 2 pixels wide, as a pixel in between is no copy."""


def shares(x: Tensor) -> Tensor:
    """What is decided as shares, 0..1."""
    return (STRETCH * torch.sigmoid(x) - (STRETCH - 1) / 2).clamp(0, 1)


def _gradient(images: Tensor) -> Tensor:
    """Absolute differences down and across, summed, mean of each SAMPLE x SAMPLE block; of neighbours that
    make pairs, half of all, which is enough for a mean."""
    down = (images[:, :, 1::2] - images[:, :, ::2]).abs_()
    across = (images[..., 1::2] - images[..., ::2]).abs_()
    return F.avg_pool2d(down, (SAMPLE // 2, SAMPLE)) + F.avg_pool2d(across, (SAMPLE, SAMPLE // 2))


def _mean(x: Tensor, side: int) -> Tensor:
    """Local mean over `side` x `side` cells, of the same size."""
    x = F.avg_pool2d(x, (side, 1), 1, (side // 2, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, side), 1, (0, side // 2), count_include_pad=False)


def _cold(ir_cells: Tensor) -> Tensor:
    return 1 - ((ir_cells - _mean(ir_cells, WIDE)) * WARM_SLOPE - WARM_START).clamp(0, 1)


def _spread(maps: Tensor, picture: Tensor) -> Iterator[Tensor]:
    """Maps of the cells at the pixels of a picture, one by one, to be worked on in place: memory that is
    touched for the first time costs more than the arithmetic."""
    rows, columns = picture.shape[2:]
    for one in maps.chunk(maps.shape[1], dim=1):
        spread = F.interpolate(one, scale_factor=CELL, mode="bilinear", align_corners=False)
        yield spread[:, :, :rows, :columns]


def _visible_wins(means: Tensor) -> Tensor:
    """Share of the picture where the visible is the brighter one, (B, 1, 1, 1)."""
    return (means[:, 1:2] > means[:, :1]).to(means.dtype).mean((2, 3), keepdim=True)


class LiveFusion(Network):
    """(B, 1, H, W) infrared and visible luma in [0, 1] -> fused luma in [0, 1], same size, any H and W."""

    NAME: ClassVar[str] = "live-fusion"
    PARTS: ClassVar[tuple[str, ...]] = ("enter", "down", "whole", "trunk", "leave")
    SUMMARY: ClassVar[str] = "fusion at camera rate: where to leave the pixel-wise maximum"

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(6, WIDTH // 2, 3, padding=1)
        self.down = nn.Conv2d(WIDTH // 2, WIDTH, 3, stride=2, padding=1)
        self.whole = nn.Linear(7, WIDTH)
        self.trunk = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=d, dilation=d) for d in DILATIONS)
        self.leave = nn.Conv2d(WIDTH, 3, 3, padding=1)
        nn.init.normal_(self.leave.weight, std=0.003)
        assert self.leave.bias is not None
        nn.init.constant_(self.leave.bias, START)

    def forward(self, ir: Tensor, vis: Tensor) -> Tensor:
        means, gradients = self.look(ir, vis)
        return self.compose(ir, vis, means, self.decide(means, gradients))

    @staticmethod
    def compose(ir: Tensor, vis: Tensor, means: Tensor, decided: Tensor) -> Tensor:
        """The fused picture by what was decided (`decide`), with the means of the same pictures (`look`)."""
        cells = F.avg_pool2d(means, CELL // SAMPLE)
        ir_cells, vis_cells, brighter_cells = cells.chunk(3, dim=1)
        cold = _cold(ir_cells)
        vis_lost = _mean(brighter_cells - vis_cells, LOW)
        ir_lost = _mean(cold * (brighter_cells - ir_cells), LOW) / _mean(cold, LOW).clamp_min(LEAST_COLD)
        share = shares(decided)
        maps = torch.cat([EDGE * (share[:, :2] - 0.5) + 0.5, F.relu(vis_lost - DROP), ir_lost], 1)
        visible, infrared, vis_lifted, ir_lifted = _spread(maps, ir)
        preference = TIE * (TIE_SLOPE * (_visible_wins(means) - 0.5)).clamp(-1, 1)
        brighter = torch.where(ir + preference > vis, ir, vis)
        fused = torch.lerp(brighter, vis_lifted.add_(vis), visible.clamp_(0, 1))
        fused.lerp_(ir_lifted.add_(ir), infrared.clamp_(0, 1))
        fused.clamp_min_(brighter.amin((2, 3), keepdim=True))
        return torch.maximum(fused, LiveFusion.people(ir, means, decided)).clamp_max_(1)

    @staticmethod
    def people(ir: Tensor, means: Tensor, decided: Tensor) -> Tensor:
        """Lifted infrared where there are people, for any picture to be no darker than; below 0 where there
        are none or nothing is warm. Arguments as of `compose`."""
        ir_cells, vis_cells, _ = F.avg_pool2d(means, CELL // SAMPLE).chunk(3, dim=1)
        cold = _cold(ir_cells)
        hidden = _mean(cold * F.relu(vis_cells - ir_cells), WIDE) / _mean(cold, WIDE).clamp_min(LEAST_COLD)
        share = shares(decided)[:, 2:] * (1 + hidden)
        warm, raised = _spread(torch.cat([-_mean(ir_cells, WIDE) * WARM_SLOPE - WARM_START, share], 1), ir)
        return raised.mul_(warm.add_(ir, alpha=WARM_SLOPE).clamp_(0, 1)).add_(ir).sub_(1)

    @staticmethod
    def look(ir: Tensor, vis: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and gradient of ir, vis and max, (B, 3, H / SAMPLE, W / SAMPLE) each, over whole cells."""
        rows, columns = ir.shape[2:]
        images = torch.cat([ir, vis, torch.maximum(ir, vis)], 1)
        if rows % CELL or columns % CELL:
            images = F.pad(images, (0, -columns % CELL, 0, -rows % CELL), "replicate")
        return F.avg_pool2d(images, SAMPLE), _gradient(images)

    def decide(self, means: Tensor, gradients: Tensor) -> Tensor:
        """(B, 3, H / CELL, W / CELL) out of what `look` gives: to take the visible, to take the infrared,
        people, before they become shares."""
        levels = torch.log(gradients / GRADIENT_FLOOR + 1)
        seen = torch.cat([means - 0.5, levels - 1], 1)
        whole = torch.cat([seen.mean((2, 3)), _visible_wins(means)[:, :, 0, 0] - 0.5], 1)
        seen, whole = (x.to(self.enter.weight.dtype) for x in (seen, whole))
        x = self.down(F.relu(self.enter(seen))) + self.whole(whole)[:, :, None, None]
        for conv in self.trunk:
            x = x + conv(F.relu(x))
        decided: Tensor = self.leave(F.relu(x))
        return decided

    def example_inputs(self, *, height: int, width: int) -> Mapping[str, Mapping[str, Any]]:
        device = self.enter.weight.device
        picture = torch.rand(1, 1, height, width, device=device)
        return {"fusion": {"ir": picture, "vis": picture.flip(3)}}
