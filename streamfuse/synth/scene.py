"""A street filmed by two cameras: any frame at any time, and where everything truly is."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import cv2
import numpy as np

from streamfuse.clock import NS_PER_S
from streamfuse.frame import Flow, Image8, Image16, Mask
from streamfuse.fusion.colour import luma
from streamfuse.synth.canvas import HeatCanvas, LabelCanvas, VisibleCanvas
from streamfuse.synth.geometry import Camera, Matrix, Rig
from streamfuse.synth.options import RigOptions, SceneOptions
from streamfuse.synth.sensors import InfraredSensor, View, VisibleSensor
from streamfuse.synth.street import Street

_C = TypeVar("_C", VisibleCanvas, HeatCanvas)

KELVIN_PER_GREY = 0.1
"""Of a rig that films luma: grey levels then span about as many counts as a warm street does."""
SAME_SURFACE = 0.03
"""Two inverse depths (1/m) this close are one surface: facets and leaves differ by less, lanes by more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Where the infrared camera sees what the visible one sees, when both expose at the same time.

    displacement: float32 (H, W, 2), (dx, dy) in visible pixels, visible geometry. With `ir_full` =
    cv2.resize(ir, (vis width, vis height)) (half-pixel centres, as cv2 does), ir_full(p + displacement(p))
    shows the surface that vis(p) shows.
    ir_coordinates: float32 (H, W, 2), the same places in raw infrared pixels, integer centres.
    valid: 255 where that place is inside the infrared picture and the surface is not hidden there.
    covered: 255 where that place is inside the infrared picture.
    moving, person: 255 on moving things (cars and people), on people.
    inverse_depth: float32 (H, W), 1/m along the visible axis; smoke is looked through.
    """

    displacement: Flow
    ir_coordinates: Flow
    valid: Mask
    covered: Mask
    moving: Mask
    person: Mask
    inverse_depth: Flow

    def __repr__(self) -> str:
        height, width = self.valid.shape
        return f"Truth({width}x{height})"


class Scene:
    """Frames and truth as pure functions of time. Times are true times in seconds from the scene's start.

    Use an object from one thread. The first scene of a seed takes seconds: its street is painted then.
    """

    def __init__(self, options: SceneOptions | None = None, rig: RigOptions | None = None) -> None:
        self.options = options or SceneOptions()
        self.rig_options = rig or RigOptions()
        seed, motion = self.options.seed, self.options.motion
        self.rig = Rig(self.rig_options, motion, seed)
        self._street = Street(self.options)
        self._vis_sensor = VisibleSensor(self.rig_options, seed)
        self._ir_sensor = InfraredSensor(self.rig_options, self.rig.bend, seed)
        self._still = {VisibleCanvas: _Still(), HeatCanvas: _Still()}

    def render_visible(self, t_s: float, *, noise_ns: int | None = None) -> Image8:
        """What the visible camera delivers, uint8 (H, W, 3) RGB.

        noise_ns: key of the noise, by default the time; the same key, the same noise.
        """
        light = self._light(self.rig.visible(t_s), t_s)
        return self._vis_sensor.expose(light, _key(t_s) if noise_ns is None else noise_ns)

    def render_infrared(self, t_s: float, *, noise_ns: int | None = None) -> Image16:
        """What the infrared camera delivers: counts, uint16 (H, W); hot is high."""
        s, margin = self._ir_sensor.supersample, self._ir_sensor.margin
        camera = self.rig.infrared(t_s).scaled(s, margin * s)
        if self.rig_options.film == "luma":
            celsius = luma(self._light(camera, t_s)).astype(np.float32) * np.float32(KELVIN_PER_GREY)
        else:
            celsius = self._painted(HeatCanvas(camera), t_s).image
        return self._ir_sensor.expose(celsius, _key(t_s) if noise_ns is None else noise_ns)

    @cached_property
    def infrared_view(self) -> View:
        """Counts, uint16 (H, W), to grey, uint8 (H, W): one fixed curve for the whole scene, no flicker."""
        return View(self.render_infrared(0.0))

    def truth(self, t_s: float) -> Truth:
        """Everything known about the moment `t_s`."""
        vis = self.rig.visible(t_s)
        ir = self.rig.infrared(t_s)
        seen = self._labels(vis, t_s)
        inverse_depth = seen.inverse_depth()
        ideal, ir_inverse_depth = _project(vis, ir, inverse_depth)
        imaged = ideal + self.rig.bend(ideal)
        o = self.rig_options
        x, y = imaged[..., 0], imaged[..., 1]
        covered = (x >= -0.5) & (x <= o.ir_width - 0.5) & (y >= -0.5) & (y <= o.ir_height - 0.5)
        there = self._labels(ir, t_s).inverse_depth()
        # The bend moves pixels, not rays: hiding is decided in the ideal picture.
        found = cv2.remap(
            there, ideal[..., 0], ideal[..., 1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
        )
        same = np.abs(found - ir_inverse_depth) < SAME_SURFACE
        scale = np.array([o.vis_width / o.ir_width, o.vis_height / o.ir_height], np.float32)
        rows, columns = np.mgrid[0 : o.vis_height, 0 : o.vis_width].astype(np.float32)
        displacement = (imaged + 0.5) * scale - 0.5 - np.stack([columns, rows], axis=-1)
        return Truth(
            displacement=displacement.astype(np.float32),
            ir_coordinates=imaged.astype(np.float32),
            valid=np.where(covered & same, 255, 0).astype(np.uint8),
            covered=np.where(covered, 255, 0).astype(np.uint8),
            moving=seen.moving(),
            person=seen.person(),
            inverse_depth=inverse_depth,
        )

    def displacement(self, t_s: float) -> Flow:
        """`truth(t_s).displacement`."""
        return self.truth(t_s).displacement

    def true_ir_coordinates(self, t_s: float) -> Flow:
        """`truth(t_s).ir_coordinates`."""
        return self.truth(t_s).ir_coordinates

    def homography(self, t_s: float, *, depth_m: float = float("inf")) -> Matrix:
        """Visible pixels to raw infrared pixels at one depth, 3x3, but for the bend of the optics."""
        return self.rig.homography(t_s, depth_m=depth_m)

    def _light(self, camera: Camera, t_s: float) -> Image8:
        image = self._painted(VisibleCanvas(camera), t_s).image
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGBA2RGB), np.uint8)

    def _labels(self, camera: Camera, t_s: float) -> LabelCanvas:
        canvas = LabelCanvas(camera)
        travelled = self.rig.travelled(t_s)
        for item in (*self._street.backdrop(travelled), *self._street.actors(t_s, camera, travelled)):
            canvas.draw(item)
        return canvas

    def _painted(self, canvas: _C, t_s: float) -> _C:
        """The whole picture; what stands still is painted again only when the camera has moved."""
        camera, travelled = canvas.camera, self.rig.travelled(t_s)
        still = self._still[type(canvas)]
        pose = (camera.pose, travelled)
        if still.image is not None and still.pose == pose:
            canvas.image[:] = still.image
        else:
            for item in self._street.backdrop(travelled):
                canvas.draw(item)
            still.pose, still.image = pose, canvas.image.copy()
        for item in self._street.actors(t_s, camera, travelled):
            canvas.draw(item)
        return canvas


@dataclass(slots=True)
class _Still:
    """A backdrop and the pose it was painted for."""

    pose: object = None
    image: Any = None


def _key(t_s: float) -> int:
    return round(t_s * NS_PER_S)


def _project(vis: Camera, ir: Camera, inverse_depth: Flow) -> tuple[Flow, Flow]:
    """Visible pixels at their depths into the infrared pinhole: (pixels (H, W, 2), inverse depth there)."""
    turn = ir.k @ ir.r @ vis.r.T @ np.linalg.inv(vis.k)
    shift = ir.k @ ir.r @ (vis.c - ir.c)
    x = np.arange(vis.width, dtype=np.float32)[None, :]
    y = np.arange(vis.height, dtype=np.float32)[:, None]
    px, py, pz = (turn[k, 0] * x + turn[k, 1] * y + turn[k, 2] + shift[k] * inverse_depth for k in range(3))
    return np.stack([px / pz, py / pz], axis=-1).astype(np.float32), (inverse_depth / pz).astype(np.float32)
