"""The embedding of ME-PMA: shallow features, local detail, global context, and their union."""

import torch
from torch import Tensor, nn

from streamfuse.nn.convs import conv_bn
from streamfuse.nn.restormer import RestormerBlock
from streamfuse.nn.uib import UniversalInvertedBottleneck

UIB_KERNELS = (3, 5, 5, 7, 7, 3)
"""Kernel of each bottleneck in the detail branch."""

CONTEXT_BLOCKS = 2
"""Restormer blocks in the context branch."""


class SFE(nn.Module):
    """Shallow feature extraction. (B, 1, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = conv_bn(1, channels, channels)
        self.residual = conv_bn(channels, channels, channels)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        out: Tensor = x + self.residual(x)
        return out


class Residual(nn.Sequential):
    """x + blocks(x). (B, C, H, W) -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for block in self:
            y = block(y)
        return x + y


def detail_branch(channels: int) -> Residual:
    """Local detail: six inverted bottlenecks in a row."""
    return Residual(*(UniversalInvertedBottleneck(channels, kernel=k) for k in UIB_KERNELS))


def context_branch(channels: int) -> Residual:
    """Global context: two Restormer blocks in a row."""
    return Residual(*(RestormerBlock(channels) for _ in range(CONTEXT_BLOCKS)))


class Concat(nn.Module):
    """Joins detail and context into embedding features. Two (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = conv_bn(2 * channels, 2 * channels)
        self.reduce = conv_bn(2 * channels, channels, channels, kernels=(1, 3))
        self.refine = conv_bn(channels, channels)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        x = torch.cat((detail, context), dim=1)
        x = x + self.mix(x)
        x = self.reduce(x) + detail + context
        out: Tensor = x + self.refine(x)
        return out


class Encoder(nn.Module):
    """Both pictures through shared branches, each into its own last block.

    ir, vis (B, 1, H, W) in [0, 1] -> F_ir, F_vis (B, C, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shallow = SFE(channels)
        self.detail = detail_branch(channels)
        self.context = context_branch(channels)
        self.concat_ir = Concat(channels)
        self.concat_vis = Concat(channels)

    def forward(self, ir: Tensor, vis: Tensor) -> tuple[Tensor, Tensor]:
        return self._embed(ir, self.concat_ir), self._embed(vis, self.concat_vis)

    def _embed(self, image: Tensor, concat: Concat) -> Tensor:
        x = self.shallow(image)
        features: Tensor = concat(self.detail(x), self.context(x))
        return features
