"""MSPA: multi-scale progressive alignment, coarse to fine, three views of the field per scale.

Flows in this file are the reference's: pull fields in pixels with channels (dy, dx).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamfuse.nn.convs import conv_in
from streamfuse.nn.correlation import local_correlation
from streamfuse.nn.precision import full_precision
from streamfuse.nn.restormer import LayerNorm2d, RestormerBlock
from streamfuse.nn.uib import UniversalInvertedBottleneck
from streamfuse.nn.warp import warp

SCALES = (1, 2, 3, 4)
"""Scale s has 2^(s-1) C channels at 1 / 2^(s-1) of the resolution."""

CORRELATION_RADIUS = 1
GATE_REDUCTION = 4


class Views(NamedTuple):
    """The three views of the field at one scale, each (B, 2, H, W), channels (dy, dx).

    a: from the matching features. e: after the bottleneck. f: from both. They are applied in this
    order, each to what the one before has warped.
    """

    a: Tensor
    e: Tensor
    f: Tensor

    def warp(self, features: Tensor) -> Tensor:
        """Warp by a, then e, then f: three resamplings, as the reference does. (B, C, H, W)."""
        for flow in self:
            features = warp(features, flow.flip(1))
        return features


class Pyramid(nn.ModuleDict):
    """Shared multi-scale features. (B, C, H, W) -> {s: (B, 2^(s-1) C, H / 2^(s-1), W / 2^(s-1))}."""

    def __init__(self, channels: int) -> None:
        widths = [channels] + [channels << (s - 1) for s in SCALES]
        super().__init__({str(s): conv_in(widths[s - 1], widths[s], widths[s]) for s in SCALES})

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        scales: dict[int, Tensor] = {}
        for s in SCALES:
            scales[s] = x = self[str(s)](x if s == 1 else F.avg_pool2d(x, 2))
        return scales


class RestormerCorr(nn.Module):
    """Restormer_Corr(x, y): features of how `x` and `y` match. Two (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        shifts = (2 * CORRELATION_RADIUS + 1) ** 2
        self.conv = nn.Conv2d(2 * channels + shifts, channels, 3, padding=1)
        self.block = RestormerBlock(channels, residual_after_norm=True)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        correlation = local_correlation(x, y, radius=CORRELATION_RADIUS)
        matched = self.conv(torch.cat((x, correlation, y), dim=1))
        out: Tensor = matched + self.block(matched)
        return out


class UIBCA(nn.Module):
    """UIB_CA: x + y * gate(y), y = UIB(LN(x)). (B, C, H, W) -> (B, C, H, W).

    The gate sees the global average of y, which the closing InstanceNorm makes 0: one constant a channel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(channels)
        self.uib = UniversalInvertedBottleneck(channels, kernel=3, norm=nn.InstanceNorm2d)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // GATE_REDUCTION, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // GATE_REDUCTION, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.uib(self.norm(x))
        out: Tensor = x + y * self.gate(y)
        return out


class FlowHead(nn.Conv2d):
    """Reg_flow: Conv 3 x 3 to a flow, in float32 under any autocast. (B, C, H, W) -> (B, 2, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x):
            return super().forward(x.to(self.weight.dtype))


class Upsampler(nn.Module):
    """Learned doubling, resized where the finer side is odd. (B, C_in, h, w) -> (B, C_out, H, W)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, bias=False)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        doubled: Tensor = self.deconv(x)
        if doubled.shape[-2:] == size:
            return doubled
        return F.interpolate(doubled, size=size, mode="bilinear", align_corners=True)


class FlowUpsampler(Upsampler):
    """The same for a flow, in float32. Its values are not doubled: the weights learn the factor."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        with full_precision(x):
            return super().forward(x, size)


class ScaleResult(NamedTuple):
    """What a scale hands to the next finer one: features (B, C, H, W) and the views."""

    features: Tensor
    views: Views


class Descent(nn.Module):
    """Brings the result of a scale to the next finer one; `channels` are those it comes from."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up_features = Upsampler(channels, channels // 2)
        self.up_a = FlowUpsampler()
        self.up_e = FlowUpsampler()
        self.up_f = FlowUpsampler()

    def forward(self, result: ScaleResult, size: tuple[int, int]) -> ScaleResult:
        """`size`: (H, W) of the finer scale."""
        a, e, f = result.views
        views = Views(self.up_a(a, size), self.up_e(e, size), self.up_f(f, size))
        return ScaleResult(self.up_features(result.features, size), views)


class AlignmentScale(nn.Module):
    """Refines what the coarser scales found; the coarsest starts from nothing."""

    def __init__(self, channels: int, *, coarsest: bool) -> None:
        super().__init__()
        self.match = RestormerCorr(channels)
        self.merge = None if coarsest else RestormerCorr(channels)
        self.refine = UIBCA(channels)
        self.head_a = FlowHead(channels)
        self.head_e = FlowHead(channels)
        self.head_f = FlowHead(4)

    def forward(self, fixed: Tensor, moving: Tensor, known: ScaleResult | None) -> ScaleResult:
        """`fixed`, `moving`: (B, C, H, W); `known`: the coarser result at this size, None at the coarsest."""
        if known is None or self.merge is None:
            x = self.match(fixed, moving)
        else:
            x = self.match(fixed, known.views.warp(moving))
            x = self.merge(x, known.features)
        a = self.head_a(x)
        x = self.refine(x)
        e = self.head_e(x)
        if known is not None:
            a, e = a + known.views.a, e + known.views.e
        f = self.head_f(torch.cat((a, e), dim=1))
        if known is not None:
            f = f + known.views.f
        return ScaleResult(x, Views(a, e, f))


class MSPA(nn.Module):
    """Where the infrared lies: F_ir, F_vis (B, C, H, W) -> views (B, 2, H, W) at full resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pyramid = Pyramid(channels)
        self.scales = nn.ModuleDict(
            {str(s): AlignmentScale(channels << (s - 1), coarsest=s == SCALES[-1]) for s in SCALES}
        )
        self.descents = nn.ModuleDict({str(s): Descent(channels << (s - 1)) for s in SCALES[1:]})

    def forward(self, features_ir: Tensor, features_vis: Tensor) -> Views:
        fixed, moving = self.pyramid(features_vis), self.pyramid(features_ir)
        coarsest = SCALES[-1]
        result: ScaleResult = self.scales[str(coarsest)](fixed[coarsest], moving[coarsest], None)
        for s in reversed(SCALES[:-1]):
            known = self.descents[str(s + 1)](result, fixed[s].shape[-2:])
            result = self.scales[str(s)](fixed[s], moving[s], known)
        return result.views
