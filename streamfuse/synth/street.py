"""Who and what is on the street at a time: the list that both cameras and the truth draw from."""

import cv2
import numpy as np

from streamfuse.synth import ground, nature
from streamfuse.synth.canvas import Item, Sprite, Texture
from streamfuse.synth.geometry import CAMERA_HEIGHT_M, DOWN, RIGHT, UP_STREET, Camera
from streamfuse.synth.light import LAMP_HEIGHT_M, LAMP_SPACING_M
from streamfuse.synth.noise import generator
from streamfuse.synth.options import SceneOptions
from streamfuse.synth.town import GABLE_DEPTH_M, town
from streamfuse.synth.traffic import Traffic

SIGNS_Z_M = (21.0, 38.0, 70.0)
SMOKE_SHEETS = ((4.6, 11.0, 47.0), (3.4, -9.0, 31.0))
"""Distance, amplitude of the drift (metres) and its period (seconds) of each sheet, far to near."""


class Street:
    """A town, and who is in it."""

    def __init__(self, options: SceneOptions) -> None:
        self._options = options
        self._town = town(options.seed, options.light, options.trees)
        self._traffic = Traffic(options, self._town.light, self._town.sunlit)
        density = options.smoke.density
        self._smoke = [
            nature.paint_smoke(generator(options.seed, "smoke", k), self._town.light, density)
            for k in range(len(SMOKE_SHEETS) if density > 0 else 0)
        ]

    def backdrop(self, travelled_m: float) -> list[Item]:
        """What stands still however long one waits, in the order of drawing."""
        width, height = nature.SKY_SIZE_M
        sky_at = np.array([-width / 2, -height * 0.93, nature.SKY_DISTANCE_M])
        items: list[Item] = [Sprite(self._town.sky, sky_at, RIGHT, DOWN)]
        width, height = nature.BACKDROP_SIZE_M
        items.append(
            Sprite(self._town.backdrop, np.array([-width / 2, -height + 0.5, ground.FAR_M]), RIGHT, DOWN)
        )
        return [*items, *self._town.ground.sprites(travelled_m), *self._fronts(travelled_m)]

    def actors(self, t_s: float, camera: Camera, travelled_m: float) -> list[Item]:
        """What is drawn over the backdrop, in the order of drawing."""
        shadows, placed = self._traffic.items(t_s, camera, travelled_m)
        placed += self._furniture(t_s, travelled_m)
        # Things in different lanes never cover the camera's side of each other: lanes first, then depth.
        placed.sort(key=lambda entry: (_lane(entry[0]), -entry[1]))
        return [*shadows, *(item for _, _, item in placed), *self._smoke_sheets(t_s)]

    def _fronts(self, travelled_m: float) -> list[Item]:
        found: list[tuple[float, list[Item]]] = []
        period = ground.PERIOD_M
        for side, row in self._town.rows.items():
            x = ground.LEFT_M if side < 0 else ground.RIGHT_M
            for house in row:
                for lap in range(
                    int(travelled_m // period) - 1, int((travelled_m + ground.FAR_M) // period) + 1
                ):
                    z = house.z + lap * period - travelled_m
                    if z + house.width < 0 or z > ground.FAR_M:
                        continue
                    corner = np.array([x, -house.height, z if side < 0 else z + house.width])
                    front = Sprite(house.front, corner, -side * UP_STREET, DOWN)
                    edge = x - GABLE_DEPTH_M if side < 0 else x
                    gable = Sprite(house.gable, np.array([edge, -house.height, z]), RIGHT, DOWN)
                    found.append((z, [front, gable]))
        found.sort(key=lambda pair: -pair[0])
        return [item for _, pair in found for item in pair]

    def _furniture(self, t_s: float, travelled_m: float) -> list[tuple[float, float, Item]]:
        placed: list[tuple[float, float, Item]] = []
        for k, (x, at) in enumerate(self._town.trees):
            for z in _laps(at, travelled_m, 130.0):
                placed += [(x, z, item) for item in self._tree(k, x, z, t_s)]
        half = LAMP_SPACING_M / 2
        for x, first, lamp in (
            (ground.KERB_LEFT_M - 0.35, 0.0, self._town.lamp),
            (ground.KERB_RIGHT_M + 0.35, half, self._town.lamp_mirrored),
        ):
            for at in np.arange(first, ground.PERIOD_M, LAMP_SPACING_M):
                for z in _laps(float(at), travelled_m, 130.0):
                    width, height = nature.LAMP_SIZE_M
                    left = x - 0.3 if lamp is self._town.lamp else x - width + 0.3
                    placed.append((x, z, Sprite(lamp, np.array([left, -height, z]), RIGHT, DOWN)))
                    if self._town.light.lamps:
                        head = x + (1.15 if lamp is self._town.lamp else -1.15)
                        corner = np.array([head - 1.1, -LAMP_HEIGHT_M - 1.25, z])
                        halo = Sprite(self._town.halo, corner, RIGHT, DOWN, ghost=True, visible_only=True)
                        placed.append((x, z - 0.01, halo))
        for k, at in enumerate(SIGNS_Z_M):
            for z in _laps(at, travelled_m, 90.0):
                x = ground.KERB_RIGHT_M + 0.5 if k % 2 == 0 else ground.KERB_LEFT_M - 0.5
                placed.append((x, z, Sprite(self._town.signs[k], np.array([x - 0.4, -2.5, z]), RIGHT, DOWN)))
        return placed

    def _tree(self, k: int, x: float, z: float, t_s: float) -> list[Item]:
        """Trunk between two sheets of leaves that the wind shears."""
        width, height = nature.CROWN_SIZE_M
        gusts = 0.012 * np.sin(2 * np.pi * 0.23 * t_s + 1.7 * k) + 0.006 * np.sin(2 * np.pi * 0.61 * t_s + k)
        wind = self._options.wind * gusts
        lean = DOWN - wind * RIGHT
        lean = lean / np.linalg.norm(lean)
        foot = np.array([x, -2.6, 0.0])
        trunk_width, trunk_height = nature.TRUNK_SIZE_M
        trunk_at = np.array([x - trunk_width / 2, -trunk_height, z])
        sheets: list[Item] = []
        for depth, number, drop in ((0.8, k, 0.0), (-0.6, k + 2, 0.35)):
            corner = foot + np.array([0, drop, z + depth]) - lean * height - RIGHT * (width / 2)
            sheets.append(Sprite(self._town.crowns[number % len(self._town.crowns)], corner, RIGHT, lean))
        return [
            sheets[0],
            Sprite(self._town.trunks[k % len(self._town.trunks)], trunk_at, RIGHT, DOWN),
            sheets[1],
        ]

    def _smoke_sheets(self, t_s: float) -> list[Item]:
        share = self._smoke_share(t_s)
        if share <= 0:
            return []
        items: list[Item] = []
        for sheet, (z, amplitude, period) in zip(self._smoke, SMOKE_SHEETS, strict=True):
            thin = Texture(
                tuple(cv2.convertScaleAbs(level, alpha=share) for level in sheet.rgba),  # type: ignore[misc]
                tuple(level * np.float32(share) for level in sheet.heat),
                sheet.ppm,
            )
            height, width = (side / sheet.ppm for side in sheet.rgba[0].shape[:2])
            drift = amplitude * np.sin(2 * np.pi * t_s / period)
            corner = np.array([-width / 2 + drift, -height + 2.5 - CAMERA_HEIGHT_M / 2, z])
            items.append(Sprite(thin, corner, RIGHT, DOWN, ghost=True))
        return items

    def _smoke_share(self, t_s: float) -> float:
        smoke = self._options.smoke
        share = np.clip((t_s - smoke.start_s) / smoke.ramp_s, 0, 1)
        if smoke.stop_s is not None:
            share *= np.clip(1.0 - (t_s - smoke.stop_s) / smoke.ramp_s, 0, 1)
        return float(share) if smoke.density > 0 else 0.0


def _laps(at: float, travelled_m: float, far_m: float) -> list[float]:
    """Distances ahead at which something of the repeating street stands."""
    first = (at - travelled_m) % ground.PERIOD_M
    return [z for z in (first, first + ground.PERIOD_M) if 0.5 < z < far_m]


def _lane(x: float) -> int:
    edges = (ground.KERB_LEFT_M, ground.PARKING_M, ground.CENTRE_LINE_M, 0.3)
    return sum(x >= edge for edge in edges)
