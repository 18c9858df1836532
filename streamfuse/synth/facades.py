"""Fronts of town houses, painted twice over the same geometry: paint and glass, heat and draught.

Visible contrast comes from colour and shadow, thermal contrast from construction: glass mirrors the cold
sky, frames leak, floor slabs and radiators show, stains and lettering do not.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.synth.canvas import Texture, texture
from streamfuse.synth.light import LAMP_COLOUR, Light
from streamfuse.synth.noise import Field2D, blur, spectrum

PPM = 40.0
"""Fronts are seen at a grazing angle and from 10 m on: finer texels would never be sampled."""
FLOOR_M = 3.1
WALL_CELSIUS = 13.0

_PLASTER = [
    (214, 200, 172),
    (196, 190, 182),
    (222, 214, 200),
    (176, 188, 190),
    (206, 178, 142),
    (186, 160, 140),
]
_BRICK = [(148, 84, 66), (128, 76, 62), (160, 104, 80), (120, 96, 84)]
_SHOP = [(38, 62, 92), (112, 30, 34), (32, 74, 56), (70, 66, 62), (188, 148, 52)]


@dataclass(slots=True)
class _Wall:
    """A front being painted: rgb float32 (h, w, 3) unlit, celsius float32 (h, w), glow float32 (h, w, 3)."""

    rgb: npt.NDArray[np.float32]
    celsius: Field2D
    glow: npt.NDArray[np.float32]

    def box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[slice, slice]:
        """Rows and columns of a rectangle given in metres from the top left corner."""
        height, width = self.celsius.shape
        rows = slice(max(0, round(y0 * PPM)), min(height, round(y1 * PPM)))
        return rows, slice(max(0, round(x0 * PPM)), min(width, round(x1 * PPM)))

    def fill(self, at: tuple[slice, slice], colour: npt.ArrayLike, celsius: float | None = None) -> None:
        self.rgb[at] = np.asarray(colour, np.float32)
        if celsius is not None:
            self.celsius[at] = celsius

    def shade(self, at: tuple[slice, slice], factor: float) -> None:
        self.rgb[at] *= factor


def paint_front(
    rng: np.random.Generator, *, width_m: float, floors: int, light: Light, normal: tuple[float, float, float]
) -> Texture:
    """A street front, `width_m` wide and `floors` storeys plus a cornice high."""
    height_m = front_height(floors)
    height, width = round(height_m * PPM), round(width_m * PPM)
    wall = _bare_wall(rng, height, width)
    bays = max(2, int(width_m / rng.uniform(2.3, 3.2)))
    bay = width_m / bays
    window = (rng.uniform(0.95, 1.3), rng.uniform(1.4, 1.8))
    frame = np.array([226, 224, 216]) if rng.random() < 0.7 else np.array([82, 70, 60])
    arched, shutters = rng.random() < 0.25, rng.random() < 0.3
    shutter = np.array([(62, 84, 74), (92, 68, 56), (70, 84, 108)][rng.integers(3)])
    for floor in range(1, floors):
        top = height_m - (floor + 1) * FLOOR_M + 0.75
        _slab(wall, height_m - floor * FLOOR_M, width_m, light=rng.random() < 0.5)
        for k in range(bays):
            left = (k + 0.5) * bay - window[0] / 2
            if shutters:
                for x in (left - 0.52, left + window[0] + 0.04):
                    _shutter(wall, x, top, 0.48, window[1], shutter)
            _window(rng, wall, left, top, *window, frame, arched=arched, light=light)
    _ground_floor(rng, wall, width_m, height_m, bays, frame, light)
    _cornice(wall, width_m)
    _pipe(wall, rng.uniform(0.15, 0.4), height_m)
    if rng.random() < 0.6:
        _air_conditioner(wall, rng.uniform(0.2, 0.8) * width_m, height_m - FLOOR_M * 1.15)
    wall.celsius += light.warming(normal) * (0.85 + 0.15 * spectrum(rng, height, width, slope=1.8))
    return texture(_lit(wall, light, normal), wall.celsius, np.ones((height, width)), ppm=PPM)


def paint_gable(
    rng: np.random.Generator, *, width_m: float, floors: int, light: Light, normal: tuple[float, float, float]
) -> Texture:
    """A blind side wall."""
    height, width = round(front_height(floors) * PPM / 2), round(width_m * PPM / 2)
    base = np.array(_PLASTER[rng.integers(len(_PLASTER))]) * 0.8
    stain = spectrum(rng, height, width, slope=1.4)
    colour = (base * (1 + 0.08 * stain)[..., None]) * light.on(normal)
    celsius = WALL_CELSIUS - 0.5 + 0.5 * spectrum(rng, height, width, slope=1.6) + light.warming(normal)
    return texture(colour, celsius, np.ones((height, width)), ppm=PPM / 2)


def front_height(floors: int) -> float:
    """Metres from the pavement to the top of the cornice."""
    return floors * FLOOR_M + 0.9


def _bare_wall(rng: np.random.Generator, height: int, width: int) -> _Wall:
    brick = rng.random() < 0.45
    palette = _BRICK if brick else _PLASTER
    base = np.array(palette[rng.integers(len(palette))], np.float32)
    stain = spectrum(rng, height, width, slope=1.3)
    grain = spectrum(rng, height, width, slope=0.5)
    tone = 1.0 + 0.05 * stain + 0.035 * grain
    celsius = (
        WALL_CELSIUS + rng.uniform(-1.5, 1.5) + 0.35 * spectrum(rng, height, width, slope=1.6) + 0.08 * grain
    )
    if brick:
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        row = np.floor(y / (0.1 * PPM))
        mortar = (y % (0.1 * PPM) < 1) | ((x + (row % 2) * 0.13 * PPM) % (0.26 * PPM) < 1)
        tint = rng.normal(0, 0.07, (int(row.max()) + 1, int(width / (0.26 * PPM)) + 2)).astype(np.float32)
        tone += tint[row.astype(int), ((x + (row % 2) * 0.13 * PPM) / (0.26 * PPM)).astype(int)]
        tone = np.where(mortar, tone * 1.16, tone)
        celsius += np.where(mortar, -0.25, 0.0)
    # Rain keeps the foot of a wall dark, and its top bleached.
    tone *= np.linspace(1.05, 0.88, height, dtype=np.float32)[:, None]
    glow = np.zeros((height, width, 3), np.float32)
    return _Wall(base * tone[..., None].astype(np.float32), celsius.astype(np.float32), glow)


def _slab(wall: _Wall, y: float, width_m: float, *, light: bool) -> None:
    """A floor slab: warm inside the wall, and on some houses a string course outside."""
    at = wall.box(0, y - 0.14, width_m, y + 0.14)
    wall.celsius[at] += 1.1
    if light:
        wall.rgb[wall.box(0, y - 0.1, width_m, y + 0.08)] *= 1.14
        wall.shade(wall.box(0, y + 0.08, width_m, y + 0.16), 0.72)


def _window(
    rng: np.random.Generator,
    wall: _Wall,
    x: float,
    y: float,
    w: float,
    h: float,
    frame: npt.NDArray[np.int64],
    *,
    arched: bool,
    light: Light,
) -> None:
    """A casement: reveal, frame, two sashes, sill, radiator below; sometimes curtains or a lit room."""
    reveal = wall.box(x - 0.14, y - 0.14, x + w + 0.14, y + h + 0.1)
    wall.rgb[reveal] *= 1.08
    _leak(wall, reveal)
    at = wall.box(x, y, x + w, y + h)
    rows, columns = wall.celsius[at].shape
    if min(rows, columns) < 8:
        return
    wall.fill(at, frame * 0.92, WALL_CELSIUS + 0.8)
    wall.rgb[at][:, :2] *= 0.6
    wall.rgb[at][:3] *= 0.5
    bar = 0.07
    # The same draws by day and by night: light does not rebuild the street.
    lit = rng.random() < 0.35 and light.lamps
    shine = rng.uniform(0.6, 0.95)
    fall = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    sky = 64 + 74 * (1 - fall) ** 1.5 + 9 * spectrum(rng, rows, columns, slope=1.3)
    glass = sky[..., None] * np.array([0.78, 0.92, 1.08], np.float32)
    if rng.random() < 0.45:
        drape = 150 + 26 * np.sin(np.arange(columns) * rng.uniform(0.5, 0.9))[None, :] + 0 * fall
        share = rng.uniform(0.2, 0.5)
        inside = np.abs(np.linspace(-1, 1, columns)) > 1 - share
        glass = np.where(inside[None, :, None], 0.45 * glass + 0.5 * drape[..., None], glass)
    # Glass mirrors the sky: coldest where it looks up most, and a warm room shows only a little.
    cold = 5.5 + 3.0 * fall + rng.normal(0, 0.8) + (1.5 if lit else 0.0)
    panes = [(x + bar, x + w / 2 - bar / 2), (x + w / 2 + bar / 2, x + w - bar)]
    for x0, x1 in panes:
        for y0, y1 in ((y + bar, y + h * 0.3), (y + h * 0.3 + bar, y + h - bar)):
            pane = wall.box(x0, y0, x1, y1)
            r, c = pane[0], pane[1]
            inner = np.s_[
                r.start - at[0].start : r.stop - at[0].start, c.start - at[1].start : c.stop - at[1].start
            ]
            wall.rgb[pane] = glass[inner]
            wall.celsius[pane] = (cold + np.zeros((1, columns), np.float32))[inner]
            if lit:
                wall.glow[pane] = np.array([250, 205, 130]) * shine
    if arched:
        centre = (round((x + w / 2) * PPM), round(y * PPM))
        axes = (round(w / 2 * PPM), round(0.22 * PPM))
        cv2.ellipse(wall.rgb, centre, axes, 0, 180, 360, (frame * 0.9).tolist(), -1)
        cv2.ellipse(wall.celsius, centre, axes, 0, 180, 360, WALL_CELSIUS + 0.5, -1)
    sill = wall.box(x - 0.1, y + h, x + w + 0.1, y + h + 0.09)
    wall.fill(sill, frame * 1.02, WALL_CELSIUS - 1.2)
    wall.shade(wall.box(x - 0.1, y + h + 0.09, x + w + 0.1, y + h + 0.22), 0.68)
    if rng.random() < 0.6:
        _warm_patch(wall, x + 0.1, y + h + 0.15, w - 0.2, 0.55, rng.uniform(0.8, 2.2))


def _leak(wall: _Wall, at: tuple[slice, slice]) -> None:
    """Warm air that escapes around a frame, brightest at the top."""
    grown = np.zeros_like(wall.celsius[at])
    rows = grown.shape[0]
    grown[:] = np.linspace(2.2, 0.9, max(rows, 1), dtype=np.float32)[:, None]
    wall.celsius[at] += grown


def _warm_patch(wall: _Wall, x: float, y: float, w: float, h: float, kelvin: float) -> None:
    at = wall.box(x - 0.4, y - 0.3, x + w + 0.4, y + h + 0.3)
    patch = np.zeros_like(wall.celsius[at])
    if patch.size:
        inner = np.s_[round(0.3 * PPM) : round((0.3 + h) * PPM), round(0.4 * PPM) : round((0.4 + w) * PPM)]
        patch[inner] = kelvin
        wall.celsius[at] += blur(patch, 0.14 * PPM)


def _shutter(wall: _Wall, x: float, y: float, w: float, h: float, colour: npt.NDArray[np.int64]) -> None:
    at = wall.box(x, y, x + w, y + h)
    wall.fill(at, colour, WALL_CELSIUS - 1.6)
    wall.rgb[at][::3] *= 0.7


def _ground_floor(
    rng: np.random.Generator,
    wall: _Wall,
    width_m: float,
    height_m: float,
    bays: int,
    frame: npt.NDArray[np.int64],
    light: Light,
) -> None:
    top = height_m - FLOOR_M
    _slab(wall, top, width_m, light=True)
    plinth = wall.box(0, height_m - 0.55, width_m, height_m)
    wall.rgb[plinth] *= np.array([0.72, 0.72, 0.74], np.float32)
    wall.celsius[plinth] -= 1.0
    bay = width_m / bays
    door = int(rng.integers(bays))
    shop = rng.random() < 0.5
    if shop:
        _shop(rng, wall, width_m, height_m, light)
        return
    for k in range(bays):
        left = (k + 0.5) * bay
        if k == door:
            _door(rng, wall, left - 0.55, height_m - 2.35, 1.1, 2.35)
        else:
            _window(rng, wall, left - 0.55, top + 0.75, 1.1, 1.45, frame, arched=False, light=light)


def _door(rng: np.random.Generator, wall: _Wall, x: float, y: float, w: float, h: float) -> None:
    wall.fill(wall.box(x - 0.12, y - 0.14, x + w + 0.12, y + h), [198, 192, 180], WALL_CELSIUS + 0.6)
    colour = np.array([(86, 52, 38), (34, 58, 48), (40, 48, 78), (120, 40, 36)][rng.integers(4)], np.float32)
    at = wall.box(x, y, x + w, y + h)
    wall.fill(at, colour, WALL_CELSIUS + 2.4)
    for x0, y0, x1, y1 in (
        (0.12, 0.4, 0.5, 1.1),
        (0.6, 0.4, 0.98, 1.1),
        (0.12, 1.3, 0.5, 2.1),
        (0.6, 1.3, 0.98, 2.1),
    ):
        panel = wall.box(x + x0, y + y0, x + x1, y + y1)
        wall.shade(panel, 0.82)
        wall.celsius[panel] += 0.7
    wall.shade(wall.box(x, y, x + w, y + 0.12), 0.5)
    wall.celsius[wall.box(x, y + h - 0.08, x + w, y + h)] += 2.5


def _shop(rng: np.random.Generator, wall: _Wall, width_m: float, height_m: float, light: Light) -> None:
    """Glass front with a door, a sign with lettering nobody can read in heat, an awning."""
    colour = np.array(_SHOP[rng.integers(len(_SHOP))], np.float32)
    top = height_m - 2.75
    wall.fill(wall.box(0.3, top, width_m - 0.3, height_m), colour, WALL_CELSIUS + 0.4)
    panes = max(2, int((width_m - 0.6) / 1.7))
    step = (width_m - 0.6) / panes
    for k in range(panes):
        x0, x1 = 0.3 + k * step + 0.08, 0.3 + (k + 1) * step - 0.08
        bottom = height_m - (0.12 if k == panes // 2 else 0.55)
        at = wall.box(x0, top + 0.15, x1, bottom)
        rows, columns = wall.celsius[at].shape
        if min(rows, columns) < 8:
            continue
        goods = _goods(rng, rows, columns)
        mirror = np.linspace(44, 12, rows, dtype=np.float32)[:, None] + 7 * spectrum(
            rng, rows, columns, slope=1.6
        )
        wall.rgb[at] = 26 + 0.55 * goods + mirror[..., None] * np.array([0.85, 0.97, 1.1], np.float32)
        wall.celsius[at] = WALL_CELSIUS + 0.8 - np.linspace(3.5, 0, rows)[:, None] + 0.15 * (mirror - 30) / 7
        if light.lamps:
            wall.glow[at] = (0.5 + 0.006 * goods.mean(-1))[..., None] * np.array([240, 206, 150])
    sign = wall.box(0.3, top - 0.55, width_m - 0.3, top)
    wall.fill(sign, colour * 0.75 + 20, WALL_CELSIUS - 0.8)
    pen, x = rng.random(), 0.9
    while x < width_m - 1.2 and pen < 0.9:
        w = rng.uniform(0.1, 0.24)
        kind = rng.integers(3)
        for k in range(2 + int(kind)):
            wall.fill(wall.box(x + k * w / 3, top - 0.42, x + k * w / 3 + 0.05, top - 0.14), [236, 228, 204])
        wall.fill(wall.box(x, top - 0.42 + 0.12 * kind, x + w, top - 0.37 + 0.12 * kind), [236, 228, 204])
        x += w + (0.35 if rng.random() < 0.2 else 0.09)
    if rng.random() < 0.6:
        at = wall.box(0.2, top - 0.02, width_m - 0.2, top + 0.85)
        columns = wall.celsius[at].shape[1]
        stripes = (np.arange(columns) // round(0.28 * PPM) % 2).astype(np.float32)
        cloth = colour * 1.25 * (1 - stripes[:, None]) + np.array([228, 222, 206]) * stripes[:, None]
        wall.rgb[at] = cloth[None] * np.linspace(1.05, 0.8, wall.celsius[at].shape[0])[:, None, None]
        wall.celsius[at] = WALL_CELSIUS - 2.2 + 0.25 * stripes[None, :]
        wall.glow[at] = 0
        wall.shade(wall.box(0.3, top + 0.85, width_m - 0.3, top + 1.25), 0.62)


def _goods(rng: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.float32]:
    """What stands behind a shop window, out of focus: shelves and things on them."""
    inside = np.zeros((rows, columns, 3), np.float32)
    shelf = max(6, round(0.42 * PPM))
    for y in range(rows - 4, shelf // 2, -shelf):
        inside[y : y + 3] = 60
        x = int(rng.integers(2, 8))
        while x < columns - 4:
            w, h = int(rng.integers(4, 14)), int(rng.integers(shelf // 3, shelf - 3))
            inside[max(0, y - h) : y, x : x + w] = rng.uniform(20, 150, 3)
            x += w + int(rng.integers(1, 9))
    return np.asarray(cv2.GaussianBlur(inside, (0, 0), 1.6), np.float32)


def _cornice(wall: _Wall, width_m: float) -> None:
    wall.rgb[wall.box(0, 0, width_m, 0.42)] *= 1.1
    wall.celsius[wall.box(0, 0, width_m, 0.42)] -= 2.0
    wall.shade(wall.box(0, 0.18, width_m, 0.22), 0.75)
    wall.shade(wall.box(0, 0.42, width_m, 0.62), 0.6)
    wall.celsius[wall.box(0, 0.42, width_m, 0.62)] += 0.6


def _pipe(wall: _Wall, x: float, height_m: float) -> None:
    at = wall.box(x, 0.3, x + 0.11, height_m - 0.2)
    wall.fill(at, [112, 110, 106], WALL_CELSIUS - 2.8)
    wall.shade(wall.box(x + 0.11, 0.3, x + 0.2, height_m - 0.2), 0.74)


def _air_conditioner(wall: _Wall, x: float, y: float) -> None:
    at = wall.box(x, y, x + 0.8, y + 0.55)
    wall.fill(at, [206, 206, 202], WALL_CELSIUS + 7.0)
    wall.rgb[at][::4] *= 0.86
    wall.shade(wall.box(x, y + 0.55, x + 0.8, y + 0.7), 0.65)
    _warm_patch(wall, x + 0.1, y - 0.5, 0.6, 0.4, 3.0)


def _lit(wall: _Wall, light: Light, normal: tuple[float, float, float]) -> npt.NDArray[np.float32]:
    """Painted colours under the light, with what lamps and windows add, float32 (h, w, 3)."""
    height, width = wall.celsius.shape
    multiplier = np.broadcast_to(light.on(normal), (height, width, 3))
    if light.lamps:
        above = (height - np.arange(height, dtype=np.float32)) / PPM
        pool = np.exp(-np.square((above - 3.0) / 3.2))[:, None]
        beat = 0.6 + 0.4 * np.cos(np.linspace(0, 2 * np.pi, width, dtype=np.float32))[None, :]
        multiplier = multiplier + 0.30 * (pool * beat)[..., None] * LAMP_COLOUR
    return np.asarray(wall.rgb * multiplier + wall.glow, np.float32)
