"""Guided-filter fusion (Li, Kang and Hu 2013), with the subsampled guided filter (He and Sun 2015).

Two layers a source: what a wide box filter keeps and what it removes. For each layer a map says where
the source is the more salient one (Laplacian magnitude, blurred); the map is then fitted to the source's
own edges by a guided filter: smooth and wide for the base, sharp for the detail.
"""

from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from streamfuse.frame import Image8, Mask
from streamfuse.fusion.overlap import prepare_infrared
from streamfuse.registry import Options

Plane = npt.NDArray[Any]

SALIENCY_SIGMA = 5.0
"""Of the blur over the Laplacian, from the paper (11x11, sigma 5)."""
MAX_SUBSAMPLE = 4
"""The guided filter is fitted on every (radius / 4)-th pixel, at most every fourth: He and Sun's choice."""
WEIGHT_FLOOR = 1e-3
"""Added to both weights before they are normalised: neither source is ever divided by zero."""


class GuidedOptions(Options):
    """The paper's parameters, on pictures scaled to 0..1."""

    base_window: Annotated[int, Field(ge=3)] = Field(31, description="side of the box that splits the layers")
    base_radius: Annotated[int, Field(ge=1)] = 45
    base_epsilon: Annotated[float, Field(gt=0)] = 0.3
    detail_radius: Annotated[int, Field(ge=1)] = 7
    detail_epsilon: Annotated[float, Field(gt=0)] = 1e-6


class GuidedFuser:
    """Saliency weights fitted to the edges of each source, one set for the base and one for the detail."""

    Options = GuidedOptions

    def __init__(self, options: GuidedOptions, *, device: str = "cpu") -> None:
        self._options = options

    def fuse(self, ir: Image8, vis: Image8, *, valid: Mask | None = None) -> Image8:
        o = self._options
        ir = prepare_infrared(ir, vis, valid)
        ir_wins = cv2.compare(_saliency(ir), _saliency(vis), cv2.CMP_GT)
        maps = (ir_wins, cv2.bitwise_not(ir_wins))
        layers, base_weights, detail_weights = [], [], []
        for image, wins in zip((ir, vis), maps, strict=True):
            guide = image.astype(np.float32) / 255.0
            target = wins.astype(np.float32) / 255.0
            layers.append((guide, cv2.blur(guide, (o.base_window, o.base_window))))
            base_weights.append(_guided_filter(guide, target, o.base_radius, o.base_epsilon))
            detail_weights.append(_guided_filter(guide, target, o.detail_radius, o.detail_epsilon))
        (ir_full, ir_base), (vis_full, vis_base) = layers
        base = cv2.blendLinear(ir_base, vis_base, *base_weights)
        detail = cv2.blendLinear(ir_full - ir_base, vis_full - vis_base, *detail_weights)
        return np.asarray(cv2.convertScaleAbs(np.maximum(base + detail, 0.0), alpha=255.0), dtype=np.uint8)

    def reset(self) -> None:
        """Nothing is remembered."""


def _saliency(image: Image8) -> Image8:
    magnitude = cv2.convertScaleAbs(cv2.Laplacian(image, cv2.CV_16S))
    return np.asarray(cv2.GaussianBlur(magnitude, (11, 11), SALIENCY_SIGMA), dtype=np.uint8)


def _guided_filter(guide: Plane, target: Plane, radius: int, epsilon: float) -> Plane:
    """Edge-aware smoothing of `target` by `guide`, both float32 (H, W) in 0..1; a weight above 0.

    The linear model is fitted on a subsampled picture and applied to the full one.
    """
    height, width = guide.shape
    subsample = min(MAX_SUBSAMPLE, max(1, round(radius / 4)))
    small = (max(1, width // subsample), max(1, height // subsample))
    side = (2 * max(1, radius // subsample) + 1,) * 2
    g: Plane = cv2.resize(guide, small, interpolation=cv2.INTER_AREA)
    t: Plane = cv2.resize(target, small, interpolation=cv2.INTER_AREA)
    mean_g, mean_t = cv2.blur(g, side), cv2.blur(t, side)
    variance = np.maximum(cv2.blur(g * g, side) - mean_g * mean_g, 0.0)
    slope: Plane = (cv2.blur(g * t, side) - mean_g * mean_t) / (variance + epsilon)
    offset: Plane = mean_t - slope * mean_g
    weight: Plane = cv2.resize(cv2.blur(slope, side), (width, height), interpolation=cv2.INTER_LINEAR)
    weight *= guide
    weight += cv2.resize(cv2.blur(offset, side), (width, height), interpolation=cv2.INTER_LINEAR)
    np.clip(weight, 0.0, 1.0, out=weight)
    weight += WEIGHT_FLOOR
    return weight
