"""What the fusion network decides, frame after frame.

It takes longer than all the rest of a fuser, and what it decides is followed slowly, or it would flicker. So
it looks at every second frame only, on a thread of its own, and its answer counts from the next frame on.
"""

from concurrent.futures import Future
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from streamfuse.frame import Image8
from streamfuse.fusion.live_composition import LiveComposition
from streamfuse.fusion.patches import Floats
from streamfuse.nn.live_fusion import LiveFusion, shares
from streamfuse.nn.models import load_model
from streamfuse.nn.precision import Precision, is_reduced
from streamfuse.registry import Options
from streamfuse.threads import SecondThread

DECIDE_EVERY = 2
"""Frames. Over the M2VD clips the picture differs from that of a decision for every frame by 0.01 to 0.08
grey levels on average, by more than 8 at 0.2 % of the pixels at most; it is as steady, and people stand out
alike."""


class DecisionOptions(Options):
    """Which weights, and how they are computed with."""

    weights: Annotated[str, Field(description="bundled weights by name, or a weight file")] = LiveFusion.NAME
    precision: Annotated[
        Precision,
        Field(description="of the decisions; auto: bfloat16 where the device has it in hardware"),
    ] = "auto"


class Decisions:
    """The network and what it has decided for the pictures of one stream pair.

    Args:
        follow: weight of the newest decisions in their running mean.

    Attributes:
        composition: of the pictures looked at last.
    """

    composition: LiveComposition

    def __init__(self, options: DecisionOptions, *, follow: float, device: str) -> None:
        network = load_model(LiveFusion.NAME, weights=options.weights, device=device)
        assert isinstance(network, LiveFusion)
        dtype = torch.bfloat16 if is_reduced(options.precision, device) else torch.float32
        self._network = network.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device
        self._follow_weight = follow
        self.reset()

    def reset(self) -> None:
        """Forget all pictures; the thread ends, too."""
        self._beside = SecondThread("decide", device=self._device).submit
        self._frames = 0
        self._decided: Tensor | None = None
        self._followed: Tensor | None = None
        self._under_way: Future[Tensor] | None = None

    def look(self, ir: Image8, vis: Image8) -> Floats:
        """Look at the next pictures, uint8 (H, W); pictures of another size begin anew.

        Returns:
            Shares for them, float32 (3, h, w), as of `LiveFusion.decide`, 0..1.
        """
        if self._frames == 0 or self.composition.shape != vis.shape:
            self.reset()
            self.composition = LiveComposition((vis.shape[0], vis.shape[1]))
        return self._follow(*self.composition.look(ir, vis))

    def _follow(self, means: Floats, gradients: Floats) -> Floats:
        if self._decided is None:
            self._decided = self._decide(means, gradients)
        elif self._under_way is not None:
            self._decided, self._under_way = self._under_way.result(), None
        self._frames += 1
        if self._frames % DECIDE_EVERY == 0:
            self._under_way = self._beside(lambda: self._decide(means, gradients))
        before, now = self._followed, self._decided
        self._followed = now if before is None else before.lerp(now, self._follow_weight)
        return shares(self._followed).numpy()

    @torch.inference_mode()
    def _decide(self, means: Floats, gradients: Floats) -> Tensor:
        seen = (torch.from_numpy(x)[None].to(self._device) for x in (means, gradients))
        decided: Tensor = self._network.decide(*seen)
        return decided[0].float().cpu()
