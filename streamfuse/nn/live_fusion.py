"""The `live` fusion network: how far to leave the brighter source, decided at a quarter of the resolution.

Pixel-wise maximum is a strong and steady fuser; what it gets wrong is local: texture lost under bright,
flat infrared, a warm body drowned by a brighter wall. So the network starts from the maximum and predicts,
for each pixel, how far to go from there towards the darker source (`share`, 0..1) and a bounded correction
(`detail`). Both are computed on 4 x 4 blocks of pixels laid out as channels, so that every convolution runs
at a quarter of the resolution and the result still has full detail.

    change = -clip(share) * |ir - vis| + DETAIL_RANGE * tanh(detail)
    fused = max(ir, vis) + (change where |change| > LEAST, else 0)

A pixel is copied or clearly changed, never changed by a little: a copied pixel is worth more than one
changed by a hundredth, to mutual information and to an eye that looks for noise.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamfuse.nn.network import Network

BLOCK = 4
"""Pixels per side that become channels: 16 times fewer positions, and any edge is still in the input."""
WIDTH = 32
DILATIONS = (1, 2, 4, 1)
"""Sees 8 * 2 + 3 cells, 76 pixels: the size of a person at mid range."""
DETAIL_RANGE = 0.2
"""Largest correction, of full scale: enough to bring texture back, too little to invent objects."""
LEAST = 6 / 255
"""Smallest change that is made."""
START_SHARE = 0.0
"""An untrained network is the pixel-wise maximum."""


def _passing(x: Tensor, cut: Tensor) -> Tensor:
    """The value of `cut`, a function of x that is flat in places, with the gradient of x itself: what is
    cut off goes on learning."""
    return x + (cut - x).detach() if torch.is_grad_enabled() else cut


class LiveFusion(Network):
    """(B, 1, H, W) infrared and visible luma in [0, 1] -> fused luma in [0, 1], same size, any H and W."""

    NAME: ClassVar[str] = "live-fusion"
    PARTS: ClassVar[tuple[str, ...]] = ("enter", "trunk", "leave")
    SUMMARY: ClassVar[str] = "fusion at camera rate: corrections to the pixel-wise maximum"

    def __init__(self) -> None:
        super().__init__()
        channels = BLOCK * BLOCK
        self.enter = nn.Conv2d(2 * channels, WIDTH, 3, padding=1)
        self.trunk = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=d, dilation=d) for d in DILATIONS)
        self.leave = nn.Conv2d(WIDTH, 2 * channels, 3, padding=1)
        nn.init.normal_(self.leave.weight, std=0.003)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)
        with torch.no_grad():
            self.leave.bias[:channels] = START_SHARE

    def forward(self, ir: Tensor, vis: Tensor) -> Tensor:
        rows, columns = ir.shape[2:]
        padding = (0, -columns % BLOCK, 0, -rows % BLOCK)
        both = F.pad(torch.cat([ir, vis], dim=1), padding, mode="replicate")
        x = self.enter(F.pixel_unshuffle(both, BLOCK) - 0.5)
        for conv in self.trunk:
            x = x + conv(F.relu(x))
        share, detail = F.pixel_shuffle(self.leave(F.relu(x)), BLOCK)[:, :, :rows, :columns].chunk(2, dim=1)
        share = _passing(share, share.clamp(0, 1))
        change = DETAIL_RANGE * torch.tanh(detail) - share * (ir - vis).abs()
        fused = torch.maximum(ir, vis) + _passing(change, change * (change.abs() > LEAST))
        return fused.clamp(0, 1)

    def example_inputs(self, *, height: int, width: int) -> Mapping[str, Mapping[str, Any]]:
        device = self.enter.weight.device
        picture = torch.rand(1, 1, height, width, device=device)
        return {"fusion": {"ir": picture, "vis": picture.flip(3)}}
