"""The `live` fuser: our own small network, at camera rate on a CPU.

It keeps the brighter source at most pixels and copies the other one, or its texture, where that would lose
people in smoke or texture under warm, flat infrared (see `nn/live_fusion.py`).
"""

from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field

from streamfuse.frame import Image8, Mask
from streamfuse.fusion.overlap import prepare_infrared
from streamfuse.nn.live_fusion import LiveFusion
from streamfuse.nn.models import load_model
from streamfuse.registry import Options

FOLLOW = 0.25
"""Weight of a new frame in the running mean of the decisions: they settle within some five frames and do not
flicker. Pixels are always those of the present frame."""


class LiveOptions(Options):
    """weights: name of bundled weights or path of a weight file."""

    weights: Annotated[str, Field(description="bundled weights by name, or a weight file")] = LiveFusion.NAME


class LiveFuser:
    """See the module. Pictures of any size."""

    Options: ClassVar[type[Options]] = LiveOptions

    def __init__(self, options: LiveOptions, *, device: str = "cpu") -> None:
        network = load_model(LiveFusion.NAME, weights=options.weights, device=device)
        assert isinstance(network, LiveFusion)
        self._network, self._device = network, device
        self._decided: torch.Tensor | None = None

    @torch.inference_mode()
    def fuse(self, ir: Image8, vis: Image8, *, valid: Mask | None = None) -> Image8:
        ir = prepare_infrared(ir, vis, valid)
        a, b = (
            torch.tensor(image, dtype=torch.float32, device=self._device)[None, None] / 255
            for image in (ir, vis)
        )
        means, gradients = self._network.look(a, b)
        decided = self._network.decide(means, gradients)
        if self._decided is not None and self._decided.shape == decided.shape:
            decided = torch.lerp(self._decided, decided, FOLLOW)
        self._decided = decided
        fused = self._network.compose(a, b, means, decided)[0, 0]
        return np.asarray((fused * 255).round_().byte().cpu().numpy(), np.uint8)

    def reset(self) -> None:
        self._decided = None
