"""Side profiles of cars, a van and a bus."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Body:
    """A profile: station -> (metres from the rear, sill, belt line, roof), and widths."""

    stations: npt.NDArray[np.float64]
    half_width: float
    half_roof: float
    pillars: tuple[int, ...]
    """Intervals between stations whose cabin sides are paint, not glass."""
    screens: tuple[int, ...]
    """Intervals whose top is glass: rear window and windscreen."""
    wheels: tuple[float, float]
    wheel_radius: float

    @property
    def length(self) -> float:
        return float(self.stations[-1, 0])


def _profile(rows: list[tuple[float, float, float, float]]) -> npt.NDArray[np.float64]:
    return np.array(rows, np.float64)


SALOON = Body(
    _profile(
        [
            (0.00, 0.34, 0.80, 0.80),
            (0.10, 0.24, 0.96, 0.96),
            (0.55, 0.22, 1.00, 1.00),
            (1.00, 0.22, 0.99, 1.27),
            (1.35, 0.22, 0.98, 1.42),
            (1.95, 0.22, 0.96, 1.46),
            (2.05, 0.22, 0.96, 1.46),
            (2.55, 0.22, 0.95, 1.40),
            (3.15, 0.22, 0.95, 1.00),
            (3.25, 0.22, 0.94, 0.94),
            (3.90, 0.22, 0.86, 0.86),
            (4.25, 0.24, 0.74, 0.74),
            (4.40, 0.30, 0.66, 0.66),
        ]
    ),
    0.88,
    0.60,
    (2, 5),
    (2, 3, 7),
    (0.85, 3.50),
    0.32,
)
HATCH = Body(
    _profile(
        [
            (0.00, 0.36, 0.84, 0.84),
            (0.06, 0.24, 0.98, 1.04),
            (0.40, 0.22, 0.98, 1.40),
            (0.75, 0.22, 0.97, 1.49),
            (1.45, 0.22, 0.96, 1.52),
            (1.55, 0.22, 0.96, 1.52),
            (2.15, 0.22, 0.95, 1.46),
            (2.85, 0.22, 0.96, 1.02),
            (2.95, 0.22, 0.95, 0.95),
            (3.55, 0.22, 0.88, 0.88),
            (3.85, 0.24, 0.76, 0.76),
            (3.98, 0.30, 0.66, 0.66),
        ]
    ),
    0.86,
    0.60,
    (2, 4),
    (1, 6),
    (0.75, 3.20),
    0.31,
)
VAN = Body(
    _profile(
        [
            (0.00, 0.36, 1.00, 1.00),
            (0.05, 0.28, 1.10, 1.88),
            (0.15, 0.26, 1.10, 1.96),
            (2.20, 0.26, 1.10, 1.98),
            (2.60, 0.26, 1.08, 1.98),
            (3.30, 0.26, 1.06, 1.90),
            (4.00, 0.26, 1.06, 1.20),
            (4.10, 0.26, 1.05, 1.05),
            (4.60, 0.26, 0.90, 0.90),
            (4.75, 0.36, 0.66, 0.66),
        ]
    ),
    0.95,
    0.78,
    (1, 2, 3),
    (5,),
    (0.90, 3.85),
    0.34,
)
BUS = Body(
    _profile(
        [
            (0.00, 0.36, 1.30, 2.95),
            (0.08, 0.30, 1.30, 3.05),
            (2.40, 0.30, 1.30, 3.10),
            (2.55, 0.30, 1.30, 3.10),
            (4.60, 0.30, 1.30, 3.10),
            (4.75, 0.30, 1.30, 3.10),
            (6.80, 0.30, 1.30, 3.10),
            (6.95, 0.30, 1.30, 3.10),
            (9.40, 0.30, 1.30, 3.08),
            (10.20, 0.30, 1.20, 3.00),
            (10.40, 0.36, 1.00, 2.90),
        ]
    ),
    1.25,
    1.20,
    (0, 2, 4, 6),
    (),
    (2.2, 8.3),
    0.48,
)
BODIES = (SALOON, HATCH, SALOON, HATCH, VAN)
