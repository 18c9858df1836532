"""Pictures to the device and back while it computes.

Problem. A copy that waits for the device, or a device that waits for a copy, costs more than the work itself;
memory that is not pinned cannot be copied in the background at all, and pinning takes milliseconds.
Design. A ring of as many slots as frames may be under way. Each has a pinned block of bytes each way and its
twin on the device, all made once. Copies up, work, and copies down have a stream each. Streams wait for one
another by events, on the device; the host waits for one event only, that a frame's result has arrived, and
only when it collects it. A slot is used again after that, which is why nothing else needs guarding.

The work reads and writes two blocks of its own, whose addresses a recorded graph can rely on; a frame is
copied in and out of them on the device, a few microseconds.

On the CPU the same ring copies and computes at once.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from streamfuse.device.layout import Layout

IN_FLIGHT = 2
"""One frame computes while the next one's pictures arrive and the last one's leave. More would only be
older."""
Arrays = Mapping[str, npt.NDArray[Any]]


class _Slot:
    """The blocks of one frame under way."""

    def __init__(self, inputs: Layout, outputs: Layout, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self.up = inputs.block(pinned=pinned)
        self.down = outputs.block(pinned=pinned)
        self.up_arrays = {name: view.numpy() for name, view in inputs.views(self.up).items()}
        self.down_arrays = {name: view.numpy() for name, view in outputs.views(self.down).items()}
        if pinned:
            self.device_up = inputs.block(device=device)
            self.device_down = outputs.block(device=device)
            self.uploaded, self.computed = _event(), _event()
            # The waiting thread sleeps: an encoder may need its core.
            self.arrived = _event(blocking=True)


class Ring:
    """Frames under way on a device, oldest first.

    inputs, outputs: the tensors that the work reads and writes, by name.
    stream: the one that work runs on; None on the CPU.
    """

    def __init__(self, inputs: Layout, outputs: Layout, device: torch.device) -> None:
        self._device = device
        self._in, self._out = inputs.block(device=device), outputs.block(device=device)
        self.inputs, self.outputs = inputs.views(self._in), outputs.views(self._out)
        self._free = [_Slot(inputs, outputs, device) for _ in range(IN_FLIGHT)]
        self._under_way: deque[_Slot] = deque()
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self.stream, self._upward, self._downward = (_stream(device) for _ in range(3))
            # What was zeroed on the default stream must be so before another one writes it.
            torch.cuda.synchronize(device)

    def __len__(self) -> int:
        return len(self._under_way)

    @property
    def full(self) -> bool:
        """A frame must be collected before the next one."""
        return not self._free

    def submit(self, arrays: Arrays, work: Callable[[], None]) -> None:
        """Start on a frame. `arrays`: every input, read before this returns. Not when `full`."""
        slot = self._free.pop()
        for name, array in arrays.items():
            np.copyto(slot.up_arrays[name], array, casting="no")
        if self.stream is None:
            self._in.copy_(slot.up)
            work()
            slot.down.copy_(self._out)
        else:
            with torch.cuda.device(self._device):
                self._start(slot, self.stream, work)
        self._under_way.append(slot)

    def _start(self, slot: _Slot, stream: "torch.cuda.Stream", work: Callable[[], None]) -> None:
        with torch.cuda.stream(self._upward):
            slot.device_up.copy_(slot.up, non_blocking=True)
            slot.uploaded.record()
        with torch.cuda.stream(stream):
            stream.wait_event(slot.uploaded)
            self._in.copy_(slot.device_up)
            work()
            slot.device_down.copy_(self._out)
            slot.computed.record()
        with torch.cuda.stream(self._downward):
            self._downward.wait_event(slot.computed)
            slot.down.copy_(slot.device_down, non_blocking=True)
            slot.arrived.record()

    def collect(self) -> dict[str, npt.NDArray[Any]]:
        """The outputs of the oldest frame, as arrays of their own. Waits for them."""
        slot = self._under_way.popleft()
        if self.stream is not None:
            slot.arrived.synchronize()
        self._free.append(slot)
        return {name: array.copy() for name, array in slot.down_arrays.items()}


def _event(*, blocking: bool = False) -> "torch.cuda.Event":
    return torch.cuda.Event(blocking=blocking)  # type: ignore[no-untyped-call]


def _stream(device: torch.device) -> "torch.cuda.Stream":
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
