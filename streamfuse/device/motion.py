"""Motion compensation for frames under way: `pairing.motion` on the host, its fields sent with the pictures.

Problem. What moves is found on registered pictures, but a pair's own field is found after the pair went in,
and waiting for it would leave the device idle. Design. The newest field that has come back stands in, of a
frame or two before: fields belong to the rig, and are filtered, so motion is judged as on the CPU. After a
start the second pair waits for the first one's field, once; the first is shown as it is.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from streamfuse.calibration.calibration import RigCalibration
from streamfuse.frame import FramePair, Image8, Registration, Status
from streamfuse.fusion.colour import luma
from streamfuse.pairing.motion import Compensation, Mode, MotionCompensator
from streamfuse.registration.temporal import identity

PARTS: dict[Mode, int] = {"causal": 1, "interpolate": 2}
"""Infrared frames that the picture may be mixed from."""


class HostMotion:
    """The host's half of motion compensation. One thread uses it.

    Args:
        registers: there is a registrar; else fields need not be waited for.
    """

    def __init__(self, mode: Mode, *, registers: bool) -> None:
        self._compensator = MotionCompensator(mode)
        self._parts = PARTS[mode]
        self._start = None if registers else identity(Status.CALIBRATION, "")
        self._field = self._start

    def reset(self) -> None:
        """The past ended: forget pictures and field."""
        self._compensator.reset()
        self._field = self._start

    def learn(self, registration: Registration) -> None:
        """What a frame was registered with that came back."""
        self._field = registration

    def waits(self, pair: FramePair) -> bool:
        """Whether nothing can be said before a field has come back."""
        return self._field is None and self._compensator.wakes(pair)

    def compensate(self, pair: FramePair, vis: Image8, calibration: RigCalibration) -> Compensation | None:
        """As `MotionCompensator.compensate`; without a field it only looks. vis: uint8 (H, W, 3)."""
        if not self._compensator.wakes(pair):
            return None
        field = self._field or identity(Status.CALIBRATION, "")
        moved = self._compensator.compensate(
            pair, luma(vis), field, lambda image: calibration.bring_infrared(image)[0]
        )
        return None if self._field is None else moved

    def arrays(self, pair: FramePair, moved: Compensation) -> dict[str, npt.NDArray[Any]]:
        """What the program reads besides (see `program.Program`): the pair's own infrared frame first."""
        assert pair.ir is not None
        seq = pair.ir.seq
        own, *rest = sorted(moved.parts, key=lambda part: part.ir.seq != seq)
        if self._parts == 1:
            return {"motion": own.flow[None]}
        other, share = (rest[0], rest[0].weight) if rest else (own, 0.0)
        return {
            "motion": np.stack([own.flow, other.flow]),
            "other": other.ir.image,
            "share": np.array([share], np.float32),
        }
