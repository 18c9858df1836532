"""The paper's network in the pipeline: registrar and fuser in one.

It encodes both pictures once, aligns features and fuses what it has aligned. The published field is the
composition of its three views, so that the pipeline warps the picture itself once and sharply.

The network says nothing about how far it can be trusted. The confidence is taken from the result instead:
do the edges of the registered infrared run along those of the visible picture? Over 50 real pairs the
measure (see `edge_agreement`) has its median at 0.45 when they are aligned, 0.22 at 8 px of displacement,
0.15 at 16 px and 0.06 to 0.10 when one is upside down or scrambled.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

import numpy as np
import torch
from kornia.filters import gaussian_blur2d, spatial_gradient
from pydantic import Field
from torch import Tensor

from streamfuse.errors import ConfigError, DataError
from streamfuse.frame import Image8, Mask, Registration, Status
from streamfuse.nn.mepma import MEPMA, total_flow
from streamfuse.nn.models import load_model
from streamfuse.nn.warp import inside, warp
from streamfuse.registry import Options

EDGE_SIGMA = 1.5
"""Blur before edges are compared, in pixels: below it noise counts as edges, above it detail is lost."""

MIN_EDGE_PRODUCT = (0.1 / 255) ** 2
"""Mean product of gradients: below a tenth of a grey level per pixel in both there are no edges."""

WHOLLY_VALID = 0.999
"""Share of the bilinear weight on valid infrared: all of it, up to rounding."""

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class MepmaOptions(Options):
    """The ME-PMA network."""

    weights: str | None = Field(
        None, description="weight file (see `streamfuse weights import`); none come with the package"
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="of convolutions and matrix products; fields are always float32; float16: CUDA only",
    )


class MepmaModel:
    """Registrar and fuser by the ME-PMA network. Keeps nothing from one pair to the next.

    Raises (when made): WeightsError without usable weights, ConfigError when the device or the precision
    cannot be had.
    """

    Options: ClassVar[type[Options]] = MepmaOptions

    def __init__(self, options: MepmaOptions, *, device: str = "cpu") -> None:
        kind = device.partition(":")[0]
        if options.precision == "float16" and kind != "cuda":
            raise ConfigError(
                f"mepma.precision: float16 needs a CUDA device, not {device!r}; use bfloat16 or float32"
            )
        if options.precision == "bfloat16" and kind == "cpu" and not _cpu_computes_bf16():
            logger.warning(
                "this CPU has no bfloat16 arithmetic: mepma will be several times slower than in float32"
            )
        network = load_model(MEPMA.NAME, weights=options.weights, device=device)
        assert isinstance(network, MEPMA)
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = torch.device(device)
        self._dtype = DTYPES[options.precision]

    def register(
        self, ir: Image8, vis: Image8, *, valid: Mask | None = None, prior: Registration | None = None
    ) -> Registration:
        """See `Registrar`. Every call starts cold: the network has no notion of time and takes no `prior`."""
        with self._inference():
            ir_t, vis_t = self._upload(ir, vis)
            flow = total_flow(self._network.align(*self._network.encode(ir_t, vis_t)))
            return self._registration(ir_t, vis_t, flow, valid)

    def fuse(self, ir: Image8, vis: Image8, *, valid: Mask | None = None) -> Image8:
        """See `Fuser`. Fuses as they are (the paper's aligned mode); `valid` has no place in the network."""
        with self._inference():
            return self._download(self._network.fuse(*self._network.encode(*self._upload(ir, vis))))

    def register_and_fuse(
        self, ir: Image8, vis: Image8, *, valid: Mask | None = None, prior: Registration | None = None
    ) -> tuple[Registration, Image8]:
        """Register, warp features, fuse: the paper's unaligned mode, each picture encoded once.

        Args, errors: as `register`.

        Returns:
            The registration, and the fused luma, uint8 (H, W), made from the features it warped.
        """
        with self._inference():
            ir_t, vis_t = self._upload(ir, vis)
            features_ir, features_vis = self._network.encode(ir_t, vis_t)
            views = self._network.align(features_ir, features_vis)
            fused = self._network.fuse(views.warp(features_ir), features_vis)
            return self._registration(ir_t, vis_t, total_flow(views), valid), self._download(fused)

    def reset(self) -> None:
        """See `Fuser`. There is nothing to forget."""

    @contextmanager
    def _inference(self) -> Iterator[None]:
        reduced = self._dtype != torch.float32
        with torch.inference_mode(), torch.autocast(self._device.type, dtype=self._dtype, enabled=reduced):
            yield

    def _upload(self, ir: Image8, vis: Image8) -> tuple[Tensor, Tensor]:
        for name, image in (("ir", ir), ("vis", vis)):
            if image.dtype != np.uint8 or image.ndim != 2:
                raise DataError(f"mepma needs {name} as uint8 (H, W), got {image.dtype} {image.shape}")
        if ir.shape != vis.shape:
            raise DataError(f"mepma needs pictures of one size, got ir {ir.shape} and vis {vis.shape}")
        return self._to_device(ir), self._to_device(vis)

    def _to_device(self, image: Image8) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(image)).to(self._device)
        return (tensor.float() / 255)[None, None].contiguous(memory_format=torch.channels_last)

    def _download(self, fused: Tensor) -> Image8:
        image: Image8 = (fused[0, 0].float() * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        return image

    def _registration(self, ir: Tensor, vis: Tensor, flow: Tensor, valid: Mask | None) -> Registration:
        mask = inside(flow)
        if valid is not None:
            where = torch.from_numpy(np.ascontiguousarray(valid)).to(self._device)[None, None]
            mask = mask & (warp((where > 0).float(), flow) > WHOLLY_VALID)
        agreement = edge_agreement(warp(ir, flow), vis, mask)
        if agreement is None or not torch.isfinite(flow).all():
            reason = "the pictures have no edges to match" if agreement is None else "the field is not finite"
            return Registration(status=Status.OFF, confidence=0.0, matrix=np.eye(3), reason=reason)
        field = flow[0].permute(1, 2, 0).contiguous().cpu().numpy()
        return Registration(status=Status.OK, confidence=agreement, flow=field)


def _cpu_computes_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def edge_agreement(a: Tensor, b: Tensor, mask: Tensor) -> float | None:
    """How much the edges of two pictures run along each other, whatever their polarity.

    2 * mean of cos^2 of the angle between the gradients - 1, weighted by the product of their lengths: the
    normalised gradient fields of Haber and Modersitzki (MICCAI 2006), with strong edges counting more.

    Args:
        a, b: (1, 1, H, W) in [0, 1].
        mask: bool (1, 1, H, W), where they are compared.

    Returns:
        0 (unrelated) to 1 (parallel everywhere); None when there are no edges in common to speak of.
    """
    blur = 2 * round(3 * EDGE_SIGMA) + 1
    ga, gb = (
        spatial_gradient(gaussian_blur2d(x.float(), (blur, blur), (EDGE_SIGMA, EDGE_SIGMA)))[:, 0]
        for x in (a, b)
    )
    dot = (ga * gb).sum(dim=1) * mask[:, 0]
    lengths = ga.norm(dim=1) * gb.norm(dim=1) * mask[:, 0]
    if float(lengths.mean()) < MIN_EDGE_PRODUCT:
        return None
    cos2 = (dot**2 / lengths.clamp(min=MIN_EDGE_PRODUCT**2)).sum() / lengths.sum()
    return float((2 * cos2 - 1).clamp(0, 1))
