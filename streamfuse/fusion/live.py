"""The `live` fuser: our own small network, at camera rate on a CPU.

It keeps the brighter source at most pixels, copies the other one, or its texture, where that would lose what
is in smoke or texture under warm, flat infrared, and makes people as much brighter than what is around them
as the infrared shows them (see `nn/live_fusion.py`). What differs from the frame before by no more than noise
does, goes half of the way only.
"""

from typing import Annotated, ClassVar

import cv2
import numpy as np
import torch
from pydantic import Field

from streamfuse.frame import Image8, Mask
from streamfuse.fusion.live_composition import LiveComposition
from streamfuse.fusion.overlap import prepare_infrared
from streamfuse.nn.live_fusion import LiveFusion, shares
from streamfuse.nn.models import load_model
from streamfuse.nn.precision import Precision, is_reduced
from streamfuse.registry import Options

FOLLOW = 0.25
"""Weight of a new frame in the running mean of the decisions: they settle within some five frames and do not
flicker."""
NOISE = 3
"""Grey levels. A pixel that changes by up to so much from frame to frame is noise, or too little to be
missed: it takes the mean of both. Being off by half of it cannot be seen, its flicker can."""


class LiveOptions(Options):
    """weights: name of bundled weights or path of a weight file. precision: see the field."""

    weights: Annotated[str, Field(description="bundled weights by name, or a weight file")] = LiveFusion.NAME
    precision: Annotated[
        Precision,
        Field(description="of the decisions; auto: bfloat16 where the device has it in hardware"),
    ] = "auto"


class LiveFuser:
    """See the module. Pictures of any size."""

    Options: ClassVar[type[Options]] = LiveOptions

    def __init__(self, options: LiveOptions, *, device: str = "cpu") -> None:
        network = load_model(LiveFusion.NAME, weights=options.weights, device=device)
        assert isinstance(network, LiveFusion)
        dtype = torch.bfloat16 if is_reduced(options.precision, device) else torch.float32
        self._network = network.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device
        self._composition: LiveComposition | None = None
        self._decided: torch.Tensor | None = None
        self._before: Image8 | None = None

    @torch.inference_mode()
    def fuse(self, ir: Image8, vis: Image8, *, valid: Mask | None = None) -> Image8:
        ir = prepare_infrared(ir, vis, valid)
        composition = self._composition
        if composition is None or composition.shape != vis.shape:
            composition = self._composition = LiveComposition((vis.shape[0], vis.shape[1]))
        seen = [torch.from_numpy(x)[None].to(self._device) for x in composition.look(ir, vis)]
        decided = self._network.decide(*seen).float()
        if self._decided is not None and self._decided.shape == decided.shape:
            decided = torch.lerp(self._decided, decided, FOLLOW)
        self._decided = decided
        return self._calm(composition.compose(shares(decided)[0].cpu().numpy()))

    def _calm(self, fused: Image8) -> Image8:
        before = self._before
        if before is not None and before.shape == fused.shape:
            alike = cv2.threshold(cv2.absdiff(fused, before), NOISE, 255, cv2.THRESH_BINARY_INV)[1]
            mean = cv2.addWeighted(fused, 0.5, before, 0.5, 0)
            fused = np.asarray(cv2.copyTo(mean, alike, fused), np.uint8)
        self._before = fused.copy()
        return fused

    def reset(self) -> None:
        self._decided = self._before = None
