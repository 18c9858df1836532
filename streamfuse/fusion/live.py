"""The `live` fuser: our own small network, at camera rate on a CPU.

It keeps the brighter source at most pixels, copies the other one, or its texture, where that would lose what
is in smoke or texture under warm, flat infrared, and makes people as much brighter than what is around them
as the infrared shows them (see `nn/live_fusion.py`). What differs from the frame before by no more than noise
does, goes half of the way only.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import cv2
import numpy as np
import torch
from pydantic import Field

from streamfuse.frame import Image8, Mask
from streamfuse.fusion.live_composition import LiveComposition
from streamfuse.fusion.overlap import check_pictures, coverage, extend_infrared, faded
from streamfuse.fusion.patches import Floats
from streamfuse.nn.live_fusion import LiveFusion, shares
from streamfuse.nn.models import load_model
from streamfuse.nn.precision import Precision, is_reduced
from streamfuse.registry import Options

FOLLOW = 0.25
"""Weight of the newest decisions in their running mean: they settle within some five frames and do not
flicker."""
DECIDE_EVERY = 2
"""Frames: the network takes more than half of the time, and what it decides is followed slowly. Over the M2VD
clips the picture differs from that of a decision for every frame by 0.01 to 0.08 grey levels on average, by
more than 8 at 0.2 % of the pixels at most; it is as steady, and people stand out alike."""
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


@dataclass(slots=True)
class Past:
    """What is remembered. decided: the newest decisions; followed: their running mean. fused: the picture."""

    frames: int = 0
    decided: torch.Tensor | None = None
    followed: torch.Tensor | None = None
    fused: Image8 | None = None


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
        self._past = Past()

    @torch.inference_mode()
    def fuse(self, ir: Image8, vis: Image8, *, valid: Mask | None = None) -> Image8:
        check_pictures(ir, vis, valid)
        covered = coverage(valid)
        if covered is not None:
            # With the visible picture in its place out there, what is bright in that would be a warm body.
            ir = extend_infrared(ir, covered)
        composition = self._composition
        if composition is None or composition.shape != vis.shape:
            composition = self._composition = LiveComposition((vis.shape[0], vis.shape[1]))
            self.reset()
        decided = self._decide(*composition.look(ir, vis))
        fused = self._calm(composition.compose(shares(decided).numpy()))
        return fused if covered is None else faded(fused, vis, covered)

    def _decide(self, means: Floats, gradients: Floats) -> torch.Tensor:
        """(3, h, w), see `LiveFusion.decide`."""
        past = self._past
        if past.decided is None or past.frames % DECIDE_EVERY == 0:
            seen = (torch.from_numpy(x)[None].to(self._device) for x in (means, gradients))
            past.decided = self._network.decide(*seen)[0].float().cpu()
        past.frames += 1
        followed = past.decided if past.followed is None else past.followed.lerp(past.decided, FOLLOW)
        past.followed = followed
        return followed

    def _calm(self, fused: Image8) -> Image8:
        before = self._past.fused
        if before is not None:
            alike = cv2.threshold(cv2.absdiff(fused, before), NOISE, 255, cv2.THRESH_BINARY_INV)[1]
            mean = cv2.addWeighted(fused, 0.5, before, 0.5, 0)
            fused = np.asarray(cv2.copyTo(mean, alike, fused), np.uint8)
        self._past.fused = fused.copy()
        return fused

    def reset(self) -> None:
        self._past = Past()
