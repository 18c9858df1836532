"""The `live` fusion network: where to leave the pixel-wise maximum, decided on cells of 8 x 8 pixels.

Pixel-wise maximum is a strong and steady fuser, and every pixel of it is the exact copy of a source, which is
what information measures and eyes that look for noise are fond of. What it gets wrong is regional: texture
lost under bright, flat infrared; people drowned in smoke that is brighter than they are. So the network
predicts for each cell a share of the visible and one of the infrared, both exactly zero in most places. The
visible is copied, unless it is so dark that it would be a hole; the infrared lends its texture to the
brightness of the maximum.

    a, b = shares of vis and ir, 0..1;  m = the brighter one;  low(x) = local mean of x
    n = m + a (vis - m + max(0, low(m - vis) - DROP))
    fused = n + b (ir - n + low(m - ir)), not darker than the darkest m

The result is continuous but for TIE: nothing jumps where the sources cross, nor between cells.
"""

from collections.abc import Mapping
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
DROP = 40 / 255
"""Darker than the maximum by more, on average, a copy of the visible is a hole: there it is lifted."""
TIE = 4 / 255
"""Sources that differ by less, 3 grey levels at most, look the same: then the one is copied that is seen less
in the picture as a whole, which is worth one percent of its mutual information."""
TIE_SLOPE = 4.0
"""Of that preference over the share of the picture where the visible is brighter: full from a quarter away
from half, none at half, so that it drifts and never jumps."""
STRETCH = 1.2
"""Sigmoids are stretched by this and cut to 0..1, so that shares of exactly 0 and 1 are within reach (hard
concrete distribution, Louizos et al. 2018)."""
START = -2.5
"""Bias of the shares: an untrained network leaves the brighter source nowhere."""
EDGE = 2.0
"""Steepness of the change-over between cells: 4 pixels wide, as a pixel in between is no copy."""


def _share(x: Tensor) -> Tensor:
    return (STRETCH * torch.sigmoid(x) - (STRETCH - 1) / 2).clamp(0, 1)


def _gradient(images: Tensor) -> Tensor:
    """Absolute differences down and across, summed, mean of each SAMPLE x SAMPLE block; of neighbours that
    make pairs, half of all, which is enough for a mean."""
    down = (images[:, :, 1::2] - images[:, :, ::2]).abs()
    across = (images[..., 1::2] - images[..., ::2]).abs()
    return F.avg_pool2d(down, (SAMPLE // 2, SAMPLE)) + F.avg_pool2d(across, (SAMPLE, SAMPLE // 2))


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
        self.leave = nn.Conv2d(WIDTH, 2, 3, padding=1)
        nn.init.normal_(self.leave.weight, std=0.003)
        assert self.leave.bias is not None
        nn.init.constant_(self.leave.bias, START)

    def forward(self, ir: Tensor, vis: Tensor) -> Tensor:
        means, gradients = self.look(ir, vis)
        return self.compose(ir, vis, means, self.decide(means, gradients))

    @staticmethod
    def compose(ir: Tensor, vis: Tensor, means: Tensor, decided: Tensor) -> Tensor:
        """The fused picture by what was decided (`decide`), with the means of the same pictures (`look`)."""
        rows, columns = ir.shape[2:]
        cells = F.avg_pool2d(means, CELL // SAMPLE)
        lost = F.avg_pool2d(cells[:, 2:] - cells[:, :2].flip(1), LOW, 1, LOW // 2, count_include_pad=False)
        lifted = F.relu(torch.cat([lost[:, :1] - DROP, lost[:, 1:]], dim=1))
        maps = F.interpolate(
            torch.cat([_share(decided), lifted], 1), scale_factor=CELL, mode="bilinear", align_corners=False
        )[:, :, :rows, :columns]
        visible, infrared = (EDGE * (maps[:, :2] - 0.5) + 0.5).clamp(0, 1).chunk(2, dim=1)
        preference = TIE * (TIE_SLOPE * (_visible_wins(means) - 0.5)).clamp(-1, 1)
        brighter = torch.where(ir + preference > vis, ir, vis)
        fused = torch.lerp(brighter, vis + maps[:, 2:3], visible)
        fused = torch.lerp(fused, ir + maps[:, 3:], infrared)
        return torch.maximum(fused, brighter.amin((2, 3), keepdim=True)).clamp_max(1)

    @staticmethod
    def look(ir: Tensor, vis: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and gradient of ir, vis and max, (B, 3, H / SAMPLE, W / SAMPLE) each, over whole cells."""
        rows, columns = ir.shape[2:]
        images = torch.cat([ir, vis, torch.maximum(ir, vis)], 1)
        images = F.pad(images, (0, -columns % CELL, 0, -rows % CELL), "replicate")
        return F.avg_pool2d(images, SAMPLE), _gradient(images)

    def decide(self, means: Tensor, gradients: Tensor) -> Tensor:
        """(B, 2, H / CELL, W / CELL) out of what `look` gives: to take the visible, to take the infrared,
        before they become shares."""
        levels = torch.log(gradients / GRADIENT_FLOOR + 1)
        seen = torch.cat([means - 0.5, levels - 1], 1)
        whole = torch.cat([seen.mean((2, 3)), _visible_wins(means)[:, :, 0, 0] - 0.5], 1)
        x = self.down(F.relu(self.enter(seen))) + self.whole(whole)[:, :, None, None]
        for conv in self.trunk:
            x = x + conv(F.relu(x))
        decided: Tensor = self.leave(F.relu(x))
        return decided

    def example_inputs(self, *, height: int, width: int) -> Mapping[str, Mapping[str, Any]]:
        device = self.enter.weight.device
        picture = torch.rand(1, 1, height, width, device=device)
        return {"fusion": {"ir": picture, "vis": picture.flip(3)}}
