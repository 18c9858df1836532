"""Who and what is on the street at a time: the list that both cameras and the truth draw from."""

from dataclasses import dataclass

import cv2
import numpy as np

from streamfuse.synth import ground, nature
from streamfuse.synth.canvas import Item, Sprite, Texture
from streamfuse.synth.facades import front_height, paint_front, paint_gable
from streamfuse.synth.geometry import CAMERA_HEIGHT_M, DOWN, RIGHT, UP_STREET, Camera, Matrix
from streamfuse.synth.light import LAMP_HEIGHT_M, LAMP_SPACING_M, LIGHTS, Light
from streamfuse.synth.noise import Field2D, generator, spectrum
from streamfuse.synth.options import SceneOptions
from streamfuse.synth.traffic import Traffic

GABLE_DEPTH_M = 7.0
TREE_STEP_M = 12.0
SIGNS_Z_M = (21.0, 38.0, 70.0)
SMOKE_SHEETS = ((4.6, 11.0, 47.0), (3.4, -9.0, 31.0))
"""Distance, amplitude of the drift (metres) and its period (seconds) of each sheet, far to near."""


@dataclass(frozen=True, slots=True)
class _House:
    """A front and its blind side wall, from z on."""

    z: float
    width: float
    height: float
    front: Texture
    gable: Texture


class Street:
    """Everything that does not depend on time is painted here, once."""

    def __init__(self, options: SceneOptions) -> None:
        self._options = options
        self._light = LIGHTS[options.light]
        seed = options.seed
        self._rows = {side: _row(seed, side, self._light) for side in (-1, 1)}
        self._trees = _tree_places() if options.trees else []
        sunny = options.light == "day"
        self._shadow = _shadow_map(seed, self._rows[-1], self._trees) if sunny else None
        self._ground = ground.paint_ground(
            generator(seed, "ground"), light=self._light, shadow=self._shadow, tree_pits=self._trees
        )
        self._sky = nature.paint_sky(generator(seed, "sky"), self._light)
        self._backdrop = nature.paint_backdrop(generator(seed, "backdrop"), self._light)
        self._crowns = [nature.paint_crown(generator(seed, "crown", k), self._light) for k in range(5)]
        self._trunks = [nature.paint_trunk(generator(seed, "trunk", k), self._light) for k in range(3)]
        self._lamp = nature.paint_lamp(self._light)
        self._lamp_left = _mirrored(self._lamp)
        self._halo = nature.paint_halo()
        self._signs = [
            nature.paint_sign(generator(seed, "sign", k), self._light) for k in range(len(SIGNS_Z_M))
        ]
        smoke = options.smoke
        self._smoke = [
            nature.paint_smoke(generator(seed, "smoke", k), self._light, smoke.density)
            for k in range(len(SMOKE_SHEETS) if smoke.density > 0 else 0)
        ]
        self._traffic = Traffic(options, self._light, self.sunlit)

    def sunlit(self, x: float, z: float) -> float:
        """How much of the sun reaches the ground at a place of the repeating street, 0..1."""
        if self._shadow is None:
            return 0.0
        height, width = self._shadow.shape
        row = int(z % ground.PERIOD_M / ground.PERIOD_M * height)
        span = ground.RIGHT_M - ground.LEFT_M + 4.0
        column = int(np.clip((x - ground.LEFT_M + 2.0) / span * width, 0, width - 1))
        return 1.0 - float(self._shadow[min(row, height - 1), column])

    def backdrop(self, travelled_m: float) -> list[Item]:
        """What stands still however long one waits, in the order of drawing."""
        width, height = nature.SKY_SIZE_M
        sky_at = np.array([-width / 2, -height * 0.93, nature.SKY_DISTANCE_M])
        items: list[Item] = [Sprite(self._sky, sky_at, RIGHT, DOWN)]
        width, height = nature.BACKDROP_SIZE_M
        items.append(Sprite(self._backdrop, np.array([-width / 2, -height + 0.5, ground.FAR_M]), RIGHT, DOWN))
        return items + [*self._ground.sprites(travelled_m), *self._fronts(travelled_m)]

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
        for side, row in self._rows.items():
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
        for k, (x, at) in enumerate(self._trees):
            for z in _laps(at, travelled_m, 130.0):
                placed += [(x, z, item) for item in self._tree(k, x, z, t_s)]
        half = LAMP_SPACING_M / 2
        for x, first, lamp in (
            (ground.KERB_LEFT_M - 0.35, 0.0, self._lamp),
            (ground.KERB_RIGHT_M + 0.35, half, self._lamp_left),
        ):
            for at in np.arange(first, ground.PERIOD_M, LAMP_SPACING_M):
                for z in _laps(float(at), travelled_m, 130.0):
                    width, height = nature.LAMP_SIZE_M
                    left = x - 0.3 if lamp is self._lamp else x - width + 0.3
                    placed.append((x, z, Sprite(lamp, np.array([left, -height, z]), RIGHT, DOWN)))
                    if self._light.lamps:
                        head = x + (1.15 if lamp is self._lamp else -1.15)
                        corner = np.array([head - 1.1, -LAMP_HEIGHT_M - 1.25, z])
                        halo = Sprite(self._halo, corner, RIGHT, DOWN, ghost=True, visible_only=True)
                        placed.append((x, z - 0.01, halo))
        for k, at in enumerate(SIGNS_Z_M):
            for z in _laps(at, travelled_m, 90.0):
                x = ground.KERB_RIGHT_M + 0.5 if k % 2 == 0 else ground.KERB_LEFT_M - 0.5
                placed.append((x, z, Sprite(self._signs[k], np.array([x - 0.4, -2.5, z]), RIGHT, DOWN)))
        return placed

    def _tree(self, k: int, x: float, z: float, t_s: float) -> list[Item]:
        """Trunk between two sheets of leaves that the wind shears."""
        width, height = nature.CROWN_SIZE_M
        wind = 0.012 * np.sin(2 * np.pi * 0.23 * t_s + 1.7 * k) + 0.006 * np.sin(2 * np.pi * 0.61 * t_s + k)
        lean = DOWN - wind * RIGHT
        lean = lean / np.linalg.norm(lean)
        foot = np.array([x, -2.6, 0.0])
        trunk_width, trunk_height = nature.TRUNK_SIZE_M
        trunk_at = np.array([x - trunk_width / 2, -trunk_height, z])
        sheets: list[Item] = []
        for depth, number, drop in ((0.8, k, 0.0), (-0.6, k + 2, 0.35)):
            corner = foot + (0, drop, z + depth) - lean * height - RIGHT * (width / 2)
            sheets.append(Sprite(self._crowns[number % len(self._crowns)], corner, RIGHT, lean))
        return [sheets[0], Sprite(self._trunks[k % len(self._trunks)], trunk_at, RIGHT, DOWN), sheets[1]]

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


def _row(seed: int, side: int, light: Light) -> list[_House]:
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
        houses.append(_House(z, float(width), front_height(floors), front, gable))
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


def _shadow_map(seed: int, row: list[_House], trees: list[tuple[float, float]]) -> Field2D:
    """1 where houses or trees keep the sun off the ground, on the texels of the ground."""
    z, x = ground.ground_grid()
    rows, columns = z.shape
    ppm = rows / ground.PERIOD_M
    sun = LIGHTS["day"].to_sun
    cast = np.array([-sun[0] / -sun[1], -sun[2] / -sun[1]])  # metres (x, z) per metre of height
    mask = np.zeros((rows, columns), np.uint8)

    def to_texels(points: Matrix) -> Matrix:
        return np.stack([(points[:, 0] - float(x[0, 0])) * ppm, (points[:, 1] - float(z[0, 0])) * ppm], 1)

    for house in row:
        reach = cast * house.height
        for lap in (-ground.PERIOD_M, 0.0):
            z0, z1 = house.z + lap, house.z + house.width + lap
            outline = np.array(
                [(-20, z0), (ground.LEFT_M, z0), (ground.LEFT_M + reach[0], z0 + reach[1]),
                 (ground.LEFT_M + reach[0], z1 + reach[1]), (ground.LEFT_M, z1), (-20, z1)]
            )  # fmt: skip
            cv2.fillPoly(mask, [np.rint(to_texels(outline)).astype(np.int32)], 255)
    leaves = spectrum(generator(seed, "leaf shadow"), rows, columns, slope=1.0, tileable=True)
    shade = cv2.GaussianBlur(mask, (0, 0), 2.0).astype(np.float32) / 255
    for tree_x, tree_z in trees:
        centre = np.array([tree_x, tree_z]) + cast * 4.6
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
