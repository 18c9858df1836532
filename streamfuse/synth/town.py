"""What of a street is painted once and never changes: houses, ground, sky, the looks of trees and lamps."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from streamfuse.synth import ground, nature
from streamfuse.synth.canvas import Texture
from streamfuse.synth.facades import front_height, paint_front, paint_gable
from streamfuse.synth.light import LIGHTS, Light
from streamfuse.synth.noise import Field2D, blur, generator, spectrum

GABLE_DEPTH_M = 7.0
TREE_STEP_M = 12.0
CROWNS, TRUNKS, SIGNS = 5, 3, 3
SHADOW_PPM = 9.0
TREE_SHADOW_HEIGHT_M = 4.6
"""Of the middle of a crown."""
KEPT = 3
"""Painted towns that stay in memory, some 60 MB each: painting one takes seconds."""

_kept: OrderedDict[tuple[int, str, bool], "Town"] = OrderedDict()
_painting = threading.Lock()


@dataclass(frozen=True, slots=True)
class House:
    """A front and its blind side wall, from z on."""

    z: float
    width: float
    height: float
    front: Texture
    gable: Texture


class Town:
    """One period of a street: rows of houses (-1 left, 1 right), tree places (x, z), ground and textures."""

    def __init__(self, seed: int, lighting: Literal["day", "dusk", "night"], trees: bool) -> None:
        light = LIGHTS[lighting]
        self.light = light
        self.rows = {side: _row(seed, side, light) for side in (-1, 1)}
        self.trees = _tree_places() if trees else []
        self._shadow = _shadow_map(seed, self.rows[-1], self.trees) if lighting == "day" else None
        self.ground = ground.paint_ground(
            generator(seed, "ground"), light=light, shadow=self._shadow, tree_pits=self.trees
        )
        self.sky = nature.paint_sky(generator(seed, "sky"), light)
        self.backdrop = nature.paint_backdrop(generator(seed, "backdrop"), light)
        self.crowns = [
            nature.paint_crown(generator(seed, "crown", k), light) for k in range(CROWNS if trees else 0)
        ]
        self.trunks = [
            nature.paint_trunk(generator(seed, "trunk", k), light) for k in range(TRUNKS if trees else 0)
        ]
        self.signs = [nature.paint_sign(generator(seed, "sign", k), light) for k in range(SIGNS)]
        self.lamp = nature.paint_lamp(light)
        self.lamp_mirrored = _mirrored(self.lamp)
        self.halo = nature.paint_halo()

    def sunlit(self, x: float, z: float) -> float:
        """How much of the sun reaches the ground at a place of the repeating street, 0..1."""
        if self._shadow is None:
            return 0.0
        height, width = self._shadow.shape
        row = int(z % ground.PERIOD_M * SHADOW_PPM)
        column = int((x - ground.LEFT_M + ground.EDGE_M) * SHADOW_PPM)
        return 1.0 - float(self._shadow[min(row, height - 1), min(max(column, 0), width - 1)])


def town(seed: int, lighting: Literal["day", "dusk", "night"], trees: bool) -> Town:
    """The town of these options, painted now or before. From any thread."""
    key = (seed, lighting, trees)
    with _painting:
        if key not in _kept:
            _kept[key] = Town(seed, lighting, trees)
        _kept.move_to_end(key)
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
        return _kept[key]


def _row(seed: int, side: int, light: Light) -> list[House]:
    """Houses of one side for one period."""
    rng = generator(seed, "row", side)
    widths = rng.uniform(8.0, 15.0, 8)
    widths *= ground.PERIOD_M / widths.sum()
    houses, z = [], 0.0
    facing = (-float(side), 0.0, 0.0)
    for k, width in enumerate(widths):
        floors = int(rng.integers(2, 5))
        paint = generator(seed, "house", side, k)
        front = paint_front(paint, width_m=float(width), floors=floors, light=light, normal=facing)
        gable = paint_gable(paint, width_m=GABLE_DEPTH_M, floors=floors, light=light, normal=(0.0, 0.0, -1.0))
        houses.append(House(z, float(width), front_height(floors), front, gable))
        z += float(width)
    return houses


def _tree_places() -> list[tuple[float, float]]:
    """(x, z) of the trees of one period: between the lamps, one side shifted against the other."""
    zs = np.arange(6.0, ground.PERIOD_M, TREE_STEP_M)
    left = [(ground.KERB_LEFT_M - 0.8, float(z)) for z in zs if z % 24.0 != 0]
    right = [
        (ground.KERB_RIGHT_M + 0.8, float(z)) for z in zs + 12.0 if z % 36.0 != 18.0 and z < ground.PERIOD_M
    ]
    return left + right


def _shadow_map(seed: int, row: list[House], trees: list[tuple[float, float]]) -> Field2D:
    """1 where houses or trees keep the sun off the ground; covers what `ground.ground_grid` covers."""
    z, x = ground.ground_grid(ppm=SHADOW_PPM)
    rows, columns = z.shape
    sun = LIGHTS["day"].to_sun
    cast = np.array([sun[0], sun[2]]) / sun[1]  # metres (x, z) per metre of height
    mask = np.zeros((rows, columns), np.uint8)
    for house in row:
        reach = cast * house.height
        for lap in (-ground.PERIOD_M, 0.0):
            z0, z1 = house.z + lap, house.z + house.width + lap
            foot, tip = ground.LEFT_M, ground.LEFT_M + reach[0]
            outline = np.array(
                [(-20, z0), (foot, z0), (tip, z0 + reach[1]), (tip, z1 + reach[1]), (foot, z1), (-20, z1)]
            )
            texels = (outline - (float(x[0, 0]), float(z[0, 0]))) * SHADOW_PPM
            cv2.fillPoly(mask, [np.rint(texels).astype(np.int32)], 255)
    leaves = spectrum(generator(seed, "leaf shadow"), rows, columns, slope=1.0, tileable=True)
    shade = blur(mask.astype(np.float32) / np.float32(255), 0.6)
    for tree_x, tree_z in trees:
        centre = np.array([tree_x, tree_z]) + cast * TREE_SHADOW_HEIGHT_M
        dz = (z - centre[1] + ground.PERIOD_M / 2) % ground.PERIOD_M - ground.PERIOD_M / 2
        crown = 1.0 - np.hypot((x - centre[0]) / 2.6, dz / 2.3)
        shade = np.maximum(shade, np.clip(crown * 3.0 + 0.5 * leaves + 0.1, 0, 1))
    return np.asarray(shade, np.float32)


def _mirrored(source: Texture) -> Texture:
    return Texture(
        tuple(np.ascontiguousarray(level[:, ::-1]) for level in source.rgba),
        tuple(np.ascontiguousarray(level[:, ::-1]) for level in source.heat),
        source.ppm,
    )
