"""Roadway and pavements: one long texture that repeats up the street, cut into strips.

In heat the roadway is the brightest thing after people by day: asphalt stores the sun, paint and kerb
stones do not, shadows lag behind and have soft edges.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.synth.canvas import Sprite, Texture, texture
from streamfuse.synth.light import LAMP_SPACING_M, Light, lamp_glow
from streamfuse.synth.noise import Field2D, blur, spectrum

PERIOD_M = 96.0
"""The street repeats after this; a multiple of the lamp spacing and of the strips."""
LEFT_M, RIGHT_M = -10.2, 4.3
"""Building lines; the rig stands at x = 0, at the right kerb."""
KERB_LEFT_M, KERB_RIGHT_M = -7.4, 1.2
PARKING_M = KERB_LEFT_M + 2.1
LANE_ONCOMING_M, LANE_AWAY_M = -4.1, -1.2
CENTRE_LINE_M = -2.7
CROSSING_M = (11.0, 14.0)
FAR_M = 176.0
"""The street ends here; behind it stands the backdrop."""

EDGE_M = 2.0
"""Ground drawn beyond the building lines, under the feet of the fronts."""
_PPM = 32.0
_STRIP_M = 8.0
_MIPS = 5
_OVERLAP_M = 32 / _PPM
"""Two texels of the coarsest mip: neighbouring strips leave no gap between them."""
_ROAD_AND_PAVEMENT_TINT = np.array([(0.98, 1.04), (1.0, 1.0), (1.03, 0.94)], np.float32)
"""Of red, green and blue."""
_PIT = round(0.6 * _PPM)
"""Half the side of the square of soil around a tree."""
SHADOW_LAG_PX = 3.0
"""Sigma of the blur that thermal inertia gives to shadows, in texels of the shadow map."""
ROAD_CELSIUS, PAVEMENT_CELSIUS = 17.5, 15.0


@dataclass(frozen=True, slots=True)
class Ground:
    """The strips of one period; strip k begins k * 8 m up the street."""

    strips: tuple[Texture, ...]

    def sprites(self, travelled_m: float) -> list[Sprite]:
        """Strips from far to near, for a camera that has driven `travelled_m`."""
        first = int(travelled_m // _STRIP_M)
        last = int((travelled_m + FAR_M) // _STRIP_M)
        right, up_street = np.array([1.0, 0, 0]), np.array([0, 0, 1.0])
        return [
            Sprite(
                self.strips[k % len(self.strips)],
                np.array([LEFT_M - EDGE_M, 0.0, k * _STRIP_M - _OVERLAP_M - travelled_m]),
                right,
                up_street,
            )
            for k in range(last, first - 1, -1)
        ]


def paint_ground(
    rng: np.random.Generator, *, light: Light, shadow: Field2D | None, tree_pits: list[tuple[float, float]]
) -> Ground:
    """Paint a period. shadow: 0..1 over the same ground, coarser; None without sun. tree_pits: (x, z)."""
    z, x = ground_grid()
    height, width = z.shape
    road = (x > KERB_LEFT_M) & (x < KERB_RIGHT_M)
    stain = spectrum(rng, height, width, slope=1.2, tileable=True)
    grain = rng.standard_normal((height, width), np.float32)
    grain = 0.5 * grain + blur(rng.standard_normal((height, width), np.float32), 1.0)
    colour = np.where(road, np.float32(92), np.float32(148)) * (1 + 0.05 * stain + 0.055 * grain)
    celsius = (
        np.where(road, np.float32(ROAD_CELSIUS), np.float32(PAVEMENT_CELSIUS)) + 0.35 * stain + 0.12 * grain
    )
    _paving(rng, x, z, road, colour, celsius)
    _wheel_tracks(x, road, colour, celsius)
    _repairs(rng, colour, celsius)
    _cracks(rng, colour, celsius)
    paint_mask = _markings(rng, x, z)
    colour += paint_mask * (214 - colour) * 0.85
    celsius -= 1.7 * paint_mask
    _manholes(rng, colour, celsius)
    _kerbs(x, z, colour, celsius)
    rgb = np.stack([colour * np.where(road, *tint) for tint in _ROAD_AND_PAVEMENT_TINT], axis=-1)
    for pit_x, pit_z in tree_pits:
        row, column = round(pit_z * _PPM), round((pit_x - LEFT_M + EDGE_M) * _PPM)
        pit = np.s_[max(0, row - _PIT) : row + _PIT, column - _PIT : column + _PIT]
        rgb[pit] = np.array([78, 62, 46]) * (1 + 0.15 * grain[pit])[..., None]
        celsius[pit] -= 2.5
    up = (0.0, -1.0, 0.0)
    if shadow is None:
        multiplier = np.broadcast_to(light.on(up), rgb.shape)
        celsius += light.warming(up)
    else:
        multiplier = light.ambient + (light.on(up) - light.ambient) * (1 - _fitted(shadow, stain))[..., None]
        # Ground remembers: what came into shadow an hour ago is still half warm, and without an outline.
        celsius += light.warming(up) * (1 - 0.75 * _fitted(blur(shadow, SHADOW_LAG_PX), stain))
    if light.lamps:
        for kerb in (KERB_LEFT_M, KERB_RIGHT_M):
            multiplier = multiplier + lamp_glow(z, x - kerb, 0.0 if kerb < 0 else LAMP_SPACING_M / 2)
    return _strips(rgb * multiplier, celsius)


def ground_grid(*, ppm: float = _PPM) -> tuple[Field2D, Field2D]:
    """(z, x) in metres of every texel of one period, float32 (h, w) each."""
    height, width = round(PERIOD_M * ppm), round((RIGHT_M - LEFT_M + 2 * EDGE_M) * ppm)
    rows = (np.arange(height, dtype=np.float32) + 0.5) / ppm
    columns = (np.arange(width, dtype=np.float32) + 0.5) / ppm + LEFT_M - EDGE_M
    z, x = np.meshgrid(rows, columns, indexing="ij")
    return z, x


def _fitted(coarse: Field2D, like: Field2D) -> Field2D:
    size = (like.shape[1], like.shape[0])
    return np.asarray(cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR), np.float32)


def _strips(rgb: npt.NDArray[np.float32], celsius: Field2D) -> Ground:
    margin = round(_OVERLAP_M * _PPM)
    rgb = np.concatenate([rgb[-margin:], rgb, rgb[:margin]])
    celsius = np.concatenate([celsius[-margin:], celsius, celsius[:margin]])
    step = round(_STRIP_M * _PPM)
    cuts = [slice(k * step, (k + 1) * step + 2 * margin) for k in range(round(PERIOD_M / _STRIP_M))]
    return Ground(tuple(texture(rgb[c], celsius[c], None, ppm=_PPM, mips=_MIPS) for c in cuts))


def _paving(
    rng: np.random.Generator,
    x: Field2D,
    z: Field2D,
    road: npt.NDArray[np.bool_],
    colour: Field2D,
    celsius: Field2D,
) -> None:
    slab = 0.6
    tints = rng.normal(0, 0.06, (int(PERIOD_M / slab) + 2, 40)).astype(np.float32)
    tone = 1 + tints[(z / slab).astype(int), ((x + 12) / slab).astype(int)]
    joint = ((x + 12) % slab < 0.035) | (z % slab < 0.035)
    colour *= np.where(road, 1.0, np.where(joint, 0.7, tone))
    celsius -= np.where(road, 0.0, np.where(joint, 0.9, 4.0 * (tone - 1)))


def _wheel_tracks(x: Field2D, road: npt.NDArray[np.bool_], colour: Field2D, celsius: Field2D) -> None:
    for lane in (LANE_ONCOMING_M, LANE_AWAY_M):
        for side in (-0.8, 0.8):
            track = np.exp(-np.square((x - lane - side) / 0.28)) * road
            colour *= 1 - 0.07 * track
            celsius += 0.9 * track


def _repairs(rng: np.random.Generator, colour: Field2D, celsius: Field2D) -> None:
    height, width = colour.shape
    tone, kelvin = np.ones_like(colour), np.zeros_like(colour)
    for _ in range(16):
        centre = np.array([rng.uniform(0.3, 0.7) * width, rng.uniform(0.02, 0.98) * height])
        angles = np.sort(rng.uniform(0, 2 * np.pi, 7))
        reach = rng.uniform(0.4, 1.6) * _PPM * rng.uniform(0.7, 1.0, 7)
        outline = np.rint(centre + np.stack([np.cos(angles) * reach, np.sin(angles) * reach * 1.6], 1))
        cv2.fillPoly(tone, [outline.astype(np.int32)], rng.uniform(0.72, 0.9))
        cv2.fillPoly(kelvin, [outline.astype(np.int32)], rng.uniform(0.4, 1.4))
    colour *= tone
    celsius += kelvin


def _cracks(rng: np.random.Generator, colour: Field2D, celsius: Field2D) -> None:
    height, width = colour.shape
    mask = np.zeros(colour.shape, np.uint8)
    for _ in range(34):
        steps = (rng.normal(0, 0.10, (50, 2)) + rng.normal(0, 0.09, 2)) * _PPM
        start = np.array([rng.uniform(0.22, 0.78) * width, rng.uniform(0, 1) * height])
        cv2.polylines(mask, [np.rint(start + steps.cumsum(0)).astype(np.int32)], False, 255, 1, cv2.LINE_AA)
    depth = mask.astype(np.float32) / 255
    colour *= 1 - 0.32 * depth
    celsius -= 0.9 * depth


def _markings(rng: np.random.Generator, x: Field2D, z: Field2D) -> Field2D:
    """Road paint, worn: 0..1."""
    dash = (np.abs(x - CENTRE_LINE_M) < 0.07) & (z % 6.0 < 3.0)
    edge = np.abs(x - PARKING_M) < 0.05
    bay = edge | ((np.abs(z % 6.0 - 3.0) < 0.05) & (x > KERB_LEFT_M) & (x < PARKING_M))
    crossing = (z > CROSSING_M[0]) & (z < CROSSING_M[1])
    zebra = crossing & ((x - KERB_LEFT_M) % 1.0 < 0.5) & (x > KERB_LEFT_M + 0.2) & (x < KERB_RIGHT_M - 0.2)
    stop = (np.abs(z - CROSSING_M[0] + 1.4) < 0.15) & (x > CENTRE_LINE_M) & (x < KERB_RIGHT_M)
    near_crossing = (z > CROSSING_M[0] - 2) & (z < CROSSING_M[1] + 1)
    painted = zebra | ((dash | stop) & ~crossing) | (bay & ~near_crossing)
    wear = spectrum(rng, *x.shape, slope=0.8, tileable=True)
    soft = cv2.GaussianBlur(painted.astype(np.float32), (3, 3), 0)
    return np.asarray(soft * np.clip(1.0 - 0.32 * np.maximum(wear, 0), 0.25, 1), np.float32)


def _manholes(rng: np.random.Generator, colour: Field2D, celsius: Field2D) -> None:
    height, width = colour.shape
    radius = round(0.34 * _PPM)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    lid = np.hypot(x, y) <= radius
    for k in range(8):
        column, row = round(rng.uniform(0.35, 0.65) * width), round((k + rng.uniform(0.2, 0.8)) / 8 * height)
        at = np.s_[row - radius : row + radius + 1, column - radius : column + radius + 1]
        colour[at][lid] = (62 + 14 * ((y // 3) % 2))[lid]
        celsius[at][lid] += 3.5


def _kerbs(x: Field2D, z: Field2D, colour: Field2D, celsius: Field2D) -> None:
    for kerb, outward in ((KERB_LEFT_M, -1), (KERB_RIGHT_M, 1)):
        distance = (x - kerb) * outward
        stone = (distance > 0) & (distance < 0.16)
        joint = z % 1.0 < 0.04
        colour[stone] = np.where(joint[stone], 110, 172)
        celsius[stone] -= 1.6
        gutter = (distance <= 0) & (distance > -0.3)
        colour[gutter] *= 0.72
        celsius[gutter] -= 1.0
