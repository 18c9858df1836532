"""From features to pictures: fusion (FFCM), reconstruction (FRRB) and the heads of each modality."""

import torch
from torch import Tensor, nn

from streamfuse.nn.convs import conv_bn


class FFCM(nn.Module):
    """Feature fusion. F_ir, F_vis (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = conv_bn(2 * channels, 2 * channels)
        self.reduce = conv_bn(2 * channels, channels, channels, kernels=(1, 3))
        self.refine = conv_bn(channels, channels, channels)

    def forward(self, features_ir: Tensor, features_vis: Tensor) -> Tensor:
        x = torch.cat((features_ir, features_vis), dim=1)
        x = x + self.mix(x)
        x = self.reduce(x) + torch.maximum(features_ir, features_vis)
        out: Tensor = self.refine(x) + features_ir + features_vis
        return out


class FRRB(nn.Module):
    """Reconstruction of the fused luma. (B, C, H, W) -> (B, 1, H, W) in [0, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = conv_bn(channels, channels, channels)
        self.head = nn.Sequential(*conv_bn(channels, channels), nn.Conv2d(channels, 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x + self.residual(x))
        return out


class ReconstructionHead(nn.Sequential):
    """A modality's own picture from its features. (B, C, H, W) -> (B, 1, H, W) in [0, 1].

    A training aid in the paper; applied to warped infrared features it gives the registered infrared.
    """

    def __init__(self, channels: int) -> None:
        half, quarter = channels // 2, channels // 4
        super().__init__(
            *conv_bn(channels, channels, half, half, quarter, quarter, kernels=(3, 1, 3, 1, 3)),
            nn.Conv2d(quarter, 1, 1),
            nn.Sigmoid(),
        )
