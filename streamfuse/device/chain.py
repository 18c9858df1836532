"""Rigs of one kind on one device: their program, its recordings, and the frames under way.

Each rig has a `Seat`. Frames of all seats wait here and go through the device as `batching` says. There is
no thread: whoever submits a frame starts what can start, and whoever waits for a frame waits for the oldest
batch under way, takes its results, also those of other rigs, and starts what can start then. So a rig that
ended, or died between two frames, holds nobody up.
"""

import logging
import threading
from collections import Counter, deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from streamfuse.calibration.calibration import RigCalibration
from streamfuse.clock import Clock
from streamfuse.device.batching import Batching, Waiting
from streamfuse.device.graph import Replay
from streamfuse.device.program import Program, Work
from streamfuse.device.transfer import IN_FLIGHT, Arrays, Ring

log = logging.getLogger(__name__)

Results = dict[str, npt.NDArray[Any]]


class Recording(NamedTuple):
    """A work for a number of frames at once."""

    work: Work
    size: int

    def __str__(self) -> str:
        return f"{self.work}, {self.size} at once" if self.size > 1 else str(self.work)


@dataclass(eq=False, slots=True)
class _Request:
    """A frame on its way. size: of the batch it went with."""

    waiting: Waiting
    arrays: Arrays
    size: int = 0
    results: Results | None = None
    error: Exception | None = None


def inference(device: torch.device) -> ExitStack:
    """The state in which a program is made and run, of the calling thread."""
    stack = ExitStack()
    stack.enter_context(torch.inference_mode())
    if device.type == "cuda":
        stack.enter_context(torch.cuda.device(device))
    return stack


class Chain:
    """See the module. Made in `inference`; used by any thread.

    batches: how many of each size went through the device.
    """

    def __init__(self, program: Program, device: torch.device, *, clock: Clock) -> None:
        self.program, self._device, self._clock = program, device, clock
        self.batches: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._free_rows = list(reversed(range(program.rigs.count)))
        self._waiting: list[_Request] = []
        self._under_way: deque[list[_Request]] = deque()
        self._batching = Batching(program.rigs.count, cost_ns=self._cost_ns)
        self._ring = Ring(program.inputs, program.outputs, device, rows=self._batching.sizes[-1])
        runs = {
            Recording(work, size): partial(program.run, work, *self._ring.buffers(size))
            for size in self._batching.sizes
            for work in program.works
        }
        self.recordings = Replay(runs, stream=self._ring.stream)
        program.reset()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            log.info("%d of %d passes recorded as CUDA graphs", self.recordings.recorded, len(runs))

    @property
    def empty(self) -> bool:
        """No rig has a seat."""
        return len(self._free_rows) == self.program.rigs.count

    def take_seat(self, calibration: RigCalibration) -> "Seat":
        """For a rig of the program's geometry; there must be one left."""
        with self._lock, inference(self._device):
            row = self._free_rows.pop()
            self._settle()
            self.program.rigs.set(row, calibration)
            self._settle()
        return Seat(self, row, calibration)

    def leave_seat(self, row: int) -> None:
        """The rig has nothing under way."""
        with self._lock:
            self._free_rows.append(row)

    def _settle(self) -> None:
        """Calibrations are written by the default stream, and read by another one."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _cost_ns(self, work: Work, size: int) -> int:
        return self.recordings.device_ns.get(Recording(work, size), 0)

    # -- frames --------------------------------------------------------------------------------

    def submit(self, request: _Request) -> None:
        """Let a frame wait, and start what can start."""
        with self._lock:
            self._waiting.append(request)
            self._batching.came(request.waiting, now_ns=self._clock.now_ns())
            self._start()

    def finish(self, request: _Request) -> None:
        """Wait until a frame is back. Raises what went wrong with it."""
        while request.results is None and request.error is None:
            with self._lock:
                slot = self._ring.oldest
                batch = self._under_way[0] if self._under_way else None
            if slot is not None:
                slot.wait()
            with self._lock:
                # Another rig's thread may have waited for the same batch, and taken it.
                if batch is not None and self._under_way and self._under_way[0] is batch:
                    self._take()
                self._start()
        if request.error is not None:
            raise request.error

    def _take(self) -> None:
        """Hand out the results of the oldest batch."""
        for request, results in zip(self._under_way.popleft(), self._ring.take(), strict=True):
            request.results = results

    def _start(self) -> None:
        """Give the device what it has room for."""
        while (slot := self._ring.oldest) is not None and slot.ready:
            self._take()
        while self._waiting and not self._ring.full:
            busy_ns = sum(self._cost_ns(batch[0].waiting.work, len(batch)) for batch in self._under_way)
            places = self._batching.choose(
                [request.waiting for request in self._waiting], now_ns=self._clock.now_ns(), busy_ns=busy_ns
            )
            if not places:
                return
            batch = [self._waiting[place] for place in places]
            self._waiting = [request for request in self._waiting if request not in batch]
            for request in batch:
                request.size = len(batch)
            recording = Recording(batch[0].waiting.work, len(batch))
            try:
                with inference(self._device):
                    self._ring.submit([request.arrays for request in batch], self.recordings[recording])
            except Exception as error:  # noqa: BLE001 - raised where each frame is waited for
                for request in batch:
                    request.error = error
            else:
                self._under_way.append(batch)
                self.batches[len(batch)] += 1


@dataclass(eq=False, slots=True)
class Seat:
    """A rig's place in a chain. One thread uses it.

    row: of the program's rigs.
    """

    chain: Chain
    row: int
    calibration: RigCalibration
    _requests: deque[_Request] = field(default_factory=deque)

    def __len__(self) -> int:
        """Frames under way."""
        return len(self._requests)

    @property
    def full(self) -> bool:
        """A frame must be collected before the next one."""
        return len(self._requests) >= IN_FLIGHT

    def submit(self, arrays: Arrays, work: Work, *, latest_ns: int) -> None:
        """Start on a frame. arrays: as `Program` reads them, not changed until it is collected.

        latest_ns: when it has to be back. Not when `full`.
        """
        whose = {"rig": np.array([self.row], np.int64)}
        request = _Request(Waiting(self.row, work, latest_ns), {**whose, **arrays})
        self._requests.append(request)
        self.chain.submit(request)

    def collect(self) -> tuple[Results, int]:
        """The outputs of the oldest frame, waiting for them, and how many frames went together."""
        request = self._requests.popleft()
        self.chain.finish(request)
        assert request.results is not None
        return request.results, request.size

    def device_ns(self, work: Work, size: int) -> int | None:
        """How long the device takes for a batch; None: unknown."""
        return self.chain.recordings.device_ns.get(Recording(work, size))

    def leave(self) -> None:
        """Give the place to others. Nothing may be under way."""
        self.chain.leave_seat(self.row)
