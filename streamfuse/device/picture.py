"""What `fusion.colour` and `fusion.overlap` do, on the device and grey level for grey level.

Luma is float32 (B, 1, H, W) with whole values 0..255; colour pictures are int32 (..., H, W, 3).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from streamfuse.device.pixels import whole
from streamfuse.fusion.overlap import FEATHER_PX

LUMA_SHIFT = 15
RED, GREEN, BLUE = 9798, 19235, 3735
"""0.299, 0.587, 0.114 times 2^15: OpenCV's own fixed-point numbers."""


def luma(rgb: Tensor) -> Tensor:
    """int32 (..., H, W) of int32 (..., H, W, 3)."""
    weighted = RED * rgb[..., 0] + GREEN * rgb[..., 1] + BLUE * rgb[..., 2]
    return (weighted + (1 << (LUMA_SHIFT - 1))) >> LUMA_SHIFT


def replace_luma(rgb: Tensor, y: Tensor) -> Tensor:
    """`rgb` with luma `y` and its own Cb and Cr, uint8 (..., H, W, 3). y: int32 (..., H, W)."""
    old = luma(rgb)
    out = (rgb + (y - old)[..., None]).clamp(0, 255)
    clipped = (luma(out) - y).abs() > 1
    target = y.float()[..., None]
    chroma = (rgb - old[..., None]).float()
    room_up = (255 - target) / chroma.amax(dim=-1, keepdim=True).clamp_min(1e-6)
    room_down = target / (-chroma.amin(dim=-1, keepdim=True)).clamp_min(1e-6)
    scale = torch.minimum(room_up, room_down).clamp_max(1)
    paler = (target + scale * chroma).round().int()
    return torch.where(clipped[..., None], paler, out).to(torch.uint8)


def faded(picture: Tensor, vis: Tensor, valid: Tensor) -> Tensor:
    """A picture with the visible luma in place of what `valid` (bool (B, 1, H, W)) excludes."""
    side = 2 * FEATHER_PX + 1
    outside = (~valid).float()
    near = F.max_pool2d(outside, (side, 1), 1, (FEATHER_PX, 0))
    near = F.max_pool2d(near, (1, side), 1, (0, FEATHER_PX))
    inner = F.pad(255 * (1 - near), (FEATHER_PX,) * 4, mode="replicate")
    weight = whole(F.avg_pool2d(F.avg_pool2d(inner, (side, 1), 1), (1, side), 1))
    return (whole(picture * weight / 255) + whole(vis * (255 - weight) / 255)).clamp_max(255)
