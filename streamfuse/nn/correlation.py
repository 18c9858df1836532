"""Local correlation: how alike two feature maps are under small shifts."""

import torch
import torch.nn.functional as F
from torch import Tensor


def local_correlation(x: Tensor, y: Tensor, *, radius: int = 1) -> Tensor:
    """Correlate `x` with `y` over a square neighbourhood.

    Channel (2 radius + 1)(dx + radius) + (dy + radius) is the mean over channels of
    x(r, c) * y(r + dy, c + dx); outside the map `y` is zero.

    Args:
        x, y: (B, C, H, W).
        radius: largest shift in each direction, in pixels.

    Returns:
        (B, (2 radius + 1)^2, H, W).
    """
    h, w = x.shape[-2:]
    padded = F.pad(y, (radius, radius, radius, radius))
    side = range(2 * radius + 1)
    shifts = [(x * padded[..., dy : dy + h, dx : dx + w]).mean(dim=1) for dx in side for dy in side]
    return torch.stack(shifts, dim=1)
