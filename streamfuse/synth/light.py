"""What shines on the street, as multipliers on painted colours, and how warm that makes things."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Rgb = npt.NDArray[np.float32]


def rgb(r: float, g: float, b: float) -> Rgb:
    """A colour, float32 (3,), 0..255 or a multiplier."""
    return np.array([r, g, b], np.float32)


@dataclass(frozen=True, slots=True)
class Light:
    """Multipliers for surfaces in shade (`ambient`) and what the sun adds to those that face it.

    to_sun: unit vector. sun_kelvin: how much warmer full sun makes masonry. lamps: street lamps and
    windows are lit. sky_top, sky_low, cloud: colours 0..255.
    """

    ambient: Rgb
    sun: Rgb
    to_sun: Rgb
    sun_kelvin: float
    lamps: bool
    sky_top: Rgb
    sky_low: Rgb
    cloud: Rgb

    def on(self, normal: tuple[float, float, float]) -> Rgb:
        """Multiplier for an unshadowed surface with this outward normal, float32 (3,)."""
        facing = max(0.0, float(np.dot(normal, self.to_sun)))
        return np.asarray(self.ambient + self.sun * facing, np.float32)

    def warming(self, normal: tuple[float, float, float]) -> float:
        """Kelvin above shade temperature for an unshadowed surface with this outward normal."""
        return self.sun_kelvin * max(0.0, float(np.dot(normal, self.to_sun)))


_TO_SUN = rgb(-0.55, -0.75, -0.37)

LIGHTS: dict[Literal["day", "dusk", "night"], Light] = {
    "day": Light(
        ambient=rgb(0.50, 0.54, 0.60),
        sun=rgb(0.74, 0.70, 0.62),
        to_sun=_TO_SUN,
        sun_kelvin=7.0,
        lamps=False,
        sky_top=rgb(92, 138, 196),
        sky_low=rgb(196, 214, 228),
        cloud=rgb(246, 246, 244),
    ),
    "dusk": Light(
        ambient=rgb(0.40, 0.39, 0.43),
        sun=rgb(0.10, 0.07, 0.05),
        to_sun=_TO_SUN,
        sun_kelvin=3.5,
        lamps=True,
        sky_top=rgb(84, 96, 132),
        sky_low=rgb(226, 176, 138),
        cloud=rgb(190, 158, 150),
    ),
    "night": Light(
        ambient=rgb(0.085, 0.09, 0.12),
        sun=rgb(0.0, 0.0, 0.0),
        to_sun=_TO_SUN,
        sun_kelvin=1.5,
        lamps=True,
        sky_top=rgb(10, 12, 22),
        sky_low=rgb(36, 32, 36),
        cloud=rgb(40, 36, 40),
    ),
}

LAMP_COLOUR = rgb(1.0, 0.80, 0.52)
LAMP_SPACING_M = 24.0
LAMP_HEIGHT_M = 5.6


def lamp_glow(z: npt.NDArray[np.float32], across: npt.NDArray[np.float32], offset: float) -> Rgb:
    """Multiplier that street lamps add: (z, distance across from the lamp row) -> float32 (..., 3)."""
    along = np.abs((z - offset + LAMP_SPACING_M / 2) % LAMP_SPACING_M - LAMP_SPACING_M / 2)
    falloff = 1.0 / (1.0 + (along**2 + across**2) / 9.0) ** 1.5
    return np.asarray(0.85 * falloff[..., None] * LAMP_COLOUR, np.float32)
