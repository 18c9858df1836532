"""The `live` registrar and fuser on the device: `registration.live` and `fusion` step by step in tensors."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import cv2
import torch
from torch import Tensor

from streamfuse.device.calm import FusedBefore
from streamfuse.device.estimator import Found
from streamfuse.device.laplacian import Extension, LaplacianFuser
from streamfuse.device.picture import faded
from streamfuse.device.pixels import Normalise, Resize, pull, whole
from streamfuse.device.solve import DeviceFit
from streamfuse.fusion.laplacian import LaplacianOptions
from streamfuse.fusion.live import FOLLOW
from streamfuse.fusion.people import FOLLOW as FOLLOW_PEOPLE
from streamfuse.nn.live_fusion import LiveFusion
from streamfuse.nn.live_registration import LiveRegistration, Matches, StageConfig
from streamfuse.nn.precision import Precision, is_reduced
from streamfuse.registration.fit import LEAST_RENEWED, Fit, evidence, holding, supported
from streamfuse.registration.live_geometry import Geometries, Geometry


class Scene(NamedTuple):
    """Pictures at full size, one row of a batch a rig: infrared, where it was seen (0..255), visible luma."""

    ir: Tensor
    seen: Tensor
    vis: Tensor


class Refined(NamedTuple):
    """Coefficients on the working picture, the cells' information (B, h, w), the share that is new, trust."""

    coefficients: Tensor
    information: Tensor
    renewed: Tensor
    trust: Tensor


class WorkingPicture:
    """All that is done on one of the registrar's working pictures."""

    def __init__(
        self, geometry: Geometry, network: LiveRegistration, *, precision: Precision, device: torch.device
    ) -> None:
        self._network = network
        self._unit = geometry.unit
        # Weights cast once and cached would live in the memory of the graph that happened to cast them.
        self._autocast: AbstractContextManager[object] = (
            torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
            if is_reduced(precision, str(device))
            else nullcontext()
        )
        shrinks = geometry.working[0] < geometry.full[0]
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        self._to_working = Resize(geometry.full, geometry.working, how, device=device)
        self._normalise = Normalise(geometry.working, device=device)
        self._fits = {
            "coarse": _fit(geometry.working, network.config.coarse, network.coarse_penalty, device),
            "fine": _fit(geometry.working, network.config.fine, network.fine_penalty, device),
        }
        self._penalties = {
            "coarse": network.coarse_penalty.detach(),
            "fine": network.fine_penalty.detach(),
        }
        self._rows = geometry.working_rows.to(device)
        self._columns = geometry.working_columns.to(device)
        self._pixels, self._cells = (
            torch.tensor(places)[None].to(device) for places in (geometry.pixels, geometry.cells)
        )

    def of(self, scene: Scene) -> Scene:
        """Working pictures, the visible one normalised."""
        return Scene(
            self._to_working(scene.ir),
            self._to_working(scene.seen),
            self._normalise(self._to_working(scene.vis)),
        )

    def first(self, scene: Scene) -> Tensor:
        """Coefficients from the coarse stage. scene: as `of` gives it."""
        matches = self._match("coarse", scene.ir, scene.vis, scene.seen)
        fit: Fit = self._fits["coarse"](
            matches.mean, matches.precision, log_penalty=self._penalties["coarse"]
        )
        return fit.coefficients

    def refined(self, scene: Scene, start: Tensor, known: Tensor | None) -> Refined:
        """A pass of the fine stage. known: how well the field is known that it starts from."""
        flow = self._rows @ start @ self._columns.T
        at = self._pixels + flow.permute(0, 2, 3, 1)
        warped = whole(pull(scene.ir, at, "bilinear"))
        mask = whole(pull(scene.seen, at, "bilinear", border="zeros"))
        matches = self._match("fine", warped, scene.vis, mask)
        held = None if known is None else (start, holding(known, matches.precision))
        there = pull(flow, self._cells + matches.mean.permute(0, 2, 3, 1), "bilinear")
        fit = self._fits["fine"](
            matches.mean + there, matches.precision, log_penalty=self._penalties["fine"], prior=held
        )
        support = supported(fit, matches.precision, known)
        rests_on = evidence(fit, matches.precision * self._unit, support.information * self._unit)
        trust = torch.sigmoid(self._network.confidence(rests_on))[:, 0]
        return Refined(fit.coefficients, support.information, support.renewed, trust)

    def _match(self, stage: Literal["coarse", "fine"], ir: Tensor, vis: Tensor, seen: Tensor) -> Matches:
        with self._autocast:
            matches: Matches = self._network(ir=self._normalise(ir), vis=vis, valid=seen / 255, stage=stage)
        return matches


class LiveEstimator:
    """See `Estimator`; a code is the spline coefficients of the field on the warm working picture, then how
    well it is known at each cell.

    Args:
        shape: (H, W) of the visible picture. passes, precision: as of the registrar's options.
    """

    warms = True

    def __init__(
        self,
        network: LiveRegistration,
        shape: tuple[int, int],
        *,
        passes: int,
        precision: Precision,
        device: torch.device,
    ) -> None:
        geometries = Geometries(shape, network)
        self._cold, self._warm = (
            WorkingPicture(geometry, network, precision=precision, device=device)
            for geometry in (geometries.cold, geometries.warm)
        )
        self._handover = geometries.handover.to(device)
        self._passes = passes
        warm = geometries.warm
        self._rows, self._columns = warm.rows.to(device), warm.columns.to(device)
        self._to_full = warm.to_full.to(device)
        self._splines = (2, warm.fine.y.count, warm.fine.x.count)
        self._grid = warm.fine.cells
        self.code_shape = (math.prod(self._splines) + math.prod(self._grid),)

    def look(self, ir: Tensor, vis: Tensor, seen: Tensor) -> Scene:
        return Scene(ir, 255 * seen.float(), vis)

    def cold(self, scene: Scene) -> Found:
        scene = self._cold.of(scene)
        start = self._cold.first(scene)
        for _ in range(self._passes):
            found = self._cold.refined(scene, start, None)
            start = found.coefficients
        return self._found(
            found._replace(
                coefficients=self._handover.coefficients(found.coefficients),
                information=self._handover.support(found.information),
            )
        )

    def warm(self, scene: Scene, code: Tensor, confidence: Tensor) -> Found:
        return self._found(self._warm.refined(self._warm.of(scene), *self._parts(code)))

    def flow(self, code: Tensor) -> Tensor:
        return self._rows @ (self._parts(code)[0] * self._to_full) @ self._columns.T

    def _parts(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients, and how well the field is known."""
        count = math.prod(self._splines)
        return code[:, :count].view(-1, *self._splines), code[:, count:].view(-1, *self._grid)

    @staticmethod
    def _found(refined: Refined) -> Found:
        code = torch.cat([refined.coefficients.flatten(1), refined.information.flatten(1)], dim=1)
        finite = torch.isfinite(refined.trust) & torch.isfinite(code).all(dim=1)
        return Found(code, refined.trust, finite & (refined.renewed >= LEAST_RENEWED))


def _fit(shape: tuple[int, int], config: StageConfig, log_penalty: Tensor, device: torch.device) -> DeviceFit:
    pitch = config.cell * config.step
    rows, columns = (-(-side // pitch) for side in shape)
    return DeviceFit(
        shape,
        (rows, columns),
        pitch=pitch,
        offset=(config.cell - 1) / 2,
        log_penalty=log_penalty,
        device=device,
    )


def maximum(ir: Tensor, vis: Tensor, valid: Tensor) -> Tensor:
    """The `max` fuser. See `Stateless`."""
    return torch.maximum(faded(ir, vis, valid), vis)


class LiveFuser:
    """The `live` fuser. See `DeviceFuser`. shape: (H, W)."""

    def __init__(self, network: LiveFusion, shape: tuple[int, int], *, device: torch.device) -> None:
        self._network, self._shape, self._device = network, shape, device
        self._extended = Extension(shape, device=device)

    def fresh(self, count: int) -> FusedBefore:
        return FusedBefore.fresh(count, self._shape, device=self._device)

    def __call__(self, ir: Tensor, vis: Tensor, valid: Tensor, past: FusedBefore) -> Tensor:
        infrared, visible = self._extended(ir, valid) / 255, vis / 255
        means, gradients = self._network.look(infrared, visible)
        followed = past.follow(self._network.decide(means, gradients), weight=FOLLOW)
        fused = self._network.compose(infrared, visible, means, followed)
        return faded(past.calm(whole(255 * fused)), vis, valid)


class PeopleFuser:
    """The `people` fuser: a picture fused by the Laplacian pyramid, with people raised. See `DeviceFuser`.
    shape: (H, W)."""

    def __init__(self, network: LiveFusion, shape: tuple[int, int], *, device: torch.device) -> None:
        self._network, self._shape, self._device = network, shape, device
        self._laplacian = LaplacianFuser(shape, LaplacianOptions(), device=device)
        self._extended = Extension(shape, device=device)

    def fresh(self, count: int) -> FusedBefore:
        return FusedBefore.fresh(count, self._shape, device=self._device)

    def __call__(self, ir: Tensor, vis: Tensor, valid: Tensor, past: FusedBefore) -> Tensor:
        fused = self._laplacian(ir, vis, valid)
        infrared = self._extended(ir, valid) / 255
        means, gradients = self._network.look(infrared, vis / 255)
        followed = past.follow(self._network.decide(means, gradients), weight=FOLLOW_PEOPLE)
        people = self._network.people(infrared, means, followed)
        return past.calm(torch.where(valid, torch.maximum(fused, whole(255 * people)), fused))
