"""Named arrays of known types and shapes in one block of bytes, so that a frame is one copy each way."""

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

    def block(self, *, device: torch.device | str = "cpu", pinned: bool = False) -> Tensor:
        """Zeroed bytes for all fields, uint8 (size,)."""
        return torch.zeros(self.size, dtype=torch.uint8, device=device, pin_memory=pinned)

    def views(self, block: Tensor) -> Mapping[str, Tensor]:
        """The fields in a block, by name; they share its memory."""
        return {
            name: block[begin : begin + field.size].view(field.dtype).view(field.shape)
            for (name, field), begin in zip(self.fields.items(), self._begins.values(), strict=True)
        }
