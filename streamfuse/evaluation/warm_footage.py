"""Clips of a rig that stands still, and known deformations to put on them."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.flow import invert
from streamfuse.frame import Flow, Image8, Mask, Registration
from streamfuse.fusion.colour import luma
from streamfuse.registration.working import sample
from streamfuse.sampling import apply_matrix, pixel_grid
from streamfuse.synth.options import MotionOptions, SceneOptions
from streamfuse.synth.scene import Scene
from streamfuse.training.deform import random_field
from streamfuse.training.trust import RIG

PITCH = 16
"""Pixels between the places where fields are judged: they are smooth."""
LENGTH_PX = (10.0, 22.0)
"""Mean length of the deformation at 640 columns; less hardly differs from what a pair has by itself."""
DRIFT = (0.8, 1.2)
"""A drifting deformation grows from this share of itself to that over the clip."""
ANCHORS = 9
"""The field that undoes a growing deformation is inverted here and is straight in between: to 0.01 px."""
RENDERED_FPS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Footage:
    """Pairs of a rig that stands still: (ir, vis), uint8 (H, W) of one size, frame after frame.

    truth: the true displacement of each frame at every PITCH-th place (see `places`), float32 (h, w, 2), and
    where it holds, bool (h, w); empty where nobody knows it.
    """

    name: str
    pairs: Sequence[tuple[Image8, Image8]]
    truth: Sequence[tuple[Flow, npt.NDArray[np.bool_]]] = ()

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.pairs[0][1].shape
        return rows, columns


def places(shape: tuple[int, int]) -> Flow:
    """Where fields are judged: float32 (h, w, 2), positions (x, y)."""
    return np.ascontiguousarray(pixel_grid(shape)[PITCH // 2 :: PITCH, PITCH // 2 :: PITCH])


def field_at(registration: Registration, at: Flow) -> Flow:
    """The field at whole-pixel positions (..., 2)."""
    if registration.matrix is not None:
        return np.asarray(apply_matrix(registration.matrix, at) - at, np.float32)
    assert registration.flow is not None
    x, y = np.moveaxis(at.astype(np.intp), -1, 0)
    return np.asarray(registration.flow[y, x], np.float32)


def clip_footage(name: str, pairs: Sequence[tuple[Image8, Image8]]) -> Footage:
    """Pairs as `calibration.clips.matched_pairs` reads them, the infrared resized to the visible picture."""
    sized = [
        (np.asarray(cv2.resize(ir, (vis.shape[1], vis.shape[0])), np.uint8), vis)
        if ir.shape != vis.shape
        else (ir, vis)
        for ir, vis in pairs
    ]
    return Footage(name=name, pairs=sized)


def rendered_footage(seed: int, *, frames: int) -> Footage:
    """A rendered street with people and cars, 640 x 480, camera still, truth known."""
    still = MotionOptions(pan_deg=0, tilt_deg=0, roll_deg=0, sway_m=0)
    scene = Scene(SceneOptions(seed=seed, motion=still))
    pairs, truth = [], []
    for number in range(frames):
        t = number / RENDERED_FPS
        vis = luma(scene.render_visible(t))
        ir = cv2.resize(scene.infrared_view(scene.render_infrared(t)), (vis.shape[1], vis.shape[0]))
        pairs.append((np.asarray(ir, np.uint8), vis))
        moment = scene.truth(t)
        every = np.s_[PITCH // 2 :: PITCH, PITCH // 2 :: PITCH]
        truth.append((moment.displacement[every], moment.valid[every] > 0))
    return Footage(name=f"rendered-{seed}", pairs=pairs, truth=truth)


class Added:
    """A known deformation on top of a clip, standing still or growing.

    Args:
        shape: of the pictures. seed: draws the deformation. frames: length of the clip.
    """

    def __init__(self, shape: tuple[int, int], *, seed: int, drifting: bool, frames: int) -> None:
        rng = np.random.default_rng([seed, 1620])
        low, high = (length * max(shape) / 640 for length in LENGTH_PX)
        while True:
            self._field = random_field(shape, rng, RIG)
            self.length = float(np.linalg.norm(self._field, axis=-1).mean())
            if low < self.length < high:
                break
        self._grid, self._last = pixel_grid(shape), max(frames - 1, 1)
        self._shares = np.linspace(*DRIFT, ANCHORS) if drifting else np.ones(1)
        self._undone = [invert(np.float32(share) * self._field) for share in self._shares]

    def deformed(self, ir: Image8, number: int) -> tuple[Image8, Mask]:
        """The infrared of frame `number` deformed, and 255 where it holds."""
        share = np.interp(number / self._last, (0, 1), (self._shares[0], self._shares[-1]))
        at = self._grid + np.float32(share) * self._field
        seen = np.asarray(sample(np.full(ir.shape, 255, np.uint8), at, border=cv2.BORDER_CONSTANT))
        return np.asarray(sample(ir, at), np.uint8), np.where(seen == 255, 255, 0).astype(np.uint8)

    def undone(self, number: int) -> Flow:
        """The field that undoes the deformation of frame `number`, (H, W, 2)."""
        place = number / self._last * (len(self._shares) - 1)
        before = max(0, min(int(place), len(self._shares) - 2))
        after = min(before + 1, len(self._shares) - 1)
        part = place - before
        mixed = cv2.addWeighted(self._undone[before], 1 - part, self._undone[after], part, 0)
        return np.asarray(mixed, np.float32)
