"""A rendered clip and rigs for the tests of the device worker, with and without a device."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from streamfuse.calibration.calibration import Intrinsics, RigCalibration
from streamfuse.clock import NS_PER_MS, NS_PER_S
from streamfuse.device.worker import DeviceWorker
from streamfuse.frame import Frame, FramePair, FusedFrame, Image8, Rung
from streamfuse.fusion import colour
from streamfuse.pairing.matcher import Matcher
from streamfuse.pairing.options import MotionMode, PairingOptions
from streamfuse.synth.options import RigOptions, SceneOptions
from streamfuse.synth.scene import Scene
from streamfuse.worker import FrameWorker

VIS_SIZE, IR_SIZE = (320, 240), (160, 120)
FRAMES = 5
FRAME_S = 1 / 15


@dataclass(frozen=True, slots=True)
class Clip:
    """Pictures of both cameras, the infrared half as large."""

    ir: list[Image8]
    vis: list[Image8]


def film(*, vis_size: tuple[int, int] = VIS_SIZE, frames: int = FRAMES, interval_s: float = FRAME_S) -> Clip:
    rig = RigOptions(
        vis_width=vis_size[0], vis_height=vis_size[1], ir_width=vis_size[0] // 2, ir_height=vis_size[1] // 2
    )
    scene = Scene(SceneOptions(), rig)
    times = [i * interval_s for i in range(frames)]
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


def thinned_pairs(clip: Clip, mode: MotionMode, *, every: int = 3) -> list[FramePair]:
    """A visible frame each 1/30 s, with the last infrared frame of which only each `every`-th is there."""
    matcher = Matcher(PairingOptions(driver="vis", motion=mode), live=False, default_driver="vis")
    for i, (ir, vis) in enumerate(zip(clip.ir, clip.vis, strict=True)):
        stamps: dict[str, Any] = {"seq": i, "t_capture": round(i / 30 * NS_PER_S), "t_arrival": 0}
        if i % every == 0:
            matcher.push(Frame(stream="ir", image=ir, **stamps))
        matcher.push(Frame(stream="vis", image=vis, **stamps))
    return list(matcher.flush())


def through(worker: FrameWorker, clip_pairs: Iterable[FramePair], **how: Any) -> list[FusedFrame]:
    done: list[FusedFrame] = []
    for seq, pair in enumerate(clip_pairs):
        done += worker.submit(pair, seq=seq, dropped={}, rung=how.get("rung", Rung.FULL), rung_reason="")
    return done + worker.drain()


def in_turns(workers: list[DeviceWorker], films: list[list[FramePair]]) -> list[list[FusedFrame]]:
    """A frame of each rig after the other."""
    done: list[list[FusedFrame]] = [[] for _ in workers]
    for seq, some in enumerate(zip(*films, strict=True)):
        for i, pair in enumerate(some):
            done[i] += workers[i].submit(pair, seq=seq)
    for i, worker in enumerate(workers):
        done[i] += worker.drain()
    return done


def assert_same(cpu: FusedFrame, device: FusedFrame, *, decided: bool = False) -> None:
    """Means within a tenth of a grey level; luma within 2 but for a pixel in a thousand on steep edges, 8
    there, as positions are rounded to 1/32 px, once this way and once that; a colour that hardly leaves the
    cube may be cut off in one and drawn to grey in the other.

    decided: whether a pixel is moved was decided by fields that are not quite the same: those few are free.
    """
    assert (device.seq, device.status, device.warm) == (cpu.seq, cpu.status, cpu.warm)
    assert device.confidence == pytest.approx(cpu.confidence, abs=5e-3)
    for one, other in ((cpu.image, device.image), (cpu.registered_ir, device.registered_ir)):
        difference = np.abs(one.astype(int) - other)
        assert difference.mean() < 0.1
        assert np.percentile(difference, 99.9) <= 6
        assert decided or difference.max() <= 16
    lumas = [colour.luma(frame.image).astype(int) for frame in (cpu, device)]
    assert np.percentile(np.abs(lumas[0] - lumas[1]), 99.9) <= 2
    assert decided or np.abs(lumas[0] - lumas[1]).max() <= 8
    assert (cpu.valid != device.valid).mean() < 1e-3
    if cpu.registration.flow is not None:
        assert device.registration.flow is not None
        assert np.abs(cpu.registration.flow - device.registration.flow).max() < 0.05


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
