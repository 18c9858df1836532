"""Two pinhole cameras on one rig, and the bend between them.

World: x right, y down, z up the street, in metres; the ground is the plane y = 0 and the visible camera
stands at (0, -CAMERA_HEIGHT_M, 0) plus its own motion. Camera: x right, y down, z forward. Pixels have
integer centres.
"""

import numpy as np
import numpy.typing as npt

from streamfuse.synth.noise import Sway, generator
from streamfuse.synth.options import MotionOptions, RigOptions

Matrix = npt.NDArray[np.float64]
Coordinates = npt.NDArray[np.float32]

RIGHT, DOWN, UP_STREET = np.eye(3)
CAMERA_HEIGHT_M = 1.9
NEAR_M = 0.8
"""Nothing closer than this is drawn."""
BEND_WAVES = 6
BEND_INVERSE_STEPS = 40
BEND_INVERSE_PX = 1e-3
"""The fixed-point inversion ends when a step moves nothing by more than this; 2 to 20 steps."""


class Camera:
    """K [R | -R c] with a size. `k`: 3x3; `r`: world to camera, 3x3; `c`: centre in the world, metres."""

    def __init__(self, k: Matrix, r: Matrix, c: Matrix, width: int, height: int) -> None:
        self.k, self.r, self.c = k, r, c
        self.width, self.height = width, height
        self._kr = k @ r
        self._k_inverse = np.linalg.inv(k)

    @property
    def focal(self) -> float:
        return float(self.k[0, 0])

    @property
    def pose(self) -> tuple[bytes, ...]:
        """Equal for cameras that take the same picture of things that stand still."""
        return (
            self.k.tobytes(),
            self.r.tobytes(),
            self.c.tobytes(),
            bytes(f"{self.width}x{self.height}", "ascii"),
        )

    def to_pixels(self, points: Matrix) -> Matrix:
        """World points (..., 3) to (x z, y z, z), z the depth in metres."""
        return np.asarray((points - self.c) @ self._kr.T)

    def plane_to_pixels(self, origin: Matrix, u: Matrix, v: Matrix) -> Matrix:
        """Homography from plane coordinates (metres along u, v) to pixels; third row: depth in metres."""
        return np.asarray(self._kr @ np.array([u, v, origin - self.c]).T)

    def inverse_depth(self, origin: Matrix, u: Matrix, v: Matrix) -> Matrix:
        """(a, b, c) with 1 / depth = a x + b y + c at pixel (x, y), for points of planes; (..., 3) each."""
        normal = np.cross(u, v)
        distance = ((origin - self.c) * normal).sum(-1, keepdims=True)
        # A plane seen edge on covers no pixel.
        inverse = np.where(np.abs(distance) < 1e-12, 0.0, normal / np.where(distance == 0, 1.0, distance))
        return np.asarray(inverse @ self.r.T @ self._k_inverse)

    def scaled(self, factor: float, margin: int = 0) -> "Camera":
        """The same camera with `factor` times the pixels, and a margin of such pixels on each side."""
        k = self.k.copy()
        k[:2] *= factor
        k[:2, 2] += 0.5 * (factor - 1) + margin
        size = (round(self.width * factor) + 2 * margin, round(self.height * factor) + 2 * margin)
        return Camera(k, self.r, self.c, *size)


def rotation(pan: float, tilt: float, roll: float) -> Matrix:
    """World to camera for a camera turned right by pan, up by tilt, clockwise by roll (radians)."""
    cp, sp, ct, st, cr, sr = np.cos(pan), np.sin(pan), np.cos(tilt), np.sin(tilt), np.cos(roll), np.sin(roll)
    yaw = np.array([[cp, 0, -sp], [0, 1, 0], [sp, 0, cp]])
    pitch = np.array([[1, 0, 0], [0, ct, st], [0, -st, ct]])
    spin = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    return np.asarray(spin @ pitch @ yaw)


class Bend:
    """Smooth, invertible displacement of infrared pixels: random long waves plus radial distortion.

    An ideal pinhole pixel x is imaged at x + bend(x). Units: infrared pixels.
    """

    def __init__(self, options: RigOptions, seed: int, focal: float, focal_vis: float) -> None:
        rng = generator(seed, "bend")
        self._k1 = options.ir_distortion
        self._focal = focal
        self._centre = ((options.ir_width - 1) / 2, (options.ir_height - 1) / 2)
        # Wavelengths of 0.6 to 1.6 picture widths: what mounts and lenses do, not what ripples do.
        wavelength = options.ir_width * rng.uniform(0.6, 1.6, BEND_WAVES)
        angle = rng.uniform(0, 2 * np.pi, BEND_WAVES)
        wave = 2 * np.pi / wavelength
        self._waves = np.stack([wave * np.cos(angle), wave * np.sin(angle)], 1).astype(np.float32)
        self._phases = rng.uniform(0, 2 * np.pi, BEND_WAVES).astype(np.float32)
        self._amplitudes = rng.standard_normal((BEND_WAVES, 2)).astype(np.float32)
        grid = np.stack(
            np.meshgrid(
                np.linspace(0, options.ir_width - 1, 48, dtype=np.float32),
                np.linspace(0, options.ir_height - 1, 36, dtype=np.float32),
            ),
            axis=-1,
        )
        mean_length = float(np.linalg.norm(self._elastic(grid), axis=-1).mean())
        self._amplitudes *= options.elastic_px * (focal / focal_vis) / max(mean_length, 1e-9)

    def _elastic(self, points: Coordinates) -> Coordinates:
        out = np.zeros_like(points)
        for (wx, wy), phase, amplitude in zip(self._waves, self._phases, self._amplitudes, strict=True):
            out += np.sin(points[..., 0] * wx + points[..., 1] * wy + phase)[..., None] * amplitude
        return out

    def __call__(self, points: Coordinates) -> Coordinates:
        """Displacement at ideal pixels, float32 (..., 2)."""
        out = self._elastic(points)
        if self._k1:
            arm = points - np.array(self._centre, np.float32)
            radius2 = np.square(arm / np.float32(self._focal)).sum(-1, keepdims=True)
            out += arm * (np.float32(self._k1) * radius2)
        return out

    def inverse(self, points: Coordinates) -> Coordinates:
        """Ideal pixels that are imaged at `points`, float32 (..., 2)."""
        ideal = points - self(points)
        for _ in range(BEND_INVERSE_STEPS):
            better = points - self(ideal)
            moved = float(np.abs(better - ideal).max())
            ideal = better
            if moved < BEND_INVERSE_PX:
                break
        return ideal


class Rig:
    """Where both cameras are at a time."""

    def __init__(self, options: RigOptions, motion: MotionOptions, seed: int) -> None:
        self.options = options
        rng = generator(seed, "rig motion")
        degrees = (motion.pan_deg, motion.tilt_deg, motion.roll_deg)
        self._turns = [Sway(rng, amplitude=float(np.deg2rad(d)), hz=motion.sway_hz) for d in degrees]
        self._sways = [Sway(rng, amplitude=motion.sway_m, hz=motion.sway_hz * 1.3) for _ in range(2)]
        self._speed = motion.speed_m_s
        tangent = float(np.tan(np.deg2rad(options.vis_fov_deg) / 2))
        self._k_vis = _intrinsics(options.vis_width, options.vis_height, tangent)
        self._k_ir = _intrinsics(options.ir_width, options.ir_height, tangent * options.fov_ratio)
        self.bend = Bend(options, seed, float(self._k_ir[0, 0]), float(self._k_vis[0, 0]))

    def travelled(self, t_s: float) -> float:
        """Metres driven up the street."""
        return self._speed * t_s

    def visible(self, t_s: float) -> Camera:
        """The visible camera, where z = 0 moves along with the rig."""
        # Looking down by one degree: the street matters more than the sky.
        pan, tilt, roll = (turn(t_s) for turn in self._turns)
        centre = np.array([self._sways[0](t_s), self._sways[1](t_s) - CAMERA_HEIGHT_M, 0.0])
        size = (self.options.vis_width, self.options.vis_height)
        return Camera(self._k_vis, rotation(pan, tilt - np.deg2rad(1.0), roll), centre, *size)

    def infrared(self, t_s: float) -> Camera:
        """The infrared camera as an ideal pinhole, before `bend`."""
        o = self.options
        vis = self.visible(t_s)
        shift = np.array(o.shift_px) + np.array(o.drift_px_per_s) * t_s
        if o.knock_at_s is not None and t_s >= o.knock_at_s:
            shift = shift + np.array(o.knock_px)
        # A camera that is turned right sees everything further left: `shift_px` is where its picture goes.
        pan, tilt = -np.arctan(shift[0] / vis.focal), np.arctan(shift[1] / vis.focal)
        turn = rotation(float(pan), float(tilt), float(np.deg2rad(o.roll_deg)))
        centre = vis.c + vis.r.T @ np.array([o.baseline_m[0], o.baseline_m[1], 0.0])
        return Camera(self._k_ir, turn @ vis.r, centre, o.ir_width, o.ir_height)

    def homography(self, t_s: float, *, depth_m: float = np.inf) -> Matrix:
        """Visible pixels to ideal infrared pixels for points at one depth, 3x3, before `bend`."""
        vis, ir = self.visible(t_s), self.infrared(t_s)
        offset = ir.r @ (vis.c - ir.c) / depth_m
        relative = ir.r @ vis.r.T + np.outer(offset, [0.0, 0.0, 1.0])
        h = ir.k @ relative @ np.linalg.inv(vis.k)
        return np.asarray(h / h[2, 2])


def _intrinsics(width: int, height: int, tangent: float) -> Matrix:
    """Square pixels, principal point in the middle, `tangent` of half the horizontal field of view."""
    focal = width / 2 / tangent
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
