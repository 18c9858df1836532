"""`registration.field_filter` on the device: the same recursion, every branch of it a choice between tensors.

State that a frame does not change is written back as it was, so a frame that gives no field leaves no trace.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from streamfuse.device.estimator import Found
from streamfuse.device.memory import Rows, spread
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


@dataclass(slots=True)
class FilterState(Rows):
    """Of each rig. trend, pending: (B, 2, rows, columns) of GRID; the others (B,)."""

    trend: Tensor
    pending: Tensor
    weight: Tensor
    noise: Tensor
    withheld: Tensor
    is_pending: Tensor

    @classmethod
    def fresh(cls, count: int, *, device: torch.device | str) -> "FilterState":
        """As nothing was seen yet."""
        columns, rows = GRID
        trend, pending = (torch.zeros(count, 2, rows, columns, device=device) for _ in range(2))
        weight, noise, withheld, is_pending = (torch.zeros(count, device=device) for _ in range(4))
        return cls(trend, pending, weight, noise + FIRST_NOISE, withheld, is_pending)


class FieldFilter:
    """Recursive, gated mean of the fields of stream pairs.

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

    def update(
        self,
        state: FilterState,
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
            state: changed in place.
            held: the code in use, where `known`.
            sure: a change beyond noise needs no confirmation.
            flow_of: from a code to its field.
        """
        innovation = (self._points(flow_of(found.code)) - self._points(flow_of(held))) / self._unit
        gate = (GATE * state.noise).clamp_min(MIN_GATE)
        wild = known & (_length(innovation) > gate)
        again = (state.is_pending > 0) & (
            _length(innovation - state.pending) <= torch.maximum(gate, _length(state.pending) / 2)
        )
        withheld = state.withheld + 1
        believed = again | (withheld > MAX_WITHHELD) | sure
        starts = ~known | (wild & believed)
        waits = wild & ~believed

        surprise = _length(innovation - state.trend) * NOISE_OF_SURPRISE
        noise = ((1 - NOISE_MEMORY) * state.noise**2 + NOISE_MEMORY * surprise**2).sqrt()
        trend = (1 - PERSISTENCE) * state.trend + PERSISTENCE * innovation
        confidence = found.confidence.clamp_min(LEAST_CONFIDENCE)
        weight = (state.weight + confidence).clamp_max(1 / STEADY_GAIN)
        moving = _length(trend) / (TREND * noise).clamp_min(MIN_TREND)
        gain = confidence * torch.maximum(1 / weight, (moving**2).clamp_max(1))

        nothing, one = torch.zeros_like(weight), torch.ones_like(weight)
        state.trend = torch.where(spread(good & ~waits, trend), trend * spread(~starts, trend), state.trend)
        state.pending = torch.where(spread(good & waits, innovation), innovation, state.pending)
        state.noise = torch.where(good & ~wild & known, noise, state.noise)
        state.weight = torch.where(good & ~waits, torch.where(starts, one, weight), state.weight)
        state.is_pending = torch.where(good, waits.float(), state.is_pending)
        state.withheld = torch.where(good, torch.where(waits, withheld, nothing), state.withheld)
        mixed = held + spread(gain, held) * (found.code - held)
        code = torch.where(spread(starts, held), found.code, torch.where(spread(waits, held), held, mixed))
        verdict = torch.where(waits, one * WITHHELD, torch.where(wild, one * JUMPED, one * FOLLOWED))
        return code, verdict * good

    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        """Root mean square distance of two fields, pixels of a REFERENCE_SIDE picture."""
        return _length((self._points(one) - self._points(other)) / self._unit)

    def _points(self, flow: Tensor) -> Tensor:
        """Fields (B, 2, H, W) at the middles of a coarse grid, (B, 2, rows, columns)."""
        return flow.index_select(2, self._rows).index_select(3, self._columns)


def _length(points: Tensor) -> Tensor:
    """Root mean square length of the displacements, (B,)."""
    return points.square().sum(dim=1).mean(dim=(1, 2)).sqrt()
