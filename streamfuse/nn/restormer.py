"""The Restormer block: transposed attention across channels, gated feed-forward.

Zamir et al., "Restormer: Efficient Transformer for High-Resolution Image Restoration", CVPR 2022.
Attention between channels instead of pixels makes the cost linear in the picture size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-5


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each pixel. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MDTA(nn.Module):
    """Multi-Dconv head transposed attention: softmax(q k^T * temperature) v between channels.

    q, k, v are contiguous thirds of the projection, heads contiguous groups of channels; q and k are
    unit vectors along the pixels. (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv_dwconv(self.qkv(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.unbind(1)
        attention = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        attention = (attention * self.temperature).softmax(dim=-1)
        out: Tensor = self.project_out((attention @ v).reshape(b, c, h, w))
        return out


class GDFN(nn.Module):
    """Gated-Dconv feed-forward: GELU(a) * b. (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * channels
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        out: Tensor = self.project_out(F.gelu(a) * b)
        return out


class RestormerBlock(nn.Module):
    """x + MDTA(LN(x)), then x + GDFN(LN(x)). (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C, a multiple of `heads`.
        heads: attention heads.
        expansion: hidden channels of GDFN over C.
        residual_after_norm: take LN(x) instead of x as the first residual, as the alignment part of
            ME-PMA does.
    """

    def __init__(
        self, channels: int, *, heads: int = 8, expansion: int = 2, residual_after_norm: bool = False
    ) -> None:
        super().__init__()
        self.residual_after_norm = residual_after_norm
        self.norm1 = LayerNorm2d(channels)
        self.attn = MDTA(channels, heads)
        self.norm2 = LayerNorm2d(channels)
        self.ffn = GDFN(channels, expansion)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = (normed if self.residual_after_norm else x) + self.attn(normed)
        out: Tensor = x + self.ffn(self.norm2(x))
        return out
