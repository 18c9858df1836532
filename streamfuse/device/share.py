"""What the rigs of one process share on their devices: networks, and a chain for each kind of rig."""

import threading
from collections import Counter
from typing import Any

import torch

from streamfuse.calibration.calibration import RigCalibration
from streamfuse.clock import Clock, RealClock
from streamfuse.config import Component
from streamfuse.device.build import Parts
from streamfuse.device.chain import Chain, Seat, inference
from streamfuse.device.program import Rules
from streamfuse.device.rig import Geometry


class DeviceShare:
    """Gives rigs their seats. Any thread may use it.

    Rigs with the same registrar, fuser, options and sizes share a chain, so frames of theirs can go through
    the device together; others have chains of their own.

    Args:
        rigs: how many there will be.
    """

    def __init__(self, rigs: int = 1, *, clock: Clock | None = None) -> None:
        self._rigs = rigs
        self._clock = clock or RealClock()
        self._lock = threading.Lock()
        self._parts: dict[Any, Parts] = {}
        self._chains: dict[Any, Chain] = {}

    def parts(self, registration: Component, fusion: Component, *, device: str) -> Parts:
        """The networks. Raises WeightsError."""
        key = _key(registration, fusion, device)
        with self._lock, inference(torch.device(device)):
            if key not in self._parts:
                self._parts[key] = Parts(registration, fusion, device=torch.device(device))
            return self._parts[key]

    def take_seat(
        self,
        registration: Component,
        fusion: Component,
        calibration: RigCalibration,
        rules: Rules,
        *,
        device: str,
        parts: int,
    ) -> Seat:
        """A place for a rig. The first one of its kind waits until everything is recorded, others with it.

        parts: as of `Program`.
        """
        made = self.parts(registration, fusion, device=device)
        key = (*_key(registration, fusion, device), Geometry.of(calibration), rules, parts)
        with self._lock:
            if key not in self._chains:
                where = torch.device(device)
                with inference(where):
                    program = made.program(calibration, rules, parts=parts, rigs=self._rigs)
                    self._chains[key] = Chain(program, where, clock=self._clock)
            return self._chains[key].take_seat(calibration)

    @property
    def batches(self) -> Counter[int]:
        """How many batches of each size went through the device."""
        with self._lock:
            return sum((chain.batches for chain in self._chains.values()), Counter())

    def leave_seat(self, seat: Seat) -> None:
        """Give a place back, with nothing under way; a chain that nobody needs any more goes, too."""
        with self._lock:
            seat.leave()
            self._chains = {key: chain for key, chain in self._chains.items() if not chain.empty}


def _key(registration: Component, fusion: Component, device: str) -> tuple[str, ...]:
    components = ((part.kind, part.options.model_dump_json()) for part in (registration, fusion))
    return (device, *(text for component in components for text in component))
