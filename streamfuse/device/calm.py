"""What the fusers `live` and `people` remember of each rig: `fusion.decisions` and `fusion.calm` in tensors.

Decisions are followed with the CPU's weights, so as slowly as there. But a recorded program does the same for
every frame: each is decided on, and that counts at once, not every second one for the frames after it.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from streamfuse.device.memory import Rows, spread
from streamfuse.device.pixels import whole
from streamfuse.fusion.calm import NOISE
from streamfuse.nn.live_fusion import CELL


@dataclass(slots=True)
class FusedBefore(Rows):
    """Of each rig: whether there was a frame before, bool (B,), what is followed of the decisions, float32
    (B, 3, h, w) as of `LiveFusion.decide`, and the picture before, float32 (B, 1, H, W).

    For each frame first `follow`, then `calm`.
    """

    known: Tensor
    followed: Tensor
    picture: Tensor

    @classmethod
    def fresh(cls, count: int, shape: tuple[int, int], *, device: torch.device | str) -> Self:
        """As nothing was seen yet. shape: (H, W)."""
        cells = (-(-side // CELL) for side in shape)
        return cls(
            torch.zeros(count, dtype=torch.bool, device=device),
            torch.zeros(count, 3, *cells, device=device),
            torch.zeros(count, 1, *shape, device=device),
        )

    def follow(self, decided: Tensor, *, weight: float) -> Tensor:
        """The running mean of what is decided, in which the newest has this weight."""
        known = spread(self.known, decided)
        self.followed = torch.where(known, self.followed.lerp(decided, weight), decided)
        return self.followed

    def calm(self, fused: Tensor) -> Tensor:
        """The picture to show, of whole values like the one given."""
        alike = spread(self.known, fused) & ((fused - self.picture).abs() <= NOISE)
        self.picture = torch.where(alike, whole((fused + self.picture) / 2), fused)
        self.known = torch.ones_like(self.known)
        return self.picture
