"""People: a walking skeleton under clothes, drawn as a cut-out that faces the camera.

The skeleton is three-dimensional, so that a person seen from the side strides and one seen from behind
sways; joints are placed by distance walked, so that feet do not slide.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.synth.canvas import Sprite, texture
from streamfuse.synth.geometry import Camera
from streamfuse.synth.light import Light
from streamfuse.synth.noise import Field2D, spectrum

HALF_WIDTH_M = 0.75
HEAD_ROOM_M = 0.15
MAX_PPM = 120.0
MIN_PPM = 24.0
"""Texels a metre of the finished cut-out: what the camera resolves, within reason."""
STRIDE_OF_HEIGHT = 0.80
"""Metres walked in one cycle of both legs, as a share of body height."""
_SWING = 0.42
"""Largest thigh angle at walking pace, radians: gives the stride above with legs of 0.49 body heights."""

_TURN = np.linspace(0, 2 * np.pi, 12, endpoint=False)
_RING = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)

HEAD, HAIR, TORSO, ARM, LEG, SHOE, HAND, BAG = range(1, 9)
_SKIN = [(206, 160, 132), (150, 106, 78), (224, 184, 156), (110, 76, 58)]
_CLOTH = [
    (46, 56, 84),
    (120, 38, 40),
    (196, 186, 168),
    (58, 82, 66),
    (34, 34, 38),
    (150, 126, 86),
    (92, 110, 140),
    (176, 92, 48),
]
_TROUSERS = [(38, 42, 58), (60, 56, 52), (30, 30, 34), (104, 96, 84), (64, 78, 104)]
_HAIR = [(40, 30, 24), (92, 66, 40), (140, 132, 124), (24, 22, 24)]


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a person is: feet at (x, z) metres, facing `heading` (0 up the street, to the right positive)."""

    x: float
    z: float
    heading: float
    walked_m: float
    pace: float
    """0 standing, 1 walking: scales the swing of the limbs."""


class Person:
    """One person's build, clothes and temperatures."""

    def __init__(self, rng: np.random.Generator, light: Light) -> None:
        self.height = float(np.clip(rng.normal(1.72, 0.09), 1.5, 1.95))
        self._light = light
        self._girth = rng.uniform(0.92, 1.15)
        self._phase = rng.uniform(0, 2 * np.pi)
        self._bag = rng.random() < 0.35
        skin = np.array(_SKIN[rng.integers(len(_SKIN))], np.float32)
        jacket = np.array(_CLOTH[rng.integers(len(_CLOTH))], np.float32)
        trousers = np.array(_TROUSERS[rng.integers(len(_TROUSERS))], np.float32)
        bag = np.array(_CLOTH[rng.integers(len(_CLOTH))], np.float32) * 0.7
        hair = np.array(_HAIR[rng.integers(len(_HAIR))], np.float32)
        shoe = np.array([36, 34, 34], np.float32)
        self._rgb = np.stack([skin * 0, skin, hair, jacket, jacket * 0.96, trousers, shoe, skin, bag])
        # Heat gets out where clothes are thin: face and hands most, then legs; a padded jacket least.
        coat = rng.uniform(20.0, 25.5)
        legs = coat + rng.uniform(0.5, 2.5)
        self._celsius = np.array([0, 33.0, 27.0, coat, coat - 1.2, legs, 18.5, 30.0, 15.5], np.float32)
        self._folds = spectrum(rng, 280, 192, slope=0.9)

    def sprite(self, pose: Pose, camera: Camera, sunlit: float) -> Sprite:
        """The cut-out as this camera needs it. sunlit: 0 in shadow, 1 in the sun."""
        distance = max(1.0, pose.z - float(camera.c[2]))
        ppm = float(np.clip(camera.focal / distance, MIN_PPM, MAX_PPM))
        index = self._outline(pose, 2 * ppm)
        rgb, celsius, alpha = self._dress(index, 2 * ppm, sunlit)
        half = (index.shape[1] // 2, index.shape[0] // 2)
        rgb, celsius, alpha = (
            np.asarray(cv2.resize(plane, half, interpolation=cv2.INTER_AREA), np.float32)
            for plane in (rgb, celsius, alpha)
        )
        top = index.shape[0] / (2 * ppm)
        covered = np.maximum(alpha, 1e-3)
        made = texture(rgb / covered[..., None], celsius / covered, alpha, ppm=ppm, mips=1)
        origin = np.array([pose.x - HALF_WIDTH_M, -top, pose.z])
        across, down = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
        return Sprite(made, origin, across, down, moving=True, person=True)

    def _outline(self, pose: Pose, ppm: float) -> npt.NDArray[np.uint8]:
        """Body part number per pixel, uint8 (h, w), far parts first."""
        h = self.height
        width = 2 * round(HALF_WIDTH_M * ppm)
        height = 2 * round((h + HEAD_ROOM_M) * ppm / 2)
        canvas = np.zeros((height, width), np.uint8)
        joints = self._joints(pose)
        lift = min(float(j[1]) for name, j in joints.items() if name.startswith(("heel", "toe")))

        def at(name: str) -> tuple[npt.NDArray[np.float64], float]:
            x, y, z = joints[name]
            return np.array([width / 2 + x * ppm, height - (y - lift + 0.03) * ppm]), z

        g = self._girth * h / 1.75
        limbs = []
        for s in ("l", "r"):
            limbs += [
                (LEG, "hip" + s, "knee" + s, 0.088 * g, 0.062 * g),
                (LEG, "knee" + s, "heel" + s, 0.062 * g, 0.045 * g),
                (SHOE, "heel" + s, "toe" + s, 0.045 * g, 0.035 * g),
                (ARM, "shoulder" + s, "elbow" + s, 0.062 * g, 0.05 * g),
                (ARM, "elbow" + s, "wrist" + s, 0.05 * g, 0.036 * g),
                (HAND, "wrist" + s, "hand" + s, 0.036 * g, 0.034 * g),
            ]
        # A jacket hangs over the hips, even over the leg that is in front.
        under = {LEG: 0.5}
        parts = [
            (at(a)[1] + at(b)[1] + under.get(part, 0), part, a, b, ra, rb) for part, a, b, ra, rb in limbs
        ]
        middle = at("hips")[1] + at("neck")[1]
        parts.append((middle, TORSO, "", "", 0, 0))
        parts.append((middle - 1e-3, HEAD, "neck", "crown", 0.05 * g, 0.08 * g))
        if self._bag:
            parts.append((2 * at("bag")[1], BAG, "bag", "bagtop", 0.15, 0.13))
        for _, part, a, b, ra, rb in sorted(parts, key=lambda p: -p[0]):
            if part == TORSO:
                shoulders = [at("shoulderl")[0], at("shoulderr")[0]]
                hips = [at("hipl")[0], at("hipr")[0]]
                circles = [(p, 0.055 * g) for p in shoulders] + [(p, 0.1 * g) for p in hips]
                circles.append((at("neck")[0], 0.06 * g))
                circles.append((at("chest")[0], 0.14 * g))
                _hull(canvas, circles, ppm, part)
            elif part == HEAD:
                neck, crown = at("neck")[0], at("crown")[0]
                _hull(canvas, [(neck, 0.05 * g), (crown, 0.055 * g)], ppm, HEAD)
                axes = (round(0.078 * g * ppm), round(0.105 * g * ppm))
                centre = np.rint(crown).astype(int).tolist()
                cv2.ellipse(canvas, centre, axes, 0, 0, 360, HEAD, -1)
                # Seen from behind the hair covers the head, from the front only its top.
                away = np.cos(pose.heading)
                cv2.ellipse(
                    canvas, centre, axes, 0, 180 - 50 * max(0, away), 360 + 50 * max(0, away), HAIR, -1
                )
            else:
                _hull(canvas, [(at(a)[0], ra), (at(b)[0], rb)], ppm, part)
        return canvas

    def _joints(self, pose: Pose) -> dict[str, tuple[float, float, float]]:
        """Metres: x right, y up from the hips' ground, z away from the camera."""
        h = self.height
        phase = self._phase + 2 * np.pi * pose.walked_m / (STRIDE_OF_HEIGHT * h)
        forward = np.array([np.sin(pose.heading), 0, np.cos(pose.heading)])
        right = np.array([np.cos(pose.heading), 0, -np.sin(pose.heading)])
        up = np.array([0, 1.0, 0])
        lean = 0.03 * pose.pace
        hips = 0.53 * h * up
        neck = hips + 0.31 * h * (up + lean * forward)
        joints = {"hips": hips, "neck": neck, "chest": hips + 0.2 * h * up + 0.02 * forward}
        joints["crown"] = neck + 0.105 * h * up + 0.02 * forward
        joints["bag"] = hips + 0.12 * h * up - 0.16 * forward
        joints["bagtop"] = hips + 0.25 * h * up - 0.16 * forward
        for name, side, angle in (("l", -1, phase), ("r", 1, phase + np.pi)):
            swing = _SWING * pose.pace * np.sin(angle) + 0.03
            bend = 0.08 + pose.pace * 0.85 * max(0.0, np.cos(angle - 0.35)) ** 1.5
            thigh = -np.cos(swing) * up + np.sin(swing) * forward
            shin = -np.cos(swing - bend) * up + np.sin(swing - bend) * forward
            hip = hips + side * 0.052 * h * right
            knee = hip + 0.245 * h * thigh
            heel = knee + 0.245 * h * shin
            point = swing - 0.6 * bend
            toe = heel + 0.1 * h * (np.cos(point) * forward + np.sin(point) * up) - 0.012 * h * up
            shoulder = neck - 0.03 * h * up + side * 0.100 * h * right
            arm = -0.75 * _SWING * pose.pace * np.sin(angle)
            elbow = shoulder + 0.165 * h * (-np.cos(arm) * up + np.sin(arm) * forward + 0.12 * side * right)
            fold = arm + 0.2 + 0.35 * pose.pace
            wrist = elbow + 0.15 * h * (-np.cos(fold) * up + np.sin(fold) * forward)
            hand = wrist + 0.03 * h * (-np.cos(fold) * up + np.sin(fold) * forward)
            for joint, place in (
                ("hip", hip),
                ("knee", knee),
                ("heel", heel),
                ("toe", toe),
                ("shoulder", shoulder),
                ("elbow", elbow),
                ("wrist", wrist),
                ("hand", hand),
            ):
                joints[joint + name] = place
        return {name: (float(p[0]), float(p[1]), float(p[2])) for name, p in joints.items()}

    def _dress(
        self, index: npt.NDArray[np.uint8], ppm: float, sunlit: float
    ) -> tuple[npt.NDArray[np.float32], Field2D, Field2D]:
        """Colour and heat times cover, and cover, float32."""
        height, width = index.shape
        mask = (index > 0).astype(np.uint8)
        cover = mask.astype(np.float32)
        # Round bodies: depth below the outline stands in for the slope of the surface.
        depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
        roundness = np.sqrt(np.minimum(depth / (0.11 * ppm), 1.0))
        slope = cv2.Sobel(cv2.blur(cover, (9, 9)), cv2.CV_32F, 1, 0)
        folds = cv2.resize(self._folds, (width, height), interpolation=cv2.INTER_LINEAR)
        shade = 0.72 + 0.30 * roundness + 0.07 * folds
        sun = np.clip(0.62 + 1.6 * slope, 0, 1.5) * sunlit
        # Where one part of the body lies on another there is a crease.
        crease = cv2.morphologyEx(index, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        shade[crease] *= 0.72
        tone = shade[..., None] * (self._light.ambient + sun[..., None] * self._light.sun * 0.75)
        if self._light.lamps:
            tone = tone + 0.14 * shade[..., None]
        rgb = self._rgb[index].astype(np.float32) * tone * cover[..., None]
        # Skin and cloth seen at a slant are dimmer, and conduction blurs the seams.
        celsius = self._celsius[index] * cover
        sigma = 0.022 * ppm
        spread = cv2.GaussianBlur(cover, (0, 0), sigma)
        celsius = cv2.GaussianBlur(celsius, (0, 0), sigma) / np.maximum(spread, 1e-3)
        celsius += (roundness - 1.0) * 3.0 + 0.55 * folds - 0.9 * crease
        return rgb, np.asarray(celsius * cover, np.float32), cover


def _hull(
    canvas: npt.NDArray[np.uint8], circles: list[tuple[npt.NDArray[np.float64], float]], ppm: float, part: int
) -> None:
    """Fill the convex hull of circles (centre in pixels, radius in metres)."""
    points = np.concatenate([centre + _RING * (radius * ppm) for centre, radius in circles])
    hull = cv2.convexHull(np.rint(points * 16).astype(np.int32))
    cv2.fillConvexPoly(canvas, hull, part, cv2.LINE_8, 4)
