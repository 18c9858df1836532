"""ME-PMA: joint multi-view embedding with progressive multi-scale alignment, in one network.

Follows the public reference of "Joint Multi-View Embedding with Progressive Multi-Scale Alignment for
Unaligned Infrared-Visible Image Fusion" tensor for tensor: same function, own code and names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from streamfuse.errors import DataError
from streamfuse.nn.mepma.alignment import MSPA, SCALES, Views
from streamfuse.nn.mepma.decoder import FFCM, FRRB, ReconstructionHead
from streamfuse.nn.mepma.encoder import Encoder
from streamfuse.nn.mepma.reference import REFERENCE_NAMES, REFERENCE_UNUSED
from streamfuse.nn.network import Network
from streamfuse.nn.warp import compose

CHANNELS = 32
"""C, the width of the whole network."""

MIN_SIDE = 16
"""Below it the coarsest scale is a single pixel, which has no statistics to normalise by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MepmaOutput:
    """Everything the network computes; B pictures of H x W, C = 32.

    features_ir, features_vis: F_ir, F_vis (B, C, H, W).
    fused: (B, 1, H, W) in [0, 1], fused luma.
    recon_vis: (B, 1, H, W) in [0, 1], the visible picture regressed from F_vis.
    Aligned mode only: recon_ir, the same from F_ir. Unaligned mode only: flow_a, flow_e, flow_f, the
    views at full resolution (B, 2, H, W) in pixels, channels (dy, dx) as in the reference;
    warped_features_ir, F_ir warped by a, e, f in turn; registered_ir, the picture regressed from that.
    """

    features_ir: Tensor
    features_vis: Tensor
    fused: Tensor
    recon_vis: Tensor
    recon_ir: Tensor | None = None
    flow_a: Tensor | None = None
    flow_e: Tensor | None = None
    flow_f: Tensor | None = None
    warped_features_ir: Tensor | None = None
    registered_ir: Tensor | None = None

    @property
    def flow(self) -> Tensor | None:
        """Total displacement (B, 2, H, W), channels (dx, dy); see `total_flow`. None in aligned mode."""
        if self.flow_a is None or self.flow_e is None or self.flow_f is None:
            return None
        return total_flow(Views(self.flow_a, self.flow_e, self.flow_f))


def total_flow(views: Views) -> Tensor:
    """The views as one displacement field, so that a picture is warped once and stays sharp.

    The last view is applied first: r = p + f(p), q = r + e(r), source = q + a(q), total = source - p.

    Args:
        views: each (B, 2, H, W), channels (dy, dx).

    Returns:
        (B, 2, H, W), pixels, channels (dx, dy), the package's convention.
    """
    a, e, f = (view.flip(1) for view in views)
    return compose(compose(a, e), f)


class MEPMA(Network):
    """The network of the paper.

    ir, vis (B, 1, H, W) in [0, 1], H, W >= 16; `vis` is full-range BT.601 luma. Its three stages can be
    called one by one: `encode`, `align`, `fuse`.
    """

    NAME: ClassVar[str] = "mepma"
    SUMMARY: ClassVar[str] = "registration and fusion network of the ME-PMA paper"
    PARTS: ClassVar[tuple[str, ...]] = (
        *(f"encoder.{part}" for part in ("shallow", "detail", "context", "concat_ir", "concat_vis")),
        *("alignment.pyramid", "alignment.descents", *(f"alignment.scales.{s}" for s in reversed(SCALES))),
        *("fusion", "reconstruction", "head_ir", "head_vis"),
    )
    FOREIGN_NAMES: ClassVar[tuple[tuple[str, str], ...]] = REFERENCE_NAMES
    FOREIGN_UNUSED: ClassVar[tuple[str, ...]] = REFERENCE_UNUSED

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder(CHANNELS)
        self.alignment = MSPA(CHANNELS)
        self.fusion = FFCM(CHANNELS)
        self.reconstruction = FRRB(CHANNELS)
        self.head_ir = ReconstructionHead(CHANNELS)
        self.head_vis = ReconstructionHead(CHANNELS)

    def encode(self, ir: Tensor, vis: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding features F_ir, F_vis, each (B, C, H, W). Raises DataError on pictures that do not fit."""
        if ir.shape != vis.shape or ir.ndim != 4 or ir.shape[1] != 1:
            shapes = f"{tuple(ir.shape)} and {tuple(vis.shape)}"
            raise DataError(f"mepma needs ir and vis of one shape (B, 1, H, W), got {shapes}")
        h, w = ir.shape[-2:]
        if min(h, w) < MIN_SIDE:
            raise DataError(f"mepma needs pictures of at least {MIN_SIDE}x{MIN_SIDE} pixels, got {w}x{h}")
        features: tuple[Tensor, Tensor] = self.encoder(ir, vis)
        return features

    def align(self, features_ir: Tensor, features_vis: Tensor) -> Views:
        """The views a, e, f, each (B, 2, H, W), channels (dy, dx). `Views.warp` applies them to features."""
        views: Views = self.alignment(features_ir, features_vis)
        return views

    def fuse(self, features_ir: Tensor, features_vis: Tensor) -> Tensor:
        """Fused luma (B, 1, H, W) in [0, 1] from aligned features."""
        fused: Tensor = self.reconstruction(self.fusion(features_ir, features_vis))
        return fused

    def forward(self, ir: Tensor, vis: Tensor, *, aligned: bool) -> MepmaOutput:
        """Fuse; with `aligned` False register first."""
        features_ir, features_vis = self.encode(ir, vis)
        recon_vis = self.head_vis(features_vis)
        if aligned:
            return MepmaOutput(
                features_ir=features_ir,
                features_vis=features_vis,
                fused=self.fuse(features_ir, features_vis),
                recon_ir=self.head_ir(features_ir),
                recon_vis=recon_vis,
            )
        views = self.align(features_ir, features_vis)
        warped = views.warp(features_ir)
        return MepmaOutput(
            features_ir=features_ir,
            features_vis=features_vis,
            fused=self.fuse(warped, features_vis),
            recon_vis=recon_vis,
            flow_a=views.a,
            flow_e=views.e,
            flow_f=views.f,
            warped_features_ir=warped,
            registered_ir=self.head_ir(warped),
        )

    def example_inputs(self, *, height: int, width: int) -> Mapping[str, Mapping[str, Any]]:
        device = next(self.parameters()).device
        ir, vis = torch.rand(2, 1, 1, height, width, device=device).unbind()
        return {
            "registration and fusion": {"ir": ir, "vis": vis, "aligned": False},
            "fusion only": {"ir": ir, "vis": vis, "aligned": True},
        }
