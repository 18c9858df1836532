"""Rig calibrations on the device: where each visible pixel lies in the raw infrared picture."""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from streamfuse.calibration.calibration import RigCalibration
from streamfuse.device.memory import Rows
from streamfuse.device.pixels import Resize, covered, grid, mapped, pull, whole
from streamfuse.pairing.motion import small_shape
from streamfuse.sampling import apply_matrix


class Geometry(NamedTuple):
    """What of a calibration a program is made for; rigs that share one differ in numbers only.

    Sizes are (rows, columns). reduced: of the infrared before it is sampled. lenses: they bend something.
    """

    visible: tuple[int, int]
    infrared: tuple[int, int]
    reduced: tuple[int, int]
    lenses: bool

    @classmethod
    def of(cls, calibration: RigCalibration) -> "Geometry":
        (width, height), (ir_width, ir_height) = calibration.vis_size, calibration.ir_size
        reduced = (ir_width, ir_height) if calibration.reduction is None else calibration.reduction[0]
        return cls((height, width), (ir_height, ir_width), reduced[::-1], not calibration.is_homography)


@dataclass(slots=True)
class Place(Rows):
    """Of each rig: where every visible pixel lies in the infrared that is sampled, and whether on it.

    matrix: that leads there; with lenses from raw positions, which `table` has.
    """

    base: Tensor
    covered: Tensor
    matrix: Tensor
    table: Tensor


class Rigs:
    """Tensors of the calibrations of rigs of one geometry. Positions and pictures as in `pixels`.

    Args:
        calibration: of all, until `set`.
        count: how many rigs.
    """

    def __init__(self, calibration: RigCalibration, *, count: int = 1, device: torch.device | str) -> None:
        self.geometry = geometry = Geometry.of(calibration)
        self.shape, self.ir_shape = geometry.visible, geometry.infrared
        self.count = count
        self._device = device
        self._grid = grid(self.shape, device=device)
        self._reduce: Resize | None = None
        if calibration.reduction is not None:
            self._reduce = Resize(self.ir_shape, geometry.reduced, cv2.INTER_AREA, device=device)
        self._margin = float(calibration.table[1]) if geometry.lenses else 0.0
        first = self._place(calibration)
        self._places = Place(
            *(
                tensor.repeat_interleave(count, dim=0)
                for tensor in (first.base, first.covered, first.matrix, first.table)
            )
        )
        self.motion_shape = small_shape(self.shape)
        self._to_full = Resize(self.motion_shape, self.shape, cv2.INTER_LINEAR, device=device)
        scale = [full / small for full, small in zip(self.shape, self.motion_shape, strict=True)]
        self._scale = torch.tensor(scale[::-1], device=device).view(1, 2, 1, 1)

    def set(self, row: int, calibration: RigCalibration) -> None:
        """Whose frames this row is for from now on; its geometry must be that of all."""
        assert Geometry.of(calibration) == self.geometry
        self._places.put(torch.tensor([row], device=self._device), self._place(calibration))

    def at(self, rows: Tensor) -> Place:
        """Of some rigs, int64 (B,)."""
        return self._places.at(rows)

    def _place(self, calibration: RigCalibration) -> Place:
        """One row."""
        reduction = np.eye(3) if calibration.reduction is None else calibration.reduction[1]
        matrix, table = reduction, np.zeros((1, 1, 2), np.float32)
        if calibration.is_homography:
            matrix = reduction @ calibration.matrix
            exact = torch.from_numpy(matrix / matrix[2, 2])[None].to(self._device)
            base = mapped(exact, self._grid.double()).float()
        else:
            table = calibration.table[0]
            base = torch.from_numpy(apply_matrix(reduction, calibration.positions))[None].to(self._device)
        return Place(
            base,
            covered(base, self.geometry.reduced),
            torch.from_numpy(matrix / matrix[2, 2]).float()[None].to(self._device),
            torch.from_numpy(table).permute(2, 0, 1)[None].contiguous().to(self._device),
        )

    def prepared(self, ir: Tensor) -> Tensor:
        """The raw infrared, averaged down when it is much finer than the visible."""
        return ir if self._reduce is None else self._reduce(ir)

    def bring(self, prepared: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        """The infrared in visible geometry for matching (bilinear), and where it holds (bool)."""
        return whole(pull(prepared, place.base, "bilinear")), place.covered

    def motion(self, small: Tensor) -> Tensor:
        """Motion (B, h, w, 2) of pictures of `motion_shape`, in their pixels, at full size: (B, 2, H, W)."""
        rows, columns = self._to_full.rows, self._to_full.columns
        return rows @ (small.permute(0, 3, 1, 2) * self._scale) @ columns.T

    def warp(
        self, prepared: Tensor, flow: Tensor, place: Place, motion: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The infrared on the visible, resampled once (bicubic) through motion, flow (B, 2, H, W each) and
        calibration, and where it holds (bool). See `warp.warp_infrared`."""
        positions = self._grid
        if motion is not None:
            positions = positions + motion.permute(0, 2, 3, 1)
            flow = pull(flow, positions, "bilinear")
        positions = positions + flow.permute(0, 2, 3, 1)
        if self.geometry.lenses:
            found = pull(place.table, positions + self._margin, "bilinear")
            positions = found.permute(0, 2, 3, 1)
        positions = mapped(place.matrix, positions)
        return whole(pull(prepared, positions, "bicubic")), covered(positions, self.geometry.reduced)
