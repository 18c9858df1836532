"""The `live` fuser: our own small network, at camera rate on a CPU.

It keeps the brighter source at most pixels, copies the other one, or its texture, where that would lose what
is in smoke or texture under warm, flat infrared, and makes people as much brighter than what is around them
as the infrared shows them (see `nn/live_fusion.py`). What differs from the frame before by no more than noise
does, goes half of the way only.
"""

from typing import ClassVar

import torch

from streamfuse.frame import Image8, Mask
from streamfuse.fusion.calm import Calm
from streamfuse.fusion.decisions import DecisionOptions, Decisions
from streamfuse.fusion.overlap import check_pictures, coverage, extend_infrared, faded
from streamfuse.registry import Options

FOLLOW = 0.25
"""Of decisions: they settle within some five frames and do not flicker."""


class LiveFuser:
    """See the module. Pictures of any size."""

    Options: ClassVar[type[Options]] = DecisionOptions

    def __init__(self, options: DecisionOptions, *, device: str = "cpu") -> None:
        self._decisions = Decisions(options, follow=FOLLOW, device=device)
        self._calm = Calm()

    @torch.inference_mode()
    def fuse(self, ir: Image8, vis: Image8, *, valid: Mask | None = None) -> Image8:
        check_pictures(ir, vis, valid)
        covered = coverage(valid)
        if covered is not None:
            # With the visible picture in its place out there, what is bright in that would be a warm body.
            ir = extend_infrared(ir, covered)
        shares = self._decisions.look(ir, vis)
        fused = self._calm(self._decisions.composition.compose(shares))
        return fused if covered is None else faded(fused, vis, covered)

    def reset(self) -> None:
        self._calm.reset()
        self._decisions.reset()
