"""A rendered clip and rigs for the tests of the device worker, with and without a device."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from streamfuse.calibration.calibration import Intrinsics, RigCalibration
from streamfuse.clock import NS_PER_MS
from streamfuse.frame import Frame, FramePair, Image8
from streamfuse.synth.options import RigOptions, SceneOptions
from streamfuse.synth.scene import Scene

VIS_SIZE, IR_SIZE = (320, 240), (160, 120)
FRAMES = 5
FRAME_S = 1 / 15


@dataclass(frozen=True, slots=True)
class Clip:
    """Pictures of both cameras, the infrared half as large."""

    ir: list[Image8]
    vis: list[Image8]


def film(*, vis_size: tuple[int, int] = VIS_SIZE, frames: int = FRAMES) -> Clip:
    rig = RigOptions(
        vis_width=vis_size[0], vis_height=vis_size[1], ir_width=vis_size[0] // 2, ir_height=vis_size[1] // 2
    )
    scene = Scene(SceneOptions(), rig)
    times = [i * FRAME_S for i in range(frames)]
    return Clip(
        [scene.infrared_view(scene.render_infrared(t)) for t in times],
        [scene.render_visible(t) for t in times],
    )


def pairs(clip: Clip, *, interval_ms: float = 66) -> Iterator[FramePair]:
    for i, (ir, vis) in enumerate(zip(clip.ir, clip.vis, strict=True)):
        stamps: dict[str, Any] = {"seq": i, "t_capture": round(i * interval_ms * NS_PER_MS), "t_arrival": 0}
        yield FramePair(
            vis=Frame(stream="vis", image=vis, **stamps),
            ir=Frame(stream="ir", image=ir, **stamps),
            driver="vis",
        )


def _sizes(zoom: int) -> dict[str, tuple[int, int]]:
    return {"ir_size": (IR_SIZE[0] * zoom, IR_SIZE[1] * zoom), "vis_size": VIS_SIZE}


def _homography(zoom: int) -> RigCalibration:
    matrix = np.diag([zoom, zoom, 1.0]) @ np.array([[0.5, 0.012, 1], [-0.01, 0.5, 2], [2e-5, 4e-5, 1]])
    return RigCalibration.from_matrix(matrix, **_sizes(zoom))


def _lenses(zoom: int) -> RigCalibration:
    ir = Intrinsics(
        fx=150 * zoom, fy=150 * zoom, cx=80 * zoom, cy=60 * zoom, distortion=(-0.1, 0.02, 0.0, 0.0)
    )
    vis = Intrinsics(fx=300, fy=300, cx=160, cy=120, distortion=(-0.1, 0.02, 0.0, 0.0))
    return RigCalibration.from_matrix(
        _homography(zoom).matrix, **_sizes(zoom), ir_intrinsics=ir, vis_intrinsics=vis
    )


CALIBRATIONS: dict[str, Callable[[int], RigCalibration]] = {
    "resize": lambda zoom: RigCalibration.identity(**_sizes(zoom)),
    "homography": _homography,
    "lenses": _lenses,
}
"""By name, for an infrared picture `zoom` times as fine as IR_SIZE."""


def tensor(image: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image, np.float32))[None, None]


def soft(rng: np.random.Generator, shape: tuple[int, int]) -> Any:
    """A picture with detail down to a few pixels, as a lens makes."""
    rough = rng.integers(0, 256, (shape[0] // 4, shape[1] // 4)).astype(np.uint8)
    return cv2.resize(rough, shape[::-1], interpolation=cv2.INTER_CUBIC)
