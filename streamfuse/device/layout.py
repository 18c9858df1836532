"""Named arrays of known types and shapes in one block of bytes, so that a batch is one copy each way.

A block has a row for each frame of a batch; the first rows of one are a smaller block.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

ALIGNMENT = 256
"""Bytes between the beginnings of fields: what CUDA aligns its own allocations to."""


class Field(NamedTuple):
    """One array."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class Layout:
    """Where each field lies. The fields keep the order in which they are given."""

    def __init__(self, **fields: Field) -> None:
        self.fields = fields
        self._begins: dict[str, int] = {}
        end = 0
        for name, field in fields.items():
            self._begins[name] = end
            end += -(-field.size // ALIGNMENT) * ALIGNMENT
        self.size = end

    def block(self, *, rows: int = 1, device: torch.device | str = "cpu", pinned: bool = False) -> Tensor:
        """Zeroed bytes for all fields, uint8 (rows, size)."""
        return torch.zeros(rows, self.size, dtype=torch.uint8, device=device, pin_memory=pinned)

    def views(self, block: Tensor) -> Mapping[str, Tensor]:
        """The fields in a block, (rows, *shape), by name; they share its memory."""
        return {
            name: block[:, begin : begin + field.size].view(field.dtype).view(-1, *field.shape)
            for (name, field), begin in zip(self.fields.items(), self._begins.values(), strict=True)
        }
