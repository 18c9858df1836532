"""Pictures to the device and back while it computes.

Problem. A copy that waits for the device, or a device that waits for a copy, costs more than the work itself;
memory that is not pinned cannot be copied in the background at all, and pinning takes milliseconds.
Design. A ring of as many slots as batches of frames may be under way. Each has a pinned block of bytes each
way and its twin on the device, all made once. Copies up, work, and copies down have a stream each. Streams
wait for one another by events, on the device; the host waits for one event only, that a batch's results
have arrived, and only when it takes them. A slot is used again after that, which is why nothing else needs
guarding.

The work reads and writes two blocks of its own, whose addresses a recorded graph can rely on; a batch is
copied in and out of their first rows on the device, a few microseconds.

On the CPU the same ring copies and computes at once.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from streamfuse.device.layout import Layout

IN_FLIGHT = 2
"""One batch computes while the next one's pictures arrive and the last one's leave. More would only be
older."""
Arrays = Mapping[str, npt.NDArray[Any]]


class Slot:
    """The blocks of one batch under way."""

    def __init__(self, inputs: Layout, outputs: Layout, device: torch.device, rows: int) -> None:
        self.on_cuda = device.type == "cuda"
        self.count = 0
        self.up = inputs.block(rows=rows, pinned=self.on_cuda)
        self.down = outputs.block(rows=rows, pinned=self.on_cuda)
        self.up_arrays = {name: view.numpy() for name, view in inputs.views(self.up).items()}
        self.down_arrays = {name: view.numpy() for name, view in outputs.views(self.down).items()}
        if self.on_cuda:
            self.device_up = inputs.block(rows=rows, device=device)
            self.device_down = outputs.block(rows=rows, device=device)
            self.uploaded, self.computed = _event(), _event()
            # The waiting thread sleeps: an encoder may need its core.
            self.arrived = _event(blocking=True)

    @property
    def ready(self) -> bool:
        """The results are here. On the CPU only for who waits, so that batches form as on a device."""
        return self.on_cuda and bool(self.arrived.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Until the results are here. Any thread, also several."""
        if self.on_cuda:
            self.arrived.synchronize()


class Ring:
    """Batches under way on a device, oldest first. One thread at a time uses it.

    stream: the one that work runs on; None on the CPU.

    Args:
        inputs, outputs: of a frame. rows: most frames in a batch.
    """

    def __init__(self, inputs: Layout, outputs: Layout, device: torch.device, *, rows: int = 1) -> None:
        self._device, self._inputs, self._outputs = device, inputs, outputs
        self._in, self._out = (layout.block(rows=rows, device=device) for layout in (inputs, outputs))
        self._free = [Slot(inputs, outputs, device, rows) for _ in range(IN_FLIGHT)]
        self._under_way: deque[Slot] = deque()
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self.stream, self._upward, self._downward = (_stream(device) for _ in range(3))
            # What was zeroed on the default stream must be so before another one writes it.
            torch.cuda.synchronize(device)

    def buffers(self, count: int) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """What the work on a batch of `count` frames reads and writes, by name."""
        return self._inputs.views(self._in[:count]), self._outputs.views(self._out[:count])

    @property
    def full(self) -> bool:
        """A batch must be taken before the next one."""
        return not self._free

    @property
    def oldest(self) -> Slot | None:
        """The batch whose results come first; None: none is under way."""
        return self._under_way[0] if self._under_way else None

    def submit(self, frames: Sequence[Arrays], work: Callable[[], None]) -> None:
        """Start on a batch. Not when `full`.

        frames: arrays of each, read before this returns; those that the work does not read may be missing.
        """
        slot = self._free[-1]
        for row, arrays in enumerate(frames):
            for name, array in arrays.items():
                np.copyto(slot.up_arrays[name][row], array, casting="no")
        slot.count = len(frames)
        if self.stream is None:
            self._in[: slot.count].copy_(slot.up[: slot.count])
            work()
            slot.down[: slot.count].copy_(self._out[: slot.count])
        else:
            with torch.cuda.device(self._device):
                self._start(slot, self.stream, work)
        self._under_way.append(self._free.pop())

    def _start(self, slot: Slot, stream: "torch.cuda.Stream", work: Callable[[], None]) -> None:
        rows = slice(slot.count)
        with torch.cuda.stream(self._upward):
            slot.device_up[rows].copy_(slot.up[rows], non_blocking=True)
            slot.uploaded.record()
        with torch.cuda.stream(stream):
            stream.wait_event(slot.uploaded)
            self._in[rows].copy_(slot.device_up[rows])
            work()
            slot.device_down[rows].copy_(self._out[rows])
            slot.computed.record()
        with torch.cuda.stream(self._downward):
            self._downward.wait_event(slot.computed)
            slot.down[rows].copy_(slot.device_down[rows], non_blocking=True)
            slot.arrived.record()

    def take(self) -> list[dict[str, npt.NDArray[Any]]]:
        """The outputs of each frame of the oldest batch, as arrays of their own. Waits for them."""
        self._under_way[0].wait()
        slot = self._under_way.popleft()
        self._free.append(slot)
        return [
            {name: arrays[row].copy() for name, arrays in slot.down_arrays.items()}
            for row in range(slot.count)
        ]


def _event(*, blocking: bool = False) -> "torch.cuda.Event":
    return torch.cuda.Event(blocking=blocking)  # type: ignore[no-untyped-call]


def _stream(device: torch.device) -> "torch.cuda.Stream":
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
