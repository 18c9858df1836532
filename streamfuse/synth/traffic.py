"""Who moves: walkers, people who cross at the zebra, people who stand, cars in two lanes, parked cars.

Cars pass the zebra in the first part of each cycle and people in the second, as lights would have it.
Every position is a function of time alone.
"""

from collections.abc import Callable

import numpy as np

from streamfuse.synth import ground
from streamfuse.synth.bodies import BODIES, BUS
from streamfuse.synth.canvas import Item, Sprite, Texture, texture
from streamfuse.synth.cars import Car
from streamfuse.synth.geometry import DOWN, RIGHT, Camera, Matrix
from streamfuse.synth.light import Light
from streamfuse.synth.nature import paint_halo
from streamfuse.synth.noise import Sway, blur, generator
from streamfuse.synth.options import SceneOptions
from streamfuse.synth.people import Person, Pose

Placed = tuple[float, float, Item]
"""(x, z, item): what the drawing order is made from."""

CYCLE_S = 20.0
CARS_PASS_S = (0.8, 8.2)
WALK_STARTS_S = 10.3
CAR_LOOP_M = 190.0
CAR_SPEED_M_S = CAR_LOOP_M / CYCLE_S
BEHIND_M = 14.0
"""How far behind the rig things go on before they come back at the far end."""
WALK_LOOP_M = 62.0
NEAREST_WALKER_M = 1.5
STROLL_M_S = (1.05, 1.5)
CROSS_M_S = 1.42
ZEBRA_Z_M = sum(ground.CROSSING_M) / 2


class Traffic:
    """All actors of a scene."""

    def __init__(self, options: SceneOptions, light: Light, sunlit: Callable[[float, float], float]) -> None:
        seed = options.seed
        self._light = light
        self._sunlit = sunlit
        self._bus_at_s = options.bus_at_s
        self._people = [_Walker(seed, k, light) for k in range(options.people)]
        self._cars = [_Driver(seed, k, options.cars, light) for k in range(options.cars)]
        self._bus = Car(generator(seed, "bus"), BUS, light, driving=True)
        self._parked = _parked(seed, options.parked, light)
        self._halo = paint_halo()
        self._contact = _soft_shadow(0.40)
        self._cast = _soft_shadow(0.46)

    def items(self, t_s: float, camera: Camera, travelled_m: float) -> tuple[list[Item], list[Placed]]:
        """(shadows on the ground, actors with their places)."""
        shadows: list[Item] = []
        actors: list[Placed] = []
        for walker in self._people:
            pose = walker.pose(t_s, travelled_m)
            if not NEAREST_WALKER_M < pose.z < WALK_LOOP_M or not _in_view(pose, camera):
                continue
            sun = self._sunlit(pose.x, pose.z + travelled_m)
            shadows += self._under_person(pose, walker.person.height, sun)
            actors.append((pose.x, pose.z, walker.person.sprite(pose, camera, sun)))
        for car, x, z, oncoming, moving in self._vehicles(t_s, travelled_m):
            sun = self._sunlit(x, z + travelled_m)
            shadows.append(self._under_car(car, x, z, sun))
            actors.append((x, z, car.solid(x, z, oncoming=oncoming, sunlit=sun, moving=moving)))
            if self._light.lamps and oncoming and moving:
                actors += self._headlights(car, x, z)
        return shadows, actors

    def _vehicles(self, t_s: float, travelled_m: float) -> list[tuple[Car, float, float, bool, bool]]:
        found = []
        for driver in self._cars:
            z = _wrap(driver.z(t_s) - travelled_m, CAR_LOOP_M)
            found.append((driver.car, driver.x, z, driver.oncoming, True))
        for car, x, at in self._parked:
            found.append((car, x, _wrap(at - travelled_m, ground.PERIOD_M), False, False))
        if self._bus_at_s is not None:
            z = CAR_SPEED_M_S * (self._bus_at_s - t_s)
            if -BEHIND_M < z < ground.FAR_M:
                found.append((self._bus, ground.LANE_ONCOMING_M, z, True, True))
        return [entry for entry in found if entry[2] > -entry[0].body.length / 2]

    def _under_person(self, pose: Pose, height: float, sun: float) -> list[Item]:
        feet = np.array([pose.x, 0.0, pose.z])
        marks = [_on_ground(self._contact, feet, RIGHT, 0.8, 0.5)]
        if sun > 0.3:
            away = -self._light.to_sun * np.array([1.0, 0, 1.0])
            length = height * float(np.linalg.norm(away)) / -float(self._light.to_sun[1])
            along = np.asarray(away / np.linalg.norm(away), np.float64)
            marks.append(_on_ground(self._cast, feet + along * length / 2, along, length * 1.1, 0.55))
        return list(marks)

    def _under_car(self, car: Car, x: float, z: float, sun: float) -> Item:
        shift = 0.45 if sun > 0.3 else 0.0
        centre = np.array([x + shift, 0.0, z])
        return _on_ground(self._cast, centre, RIGHT, 2.9 + shift, car.body.length * 1.18)

    def _headlights(self, car: Car, x: float, z: float) -> list[Placed]:
        front = z - car.body.length / 2 - 0.05
        lamps = (x - car.body.half_width + 0.23, x + car.body.half_width - 0.23)
        corner = [np.array([lamp - 1.1, -1.75, front]) for lamp in lamps]
        glare = [Sprite(self._halo, c, RIGHT, DOWN, ghost=True, visible_only=True) for c in corner]
        return [(x, front, sprite) for sprite in glare]


class _Walker:
    """A person and where they go."""

    def __init__(self, seed: int, k: int, light: Light) -> None:
        rng = generator(seed, "person", k)
        self.person = Person(rng, light)
        self._habit = ("stroll", "cross", "stroll", "stand", "stroll", "cross")[k % 6]
        self._right_side = k % 4 != 2
        near, far = (1.9, 3.6) if self._right_side else (-9.6, -8.2)
        self._x = float(rng.uniform(near, far))
        self._speed = float(rng.uniform(*STROLL_M_S)) * (1 if rng.random() < 0.5 else -1)
        # Spread over the first half of the loop, where they are large enough to matter.
        self._z0 = 6.0 + (k * 7.3 + float(rng.uniform(0, 3))) % 34.0
        self._delay = float(rng.uniform(0, 1.3))
        self._from_left = k % 2 == 1
        self._zebra_z = ZEBRA_Z_M + float(rng.uniform(-1.2, 1.2))
        self._heading = float(rng.uniform(-2.5, 2.5))
        self._sway = Sway(rng, amplitude=0.03, hz=0.2)

    def pose(self, t_s: float, travelled_m: float) -> Pose:
        if self._habit == "cross":
            return self._crossing(t_s, travelled_m)
        if self._habit == "stand":
            z = _wrap(self._z0 + 4.0 - travelled_m, ground.PERIOD_M)
            x = 3.7 if self._right_side else -9.7
            return Pose(x + self._sway(t_s), z, self._heading + 4 * self._sway(t_s * 1.7), 0.0, 0.12)
        walked = abs(self._speed) * t_s
        z = _wrap(self._z0 + self._speed * t_s - travelled_m, WALK_LOOP_M)
        x = self._x + self._sway(t_s)
        return Pose(x, z, 0.0 if self._speed > 0 else np.pi, walked, 1.0)

    def _crossing(self, t_s: float, travelled_m: float) -> Pose:
        """Over on green, wait for a cycle, back on the next green."""
        left, right = ground.KERB_LEFT_M - 0.7, ground.KERB_RIGHT_M + 0.7
        start = WALK_STARTS_S + self._delay
        lap, within = divmod(t_s, CYCLE_S)
        distance = float(np.clip((within - start) * CROSS_M_S, 0, right - left))
        to_right = self._from_left == (int(lap) % 2 == 0)
        x = left + distance if to_right else right - distance
        walking = 0 < distance < right - left
        z = _wrap(self._zebra_z - travelled_m, ground.PERIOD_M)
        heading = np.pi / 2 if to_right else -np.pi / 2
        if distance >= right - left:
            heading = -heading
        return Pose(x + 0.3 * self._sway(t_s), z, heading, distance, 1.0 if walking else 0.08)


class _Driver:
    """A car in a lane that passes the zebra at its own moment of each cycle."""

    def __init__(self, seed: int, k: int, count: int, light: Light) -> None:
        rng = generator(seed, "car", k)
        self.car = Car(rng, BODIES[int(rng.integers(len(BODIES)))], light, driving=True)
        self.oncoming = k % 2 == 0
        self.x = ground.LANE_ONCOMING_M if self.oncoming else ground.LANE_AWAY_M
        share = (k // 2 + 0.5) / ((count + 1) // 2)
        self._passes_s = CARS_PASS_S[0] + (CARS_PASS_S[1] - CARS_PASS_S[0]) * share

    def z(self, t_s: float) -> float:
        ahead = CAR_SPEED_M_S * (t_s - self._passes_s)
        return ZEBRA_Z_M - ahead if self.oncoming else ZEBRA_Z_M + ahead


def _parked(seed: int, count: int, light: Light) -> list[tuple[Car, float, float]]:
    """(car, x, z): bays of 6 m on the left, not on the zebra."""
    bays = [z for z in np.arange(6.0, ground.PERIOD_M, 6.0) if not 10.0 < z < 21.0][:count]
    parked = []
    for k, z in enumerate(bays):
        rng = generator(seed, "parked", k)
        car = Car(rng, BODIES[int(rng.integers(len(BODIES)))], light, driving=False)
        parked.append(
            (car, (ground.KERB_LEFT_M + ground.PARKING_M) / 2 + float(rng.normal(0, 0.06)), float(z))
        )
    return parked


def _in_view(pose: Pose, camera: Camera) -> bool:
    """Whether any of a person two metres wide may be on the picture."""
    xz, _, z = camera.to_pixels(np.array([pose.x, -1.0, pose.z])).tolist()
    reach = camera.focal
    return bool(-reach < xz < camera.width * z + reach)


def _wrap(z: float, loop_m: float) -> float:
    return (z + BEHIND_M) % loop_m - BEHIND_M


def _soft_shadow(strength: float) -> Texture:
    """A blurred black blob that fills one unit square."""
    side = 64
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    blob = np.clip((1.0 - (np.abs(x) ** 3 + np.abs(y) ** 3) ** (1 / 3)) * 3.2, 0, 1) * strength
    alpha = blur(blob.astype(np.float32), 2.0)
    return texture(np.zeros((side, side, 3)), np.zeros((side, side)), alpha, ppm=float(side), mips=3)


def _on_ground(blob: Texture, centre: Matrix, along: Matrix, length: float, width: float) -> Sprite:
    """A unit square laid on the ground, stretched to `length` along `along` and `width` across."""
    u, v = along * length, np.cross(along, DOWN) * width
    return Sprite(blob, centre - u / 2 - v / 2, u, v, ghost=True, visible_only=True)
