"""Painting planes into a camera's picture, far to near: visible light, heat, or which surface is where.

A `Sprite` is a flat textured thing in the world, a `Solid` a faceted one. Every canvas takes both, so the
two cameras and the truth are drawn by the same geometry from the same list.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.synth.geometry import Camera, Matrix
from streamfuse.synth.placement import Placed, place, rasterise

Rgba = npt.NDArray[np.uint8]
Heat = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Texture:
    """A flat material with its mip levels (each half the one before).

    rgba: uint8 (h, w, 4), colour multiplied by alpha. heat: float32 (h, w, 2), apparent temperature in
    degrees Celsius multiplied by alpha, and alpha 0..1. ppm: pixels per unit of length of level 0, along
    rows and columns alike. opaque: alpha is one everywhere and no edge is to be smoothed.
    """

    rgba: tuple[Rgba, ...]
    heat: tuple[Heat, ...]
    ppm: float
    opaque: bool = False


def texture(
    rgb: npt.NDArray[Any],
    celsius: npt.NDArray[Any],
    alpha: npt.NDArray[Any] | None,
    *,
    ppm: float,
    mips: int = 5,
) -> Texture:
    """Build a texture: rgb (h, w, 3) 0..255, celsius (h, w), alpha (h, w) 0..1 or None when opaque."""
    cover = np.ones(celsius.shape, np.float32) if alpha is None else np.asarray(alpha, np.float32)
    colour = np.clip(rgb, 0, 255).astype(np.float32) * cover[..., None]
    rgba = np.dstack([colour, cover * np.float32(255)])
    rgba_levels = [np.rint(rgba).astype(np.uint8)]
    heat_levels = [np.dstack([celsius.astype(np.float32) * cover, cover])]
    while len(rgba_levels) < mips and min(rgba_levels[-1].shape[:2]) >= 8:
        rgba_levels.append(_halved(rgba_levels[-1]))
        heat_levels.append(_halved(heat_levels[-1]))
    return Texture(tuple(rgba_levels), tuple(heat_levels), ppm, alpha is None)


def _halved(level: npt.NDArray[Any]) -> npt.NDArray[Any]:
    height, width = level.shape[0] // 2, level.shape[1] // 2
    return np.asarray(
        cv2.resize(level[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
    )


@dataclass(frozen=True, slots=True)
class Sprite:
    """A texture in the world: its top left corner at `origin`, columns along `u`, rows along `v`.

    u, v: world metres per unit of texture length; unit vectors unless the texture is stretched.
    ghost: smoke, shadow, glare: seen, but not a surface that truth speaks of.
    visible_only: heat does not know it.
    """

    texture: Texture
    origin: Matrix
    u: Matrix
    v: Matrix
    moving: bool = False
    person: bool = False
    ghost: bool = False
    visible_only: bool = False

    def place(self, camera: Camera) -> Placed | None:
        """Where it falls on a picture; None when it is out of sight."""
        sizes = [level.shape[:2] for level in self.texture.rgba]
        return place(camera.plane_to_pixels(self.origin, self.u, self.v), sizes, self.texture.ppm, camera)


@dataclass(frozen=True, slots=True)
class Solid:
    """Convex facets in world metres.

    points: (n, 3). faces: vertex indices, right-handed around the outward normal; at most 255.
    triples: (faces, 3), three corners of each face that span its plane, same sense. rgb: uint8 (faces, 3).
    celsius: float32 (faces,). bias: metres by which a face counts as nearer in the order of drawing: a
    decal lies in front of what it is on.
    """

    points: Matrix
    faces: list[npt.NDArray[np.int64]]
    triples: npt.NDArray[np.int64]
    rgb: npt.NDArray[np.uint8]
    celsius: npt.NDArray[np.float32]
    bias: Matrix
    moving: bool = False

    def rasterise(self, camera: Camera) -> tuple[npt.NDArray[np.uint8], tuple[int, int, int, int]] | None:
        """(facet number + 1 on a supersampled grid, 0 where there is none; box of pixels); None: unseen."""
        return rasterise(self.points, self.faces, self.triples, self.bias, camera)


Item = Sprite | Solid


class VisibleCanvas:
    """Colour as the visible camera's lens delivers it. image: uint8 (H, W, 4)."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.image = np.zeros((camera.height, camera.width, 4), np.uint8)

    def draw(self, item: Item) -> None:
        if isinstance(item, Solid):
            drawn = item.rasterise(self.camera)
            if drawn is not None:
                index, box = drawn
                table = np.zeros((256, 4), np.uint8)
                table[1 : len(item.faces) + 1, :3] = item.rgb
                table[1 : len(item.faces) + 1, 3] = 255
                self._over(_shrunk(table[index], box), box)
            return
        placed = item.place(self.camera)
        if placed is None:
            return
        source = item.texture.rgba[placed.level][placed.rows, placed.columns]
        x0, y0, x1, y1 = placed.box
        if item.texture.opaque:
            roi = self.image[y0:y1, x0:x1]
            cv2.warpPerspective(
                source, placed.to_patch, placed.size, dst=roi, borderMode=cv2.BORDER_TRANSPARENT
            )
        else:
            self._over(cv2.warpPerspective(source, placed.to_patch, placed.size), placed.box)

    def _over(self, patch: npt.NDArray[Any], box: tuple[int, int, int, int]) -> None:
        roi = self.image[box[1] : box[3], box[0] : box[2]]
        through = cv2.cvtColor(cv2.bitwise_not(cv2.extractChannel(patch, 3)), cv2.COLOR_GRAY2RGBA)
        roi[:] = cv2.add(patch, cv2.multiply(roi, through, scale=1 / 255))


class HeatCanvas:
    """Apparent temperature as the infrared lens delivers it. image: degrees Celsius, float32 (H, W)."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.image = np.zeros((camera.height, camera.width), np.float32)

    def draw(self, item: Item) -> None:
        if isinstance(item, Solid):
            drawn = item.rasterise(self.camera)
            if drawn is not None:
                index, box = drawn
                table = np.zeros((256, 2), np.float32)
                table[1 : len(item.faces) + 1, 0] = item.celsius
                table[1 : len(item.faces) + 1, 1] = 1.0
                self._over(_shrunk(table[index], box), box)
            return
        placed = None if item.visible_only else item.place(self.camera)
        if placed is not None:
            source = item.texture.heat[placed.level][placed.rows, placed.columns]
            self._over(cv2.warpPerspective(source, placed.to_patch, placed.size), placed.box)

    def _over(self, patch: npt.NDArray[Any], box: tuple[int, int, int, int]) -> None:
        roi = self.image[box[1] : box[3], box[0] : box[2]]
        heat, cover = cv2.split(patch)
        roi[:] = heat + roi * (1 - cover)


class LabelCanvas:
    """Which surface is seen at each pixel, and where its plane lies.

    labels: int32 (H, W), index into the planes and flags; 0 is infinitely far away.
    """

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.labels: Labels = np.zeros((camera.height, camera.width), np.int32)
        self._planes: list[Matrix] = [np.zeros(3)]
        self._moving = [False]
        self._person = [False]

    def draw(self, item: Item) -> None:
        if isinstance(item, Solid):
            self._draw_solid(item)
            return
        placed = None if item.ghost else item.place(self.camera)
        if placed is None:
            return
        x0, y0, x1, y1 = placed.box
        source = cv2.extractChannel(item.texture.rgba[placed.level], 3)[placed.rows, placed.columns]
        alpha = np.asarray(cv2.warpPerspective(source, placed.to_patch, placed.size))
        self.labels[y0:y1, x0:x1][alpha > 127] = len(self._planes)
        self._planes.append(self.camera.inverse_depth(item.origin, item.u, item.v))
        self._moving.append(item.moving)
        self._person.append(item.person)

    def _draw_solid(self, solid: Solid) -> None:
        drawn = solid.rasterise(self.camera)
        if drawn is None:
            return
        index, (x0, y0, x1, y1) = drawn
        step = index.shape[1] // (x1 - x0)
        centre = index[step // 2 :: step, step // 2 :: step].astype(np.int32)
        self.labels[y0:y1, x0:x1][centre > 0] = centre[centre > 0] + (len(self._planes) - 1)
        corners = solid.points[solid.triples]
        a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
        self._planes += list(self.camera.inverse_depth(a, b - a, c - a))
        self._moving += [solid.moving] * len(corners)
        self._person += [False] * len(corners)

    def inverse_depth(self) -> npt.NDArray[np.float32]:
        """1 / depth at every pixel, float32 (H, W), 1/m."""
        planes = np.array(self._planes, np.float32)[self.labels]
        x = np.arange(self.camera.width, dtype=np.float32)[None, :]
        y = np.arange(self.camera.height, dtype=np.float32)[:, None]
        return np.asarray(planes[..., 0] * x + planes[..., 1] * y + planes[..., 2], np.float32)

    def moving(self) -> npt.NDArray[np.uint8]:
        """255 on things that move through the scene, uint8 (H, W)."""
        return (np.array(self._moving, np.uint8) * np.uint8(255))[self.labels]

    def person(self) -> npt.NDArray[np.uint8]:
        """255 on people, uint8 (H, W)."""
        return (np.array(self._person, np.uint8) * np.uint8(255))[self.labels]


def _shrunk(patch: npt.NDArray[Any], box: tuple[int, int, int, int]) -> npt.NDArray[Any]:
    """A supersampled patch averaged down to its box of pixels."""
    size = (box[2] - box[0], box[3] - box[1])
    return np.asarray(cv2.resize(patch, size, interpolation=cv2.INTER_AREA))
