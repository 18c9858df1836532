"""The working pictures of the `live` registrar: their sizes, where matches lie, how fields come and go.

The warm one has about 400 x 304 pixels, the cold one is finer: there is time for it, as it is once for a
still, and for a film beside other frames.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from streamfuse.frame import Flow, Registration
from streamfuse.nn.live_registration import LiveRegistration, StageConfig, working_shape
from streamfuse.registration.fit import SplineFit
from streamfuse.registration.working import sample
from streamfuse.sampling import pixel_grid

COLD_DETAIL = 1.25
"""Rows of the cold working picture over those of the warm one. On held-back pairs the error falls by a
sixteenth, that within one modality by a quarter, for half as much time again; 1.5 brings no more."""
PRIOR_PRECISION = 0.1
"""px^-2 per match, at full confidence: how well a field counts as known that does not say so itself."""


def positions(shape: tuple[int, int], config: StageConfig) -> Flow:
    """Where the matches of a stage lie: float32 (h, w, 2), (x, y) in working pixels."""
    pitch = config.cell * config.step
    rows, columns = (-(-side // pitch) for side in shape)
    return pixel_grid((rows, columns)) * pitch + np.float32((config.cell - 1) / 2)


def stage_fit(
    shape: tuple[int, int], config: StageConfig, *, device: torch.device | str = "cpu"
) -> SplineFit:
    """The fit that belongs to the matches of a stage."""
    pitch = config.cell * config.step
    rows, columns = (-(-side // pitch) for side in shape)
    return SplineFit(shape, (rows, columns), pitch=pitch, offset=(config.cell - 1) / 2, device=device)


class Geometry:
    """Everything that depends on the size of the pictures alone. detail: as of `working_shape`.

    unit: information per square pixel of the warm working picture, in which the confidence counts, over that
    per square pixel of this one.
    """

    def __init__(self, full: tuple[int, int], network: LiveRegistration, *, detail: float = 1.0) -> None:
        self.full = full
        self.unit = detail**2
        self.working = working_shape(full, detail=detail)
        self.coarse = stage_fit(self.working, network.config.coarse)
        self.fine = stage_fit(self.working, network.config.fine)
        self.cells = positions(self.working, network.config.fine)
        self.pixels = pixel_grid(self.working)
        scale = [w / f for w, f in zip(self.working, full, strict=True)]
        self.to_full = torch.tensor([1 / scale[1], 1 / scale[0]]).view(1, 2, 1, 1)
        self.rows = self.fine.y.at((torch.arange(full[0]) + 0.5) * scale[0] - 0.5)
        self.columns = self.fine.x.at((torch.arange(full[1]) + 0.5) * scale[1] - 0.5)
        self.working_rows = self.fine.y.at(torch.arange(self.working[0]))
        self.working_columns = self.fine.x.at(torch.arange(self.working[1]))
        at_full = (self.cells + 0.5) / np.array(scale[::-1], np.float32) - 0.5
        self.cells_in_full = np.ascontiguousarray(at_full, np.float32)

    def working_flow(self, coefficients: Tensor) -> Flow:
        """(H, W, 2) on the working picture."""
        return interleaved(self.working_rows @ coefficients @ self.working_columns.T)

    def full_flow(self, coefficients: Tensor) -> Flow:
        """(H, W, 2) at full size, in its pixels."""
        return interleaved(self.rows @ (coefficients * self.to_full) @ self.columns.T)

    def from_registration(self, prior: Registration) -> Tensor:
        """Coefficients of a field of the full-size picture."""
        at = self.cells_in_full
        flow: npt.NDArray[Any]
        if prior.matrix is not None:
            flow = cv2.perspectiveTransform(at.reshape(1, -1, 2), prior.matrix).reshape(at.shape) - at
        else:
            flow = sample(prior.flow, at)
        return self.fine.project(torch.from_numpy(flow).permute(2, 0, 1)[None].float() / self.to_full)

    def known(self, prior: Registration) -> Tensor:
        """How well a field is known at the cells, (1, h, w)."""
        if prior.support is not None and prior.support.shape == self.fine.cells:
            return torch.from_numpy(prior.support)[None]
        return torch.full((1, *self.fine.cells), PRIOR_PRECISION * prior.confidence)


class Handover:
    """What was found on one working picture as it is on another one of the same cameras."""

    def __init__(self, source: Geometry, target: Geometry) -> None:
        finer = [s / t for s, t in zip(source.working, target.working, strict=True)]
        fit = target.fine
        y, x = (torch.from_numpy(target.cells[:, :1, 1]), torch.from_numpy(target.cells[:1, :, 0]))
        there_y = source.fine.y.at((y.flatten() + 0.5) * finer[0] - 0.5)
        there_x = source.fine.x.at((x.flatten() + 0.5) * finer[1] - 0.5)
        self.rows, self.columns = fit.by_inverse @ there_y, fit.bx_inverse @ there_x
        self.length = torch.tensor([1 / finer[1], 1 / finer[0]]).view(1, 2, 1, 1)
        self.cells = fit.cells

    def to(self, device: torch.device) -> "Handover":
        """Moves itself there."""
        self.rows, self.columns = self.rows.to(device), self.columns.to(device)
        self.length = self.length.to(device)
        return self

    def coefficients(self, coefficients: Tensor) -> Tensor:
        """Of the field nearest to a field of the source, at the target's matches."""
        nearest: Tensor = self.rows @ (coefficients * self.length) @ self.columns.T
        return nearest

    def support(self, support: Tensor) -> Tensor:
        """How well cells are known, (B, h, w). Not in other pixels: a match is as good as it is in cells, and
        those that will be compared with it see the target."""
        return F.adaptive_avg_pool2d(support[:, None], self.cells)[:, 0]


class Geometries:
    """Both working pictures of cameras of one size (rows, columns), and the way from cold to warm."""

    def __init__(self, full: tuple[int, int], network: LiveRegistration) -> None:
        self.full = full
        self.cold = Geometry(full, network, detail=COLD_DETAIL)
        self.warm = Geometry(full, network)
        self.handover = Handover(self.cold, self.warm)


def interleaved(flow: Tensor) -> Flow:
    """(1, 2, H, W) to a contiguous (H, W, 2)."""
    return np.asarray(cv2.merge([flow[0, 0].numpy(), flow[0, 1].numpy()]), np.float32)
