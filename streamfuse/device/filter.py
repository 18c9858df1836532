"""`registration.field_filter` on the device: the same recursion, every branch of it a choice between tensors.

State that a frame does not change is written back as it was, so a frame that gives no field leaves no trace.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from streamfuse.device.estimator import Found
from streamfuse.registration.field_filter import (
    FIRST_NOISE,
    GATE,
    GRID,
    MAX_WITHHELD,
    MIN_GATE,
    MIN_TREND,
    NOISE_MEMORY,
    NOISE_OF_SURPRISE,
    PERSISTENCE,
    REFERENCE_SIDE,
    STEADY_GAIN,
    TREND,
)

FOLLOWED, WITHHELD, JUMPED = 0.0, 1.0, 2.0
"""Verdicts; the first field after a start counts as followed."""
LEAST_CONFIDENCE = 1e-3


class FieldFilter:
    """Recursive, gated mean of the fields of one stream pair.

    Args:
        shape: (rows, columns) of the visible picture.
    """

    def __init__(self, shape: tuple[int, int], *, device: torch.device | str) -> None:
        columns, rows = GRID
        x = (np.arange(columns) + 0.5) * shape[1] / columns - 0.5
        y = (np.arange(rows) + 0.5) * shape[0] / rows - 0.5
        self._rows, self._columns = (
            torch.from_numpy(np.rint(places).astype(np.int64)).to(device) for places in (y, x)
        )
        self._unit = max(shape) / REFERENCE_SIDE
        points = (2, rows, columns)
        self._trend, self._pending = (torch.zeros(points, device=device) for _ in range(2))
        self._weight, self._noise, self._withheld, self._is_pending = (
            torch.zeros((), device=device) for _ in range(4)
        )
        self.clear()

    def clear(self) -> None:
        """As made."""
        for tensor in (self._trend, self._pending, self._weight, self._withheld, self._is_pending):
            tensor.zero_()
        self._noise.fill_(FIRST_NOISE)

    def update(
        self,
        held: Tensor,
        found: Found,
        *,
        known: Tensor,
        good: Tensor,
        sure: Tensor,
        flow_of: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """The code to use after a frame, and the verdict; nothing changes where `good` is False.

        Args:
            held: the code in use, where `known`.
            sure: a change beyond noise needs no confirmation.
            flow_of: from a code to its field.
        """
        innovation = (self._points(flow_of(found.code)) - self._points(flow_of(held))) / self._unit
        gate = (GATE * self._noise).clamp_min(MIN_GATE)
        wild = known & (_length(innovation) > gate)
        again = (self._is_pending > 0) & (
            _length(innovation - self._pending) <= torch.maximum(gate, _length(self._pending) / 2)
        )
        withheld = self._withheld + 1
        believed = again | (withheld > MAX_WITHHELD) | sure
        starts = ~known | (wild & believed)
        waits = wild & ~believed

        surprise = _length(innovation - self._trend) * NOISE_OF_SURPRISE
        noise = ((1 - NOISE_MEMORY) * self._noise**2 + NOISE_MEMORY * surprise**2).sqrt()
        trend = (1 - PERSISTENCE) * self._trend + PERSISTENCE * innovation
        confidence = found.confidence.clamp_min(LEAST_CONFIDENCE)
        weight = (self._weight + confidence).clamp_max(1 / STEADY_GAIN)
        moving = _length(trend) / (TREND * noise).clamp_min(MIN_TREND)
        gain = confidence * torch.maximum(1 / weight, (moving**2).clamp_max(1))

        nothing, one = torch.zeros_like(weight), torch.ones_like(weight)
        self._keep(self._noise, good & ~wild & known, noise)
        self._keep(self._trend, good & ~waits, torch.where(starts, nothing, trend))
        self._keep(self._weight, good & ~waits, torch.where(starts, one, weight))
        self._keep(self._pending, good & waits, innovation)
        self._keep(self._is_pending, good, waits.float())
        self._keep(self._withheld, good, torch.where(waits, withheld, nothing))
        mixed = held + gain * (found.code - held)
        code = torch.where(starts, found.code, torch.where(waits, held, mixed))
        verdict = torch.where(waits, one * WITHHELD, torch.where(wild, one * JUMPED, one * FOLLOWED))
        return code, verdict * good

    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        """Root mean square distance of two fields, pixels of a REFERENCE_SIDE picture."""
        return _length((self._points(one) - self._points(other)) / self._unit)

    def _points(self, flow: Tensor) -> Tensor:
        """A field (1, 2, H, W) at the middles of a coarse grid, (2, rows, columns)."""
        return flow[0].index_select(1, self._rows).index_select(2, self._columns)

    @staticmethod
    def _keep(state: Tensor, where: Tensor, new: Tensor) -> None:
        state.copy_(torch.where(where, new, state))


def _length(points: Tensor) -> Tensor:
    """Root mean square length of the displacements."""
    return points.square().sum(dim=0).mean().sqrt()
