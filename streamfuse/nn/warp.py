"""The package's warp convention, on tensors.

A flow is a pull field in pixels with channels (dx, dy): warped(p) = moving(p + flow(p)). Sampling is
bilinear with align_corners=True; positions outside the picture take its border.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from streamfuse.nn.precision import full_precision


def identity_grid(height: int, width: int, *, device: torch.device | str = "cpu") -> Tensor:
    """The position of every pixel: float32 (1, 2, H, W), channels (x, y)."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float32, device=device),
        torch.arange(width, dtype=torch.float32, device=device),
        indexing="ij",
    )
    return torch.stack((x, y))[None]


def warp(moving: Tensor, flow: Tensor) -> Tensor:
    """Pull `moving` through `flow`.

    Positions are computed in float32 whatever the precision of `moving`: a 16-bit float cannot name the
    pixels of a 640-pixel row.

    Args:
        moving: (B, C, H, W).
        flow: (B, 2, H, W), pixels, channels (dx, dy).

    Returns:
        (B, C, H, W) of the type of `moving`. Zero flow is the identity up to the rounding of
        normalised float32 positions (below 1e-4 px at 640 pixels).
    """
    h, w = flow.shape[-2:]
    with full_precision(moving):
        position = identity_grid(h, w, device=flow.device) + flow
        # Numbers enter one by one: a tensor made of them would be a copy from the host for every call.
        x, y = (
            axis * (2 / max(side - 1, 1)) - 1 for axis, side in zip(position.unbind(1), (w, h), strict=True)
        )
        grid = torch.stack((x, y), dim=-1)
        work = moving if moving.dtype == grid.dtype else moving.to(grid.dtype)
        warped = F.grid_sample(work, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return warped.to(moving.dtype)


def compose(first: Tensor, then: Tensor) -> Tensor:
    """One flow for warping by `first` and warping the result by `then`.

    warp(warp(moving, first), then) samples `moving` at r + first(r) with r = p + then(p), so the sum is
    then(p) + first(p + then(p)). It is not clamped: where it points outside, `inside` says so.

    Args:
        first, then: (B, 2, H, W), pixels, channels (dx, dy).

    Returns:
        (B, 2, H, W).
    """
    return then + warp(first, then)


def inside(flow: Tensor) -> Tensor:
    """Validity of a warp: bool (B, 1, H, W), True where p + flow(p) lies on the moving picture."""
    h, w = flow.shape[-2:]
    x, y = (identity_grid(h, w, device=flow.device) + flow).unbind(dim=1)
    within: Tensor = (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)
    return within[:, None]
