"""The `people` fuser: a Laplacian pyramid, with people as bright as the infrared has them.

The pyramid keeps the exposure of the visible camera and the detail of both, but people turn as grey in it as
the ground around them is in the infrared. Where people are the fusion network tells; there the picture is
made no darker than the infrared, lifted where the scene around is brighter than it shows (see
`nn/live_fusion.py`). What differs from the frame before by no more than noise does, goes half of the way.
"""

from typing import ClassVar

import cv2
import numpy as np
import torch

from streamfuse.frame import Image8, Mask
from streamfuse.fusion.calm import Calm
from streamfuse.fusion.decisions import DecisionOptions, Decisions
from streamfuse.fusion.laplacian import LaplacianFuser, LaplacianOptions
from streamfuse.fusion.overlap import check_pictures, coverage, extend_infrared
from streamfuse.registry import Options

FOLLOW = 0.5
"""Of decisions: people walk. Where nothing is warm a share does nothing, so its flicker is not seen."""
PEOPLE = 2
"""Which of the network's shares."""


class PeopleFuser:
    """See the module. Pictures of any size."""

    Options: ClassVar[type[Options]] = DecisionOptions

    def __init__(self, options: DecisionOptions, *, device: str = "cpu") -> None:
        self._laplacian = LaplacianFuser(LaplacianOptions())
        self._decisions = Decisions(options, follow=FOLLOW, device=device)
        self._calm = Calm()

    @torch.inference_mode()
    def fuse(self, ir: Image8, vis: Image8, *, valid: Mask | None = None) -> Image8:
        check_pictures(ir, vis, valid)
        covered = coverage(valid)
        if covered is not None:
            ir = extend_infrared(ir, covered)
        share = self._decisions.look(ir, vis)[PEOPLE]
        fused = self._laplacian.fuse_continued(ir, vis, covered)
        raised = self._decisions.composition.with_people(fused, share)
        if covered is not None:
            raised = np.asarray(cv2.copyTo(raised, covered, fused), np.uint8)
        return self._calm(raised)

    def reset(self) -> None:
        self._calm.reset()
        self._decisions.reset()
