"""A rig calibration on the device: where each visible pixel lies in the raw infrared picture."""

import cv2
import numpy as np
import torch
from torch import Tensor

from streamfuse.calibration.calibration import RigCalibration
from streamfuse.device.pixels import Resize, covered, grid, mapped, pull, whole
from streamfuse.pairing.motion import small_shape
from streamfuse.sampling import apply_matrix


class Rig:
    """Tensors of one `RigCalibration`. Positions and pictures as in `pixels`."""

    def __init__(self, calibration: RigCalibration, *, device: torch.device | str) -> None:
        (width, height), (ir_width, ir_height) = calibration.vis_size, calibration.ir_size
        self.shape, self.ir_shape = (height, width), (ir_height, ir_width)
        self.grid = grid(self.shape, device=device)
        self._reduce: Resize | None = None
        self._source_shape = self.ir_shape
        reduction = np.eye(3)
        if calibration.reduction is not None:
            size, reduction = calibration.reduction
            self._source_shape = (size[1], size[0])
            self._reduce = Resize(self.ir_shape, self._source_shape, cv2.INTER_AREA, device=device)
        self._table: Tensor | None = None
        self._margin = 0.0
        self._matrix = reduction
        if calibration.is_homography:
            self._matrix = reduction @ calibration.matrix
            self._base = mapped(self._matrix, self.grid.double()).float()
        else:
            table, margin = calibration.table
            self._table = torch.from_numpy(table).permute(2, 0, 1)[None].contiguous().to(device)
            self._margin = float(margin)
            base = apply_matrix(reduction, calibration.positions)
            self._base = torch.from_numpy(base)[None].to(device)
        self._covered = covered(self._base, self._source_shape)
        self.motion_shape = small_shape(self.shape)
        self._to_full = Resize(self.motion_shape, self.shape, cv2.INTER_LINEAR, device=device)
        scale = [full / small for full, small in zip(self.shape, self.motion_shape, strict=True)]
        self._scale = torch.tensor(scale[::-1], device=device).view(1, 2, 1, 1)

    def prepared(self, ir: Tensor) -> Tensor:
        """The raw infrared, averaged down when it is much finer than the visible."""
        return ir if self._reduce is None else self._reduce(ir)

    def bring(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """The infrared in visible geometry for matching (bilinear), and where it holds (bool)."""
        return whole(pull(prepared, self._base, "bilinear")), self._covered

    def motion(self, small: Tensor) -> Tensor:
        """Motion (1, h, w, 2) of pictures of `motion_shape`, in their pixels, at full size: (1, 2, H, W)."""
        rows, columns = self._to_full.rows, self._to_full.columns
        return rows @ (small.permute(0, 3, 1, 2) * self._scale) @ columns.T

    def warp(self, prepared: Tensor, flow: Tensor, motion: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The infrared on the visible, resampled once (bicubic) through motion, flow (1, 2, H, W each) and
        calibration, and where it holds (bool). See `registration.warp.warp_infrared`."""
        positions = self.grid
        if motion is not None:
            positions = positions + motion.permute(0, 2, 3, 1)
            flow = pull(flow, positions, "bilinear")
        positions = positions + flow.permute(0, 2, 3, 1)
        if self._table is not None:
            found = pull(self._table, positions + self._margin, "bilinear")
            positions = found.permute(0, 2, 3, 1)
        positions = mapped(self._matrix, positions)
        return whole(pull(prepared, positions, "bicubic")), covered(positions, self._source_shape)
