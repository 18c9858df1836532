"""Cars and a bus: a side profile swept across the width, facet by facet.

Visible facets are paint under sky and sun, or dark glass. In heat the paint mirrors the cold sky where
it looks up, glass is cold, and what burns fuel or rubs is hot: bonnet, grille, tyres, brakes, exhaust.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from streamfuse.synth.bodies import BUS, Body
from streamfuse.synth.canvas import Solid
from streamfuse.synth.light import Light
from streamfuse.synth.nature import AIR_CELSIUS, SKY_CELSIUS

_PAINTS = [
    (150, 24, 28),
    (32, 52, 96),
    (188, 190, 192),
    (232, 232, 230),
    (26, 27, 30),
    (92, 98, 104),
    (58, 84, 72),
    (170, 150, 112),
]


WAIST_M = 0.52
"""Below it the flanks turn to the ground: dark in light, a little warm from the road in heat."""


@dataclass(frozen=True, slots=True)
class _Facet:
    points: npt.NDArray[np.float64]
    rgb: npt.NDArray[np.float32]
    celsius: float
    shiny: float
    """Share of the sky mirrored."""
    bias: float
    emits: bool


@dataclass(frozen=True, slots=True)
class _Mesh:
    """All facets of a car, its middle at the origin, driving up the street."""

    points: npt.NDArray[np.float64]
    faces: list[npt.NDArray[np.int64]]
    triples: npt.NDArray[np.int64]
    normals: npt.NDArray[np.float64]
    rgb: npt.NDArray[np.float32]
    celsius: npt.NDArray[np.float64]
    shiny: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]
    emits: npt.NDArray[np.bool_]


class Car:
    """One car's facets for both directions of travel, in its own coordinates."""

    def __init__(self, rng: np.random.Generator, body: Body, light: Light, *, driving: bool) -> None:
        self.body = body
        self._light = light
        self._driving = driving
        self._paint = np.array(_PAINTS[rng.integers(len(_PAINTS))], np.float32)
        if body is BUS:
            self._paint = np.array([188, 60, 40], np.float32)
        self._warm_bonnet = driving or rng.random() < 0.3
        self._facets: list[_Facet] = []
        self._build()
        self._mesh = _mesh(self._facets, body.length)

    def solid(self, x: float, z: float, *, oncoming: bool, sunlit: float, moving: bool) -> Solid:
        """The car with its middle on (x, z). sunlit: 0 in shadow, 1 in the sun."""
        mesh = self._mesh
        points, normals = mesh.points.copy(), mesh.normals
        if oncoming:
            turned = np.array([-1.0, 1.0, -1.0])
            points, normals = points * turned, normals * turned
        upward = np.clip(-normals[:, 1], 0, 1)
        facing = np.clip(normals @ self._light.to_sun, 0, 1) * sunlit
        light, up = self._light, upward[:, None]
        tone = light.ambient * (0.62 + 0.38 * up) + light.sun * facing[:, None]
        sky = light.sky_low + (light.sky_top - light.sky_low) * up
        lit = (
            mesh.rgb * (tone + (0.08 if light.lamps else 0.0))
            + mesh.shiny[:, None] * (0.25 + 0.75 * up) * sky
        )
        rgb = np.where(mesh.emits[:, None], mesh.rgb, lit)
        mirror = np.where(mesh.shiny > 0, 0.45, 0.1) * upward
        celsius = mesh.celsius * (1 - mirror) + SKY_CELSIUS * mirror + light.sun_kelvin * 0.5 * facing
        points += (x, 0.0, z)
        return Solid(
            points,
            mesh.faces,
            mesh.triples,
            np.clip(rgb, 0, 255).astype(np.uint8),
            celsius.astype(np.float32),
            mesh.bias,
            moving,
        )

    def _add(
        self,
        corners: npt.ArrayLike,
        rgb: npt.ArrayLike,
        celsius: float,
        *,
        shiny: float = 0.0,
        bias: float = 0.0,
        emits: bool = False,
    ) -> None:
        """One facet; it is turned outward, away from the axis of the car."""
        points = np.asarray(corners, np.float64)
        # Where the cabin begins its sides are triangles.
        points = points[np.linalg.norm(points - np.roll(points, 1, axis=0), axis=1) > 1e-6]
        middle = np.array(
            [
                0.0,
                -self.body.stations[:, 2].mean() * 0.8,
                np.clip(points[:, 2].mean(), 0.8, self.body.length - 0.8),
            ]
        )
        a, b, c = points[_triple(len(points))]
        if np.cross(b - a, c - a) @ (points.mean(0) - middle) < 0:
            points = points[::-1]
        self._facets.append(_Facet(points, np.asarray(rgb, np.float32), celsius, shiny, bias, emits))

    def _build(self) -> None:
        body, paint = self.body, self._paint
        metal, glass = AIR_CELSIUS + 0.5, AIR_CELSIUS - 3.5
        bonnet = AIR_CELSIUS + (9.0 if self._warm_bonnet else 0.5)
        dark = np.array([22, 26, 30])
        front = body.stations[-4, 0]
        for k in range(len(body.stations) - 1):
            (a0, s0, b0, r0), (a1, s1, b1, r1) = body.stations[k], body.stations[k + 1]
            wb, wr = body.half_width, body.half_roof
            heat = bonnet if a0 >= front and body is not BUS else metal
            w0, w1 = (_waist(wb, wr, r - b) for r, b in ((r0, b0), (r1, b1)))
            for side in (-1, 1):
                tuck = side * (wb - 0.09)
                self._add(
                    [(tuck, -s0, a0), (side * wb, -WAIST_M, a0), (side * wb, -WAIST_M, a1), (tuck, -s1, a1)],
                    paint * 0.62,
                    heat - 0.5,
                    shiny=0.03,
                )
                self._add(
                    [
                        (side * wb, -WAIST_M, a0),
                        (side * wb, -b0, a0),
                        (side * wb, -b1, a1),
                        (side * wb, -WAIST_M, a1),
                    ],
                    paint * 0.98,
                    heat - 1.0,
                    shiny=0.10,
                )
                if max(r0 - b0, r1 - b1) > 0.03:
                    pane = k not in body.pillars
                    self._add(
                        [
                            (side * wb, -b0, a0),
                            (side * w0, -r0, a0),
                            (side * w1, -r1, a1),
                            (side * wb, -b1, a1),
                        ],
                        dark if pane else paint * 0.9,
                        glass if pane else metal,
                        shiny=0.28 if pane else 0.1,
                        bias=0.05,
                    )
            screen = k in body.screens
            self._add(
                [(-w0, -r0, a0), (w0, -r0, a0), (w1, -r1, a1), (-w1, -r1, a1)],
                dark if screen else paint,
                glass - 1.0 if screen else heat,
                shiny=0.34 if screen else 0.20,
                bias=0.1,
            )
        self._ends()
        self._wheels()

    def _ends(self) -> None:
        """Rear and front: panels, bumpers, lamps, plate, grille, exhaust."""
        body, paint, wb = self.body, self._paint, self.body.half_width
        night = self._light.lamps
        for a, (_, sill, belt, roof), rear in (
            (0.0, body.stations[0], True),
            (body.length, body.stations[-1], False),
        ):
            top = roof if body is BUS else belt
            hot = AIR_CELSIUS + (7.0 if self._warm_bonnet and not rear else 1.0)

            def panel(
                x0: float,
                y0: float,
                x1: float,
                y1: float,
                rgb: npt.ArrayLike,
                celsius: float,
                *,
                a: float = a,
                rear: bool = rear,
                rank: int = 1,
                emits: bool = False,
                shiny: float = 0.0,
            ) -> None:
                out = -0.004 * rank if rear else 0.004 * rank
                corners = [(x0, -y0, a + out), (x1, -y0, a + out), (x1, -y1, a + out), (x0, -y1, a + out)]
                self._add(corners, rgb, celsius, bias=0.3 * rank, emits=emits, shiny=shiny)

            panel(-wb, sill, wb, top, paint, hot, rank=0, shiny=0.1)
            panel(-wb, sill, wb, sill + 0.14, [30, 31, 34], hot + 0.5)
            if body is BUS:
                panel(-wb + 0.1, 1.3, wb - 0.1, 2.7, [24, 28, 34], AIR_CELSIUS - 2.5, shiny=0.25)
            lamp_y = (top - 0.26, top - 0.08) if body is not BUS else (0.8, 1.0)
            lamp = (
                np.array([255, 60, 44] if rear else [255, 250, 232])
                if night
                else np.array([150, 26, 24] if rear else [214, 216, 214])
            )
            for side in (-1, 1):
                x0, x1 = sorted((side * (wb - 0.06), side * (wb - 0.40)))
                panel(
                    x0,
                    lamp_y[0],
                    x1,
                    lamp_y[1],
                    lamp,
                    AIR_CELSIUS + (6.0 if night else 1.5),
                    rank=2,
                    emits=night,
                )
            panel(-0.26, sill + 0.03, 0.26, sill + 0.14, [216, 214, 200], AIR_CELSIUS - 2.0, rank=3)
            if rear:
                panel(
                    wb - 0.36,
                    sill - 0.06,
                    wb - 0.22,
                    sill + 0.04,
                    [18, 18, 18],
                    AIR_CELSIUS + (26.0 if self._driving else 0),
                    rank=4,
                )
            else:
                panel(
                    -0.42,
                    sill + 0.14,
                    0.42,
                    top - 0.06,
                    [18, 19, 22],
                    AIR_CELSIUS + (12.0 if self._warm_bonnet else 0.5),
                    rank=2,
                )

    def _wheels(self) -> None:
        body = self.body
        tyre = AIR_CELSIUS + (8.5 if self._driving else -0.5)
        brake = AIR_CELSIUS + (15.0 if self._driving else 0.0)
        angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        for a in body.wheels:
            for side in (-1, 1):
                for radius, out, rgb, celsius, rank in (
                    (body.wheel_radius + 0.05, 0.002, [16, 16, 17], AIR_CELSIUS + 2.0, 2),
                    (body.wheel_radius, 0.012, [34, 34, 36], tyre, 3),
                    (body.wheel_radius * 0.62, 0.02, [124, 126, 128], brake, 4),
                ):
                    rim = [
                        (
                            side * (body.half_width + out),
                            -body.wheel_radius + radius * np.sin(t),
                            a + radius * np.cos(t),
                        )
                        for t in angles
                    ]
                    self._add(rim, rgb, celsius, bias=0.3 * rank)


def _waist(half_width: float, half_roof: float, cabin: float) -> float:
    """Half width at the roof line: the cabin leans in as it rises."""
    return half_width - (half_width - half_roof) * min(1.0, max(0.0, cabin) / 0.5)


def _triple(count: int) -> list[int]:
    """Three corners of a polygon of `count` that are far from lying on one line."""
    return [0, count // 3, 2 * count // 3]


def _mesh(facets: list[_Facet], length: float) -> _Mesh:
    points = np.concatenate([facet.points for facet in facets])
    points[:, 2] -= length / 2
    first = np.cumsum([0] + [len(facet.points) for facet in facets])
    faces = [np.arange(start, stop) for start, stop in pairwise(first)]
    triples = np.array([face[_triple(len(face))] for face in faces])
    a, b, c = points[triples[:, 0]], points[triples[:, 1]], points[triples[:, 2]]
    normals = np.cross(b - a, c - a)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return _Mesh(
        points,
        faces,
        triples,
        normals,
        rgb=np.array([facet.rgb for facet in facets]),
        celsius=np.array([facet.celsius for facet in facets]),
        shiny=np.array([facet.shiny for facet in facets]),
        bias=np.array([facet.bias for facet in facets]),
        emits=np.array([facet.emits for facet in facets]),
    )
