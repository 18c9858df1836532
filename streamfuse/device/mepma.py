"""The ME-PMA network on the device, as in `registration.mepma`: registrar and fuser in one, encoding once."""

from typing import NamedTuple

import torch
from kornia.filters import get_gaussian_kernel1d
from torch import Tensor
from torch.nn import functional as F

from streamfuse.device.estimator import Found
from streamfuse.device.memory import spread
from streamfuse.nn.mepma import MEPMA, total_flow
from streamfuse.nn.warp import inside, warp
from streamfuse.registration.mepma import EDGE_SIGMA, MIN_EDGE_PRODUCT, WHOLLY_VALID

SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


class Scene(NamedTuple):
    """Pictures in [0, 1], where the infrared holds (bool), and the features of both."""

    ir: Tensor
    vis: Tensor
    seen: Tensor
    features_ir: Tensor
    features_vis: Tensor


class MepmaEstimator:
    """See `Estimator`; a code is the flow itself. The network has no notion of time: it never starts warm.

    Args:
        shape: (H, W) of the visible picture.
        dtype: of convolutions and matrix products; fields are float32.
    """

    warms = False

    def __init__(
        self, network: MEPMA, shape: tuple[int, int], *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._network = network
        # Weights cast once and cached would live in the memory of the graph that happened to cast them.
        self._autocast = torch.autocast(
            device.type, dtype=dtype, enabled=dtype != torch.float32, cache_enabled=False
        )
        self._edges = EdgeAgreement(device=device)
        self.code_shape = (2, *shape)

    def look(self, ir: Tensor, vis: Tensor, seen: Tensor) -> Scene:
        pictures = ir / 255, vis / 255
        with self._autocast:
            features = self._network.encode(
                *(picture.contiguous(memory_format=torch.channels_last) for picture in pictures)
            )
        return Scene(*pictures, seen, *features)

    def cold(self, scene: Scene) -> Found:
        with self._autocast:
            views = self._network.align(scene.features_ir, scene.features_vis)
            flow = total_flow(views).float()
        mask = inside(flow) & (warp(scene.seen.float(), flow) > WHOLLY_VALID)
        agreement, any_edges = self._edges(warp(scene.ir, flow), scene.vis, mask)
        return Found(flow, agreement, any_edges & torch.isfinite(flow).flatten(1).all(dim=1), views)

    def warm(self, scene: Scene, code: Tensor, confidence: Tensor) -> Found:
        raise NotImplementedError("the ME-PMA network takes no prior")

    def flow(self, code: Tensor) -> Tensor:
        return code

    def fuse(self, scene: Scene, flow: Tensor, found: Found | None, use_found: Tensor) -> Tensor:
        """Fused luma, 0..255, from features warped by what was found, or else by `flow`."""
        with self._autocast:
            warped = warp(scene.features_ir, flow)
            if found is not None:
                warped = torch.where(spread(use_found, warped), found.views.warp(scene.features_ir), warped)
            fused = self._network.fuse(warped, scene.features_vis)
        return 255 * fused.float()

    def fuse_alone(self, ir: Tensor, vis: Tensor, valid: Tensor) -> Tensor:
        """See `Stateless`: the paper's aligned mode, behind another registrar."""
        scene = self.look(ir, vis, valid)
        with self._autocast:
            fused = self._network.fuse(scene.features_ir, scene.features_vis)
        return 255 * fused.float()


class EdgeAgreement:
    """`registration.mepma.edge_agreement` with its filters made beforehand."""

    def __init__(self, *, device: torch.device | str) -> None:
        self._reach = round(3 * EDGE_SIGMA)
        blur = get_gaussian_kernel1d(2 * self._reach + 1, EDGE_SIGMA).view(1, 1, 1, -1)
        self._blur = blur.to(device)
        sobel = torch.tensor(SOBEL)
        self._sobel = (torch.stack([sobel, sobel.T])[:, None] / 8).to(device)

    def __call__(self, a: Tensor, b: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Agreement, float32 (B,), and whether there are edges in common to speak of, bool (B,)."""
        ga, gb = self._gradient(a), self._gradient(b)
        dot = (ga * gb).sum(dim=1) * mask[:, 0]
        lengths = ga.norm(dim=1) * gb.norm(dim=1) * mask[:, 0]
        cos2 = (dot**2 / lengths.clamp(min=MIN_EDGE_PRODUCT**2)).sum((1, 2)) / lengths.sum((1, 2))
        any_edges = lengths.mean((1, 2)) >= MIN_EDGE_PRODUCT
        return torch.where(any_edges, (2 * cos2 - 1).clamp(0, 1), torch.zeros_like(cos2)), any_edges

    def _gradient(self, picture: Tensor) -> Tensor:
        padded = F.pad(picture.float(), (self._reach,) * 4, mode="reflect")
        smooth = F.conv2d(F.conv2d(padded, self._blur), self._blur.mT)
        return F.conv2d(F.pad(smooth, (1, 1, 1, 1), mode="replicate"), self._sobel)
