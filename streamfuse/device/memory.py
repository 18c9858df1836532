"""What is remembered of each rig between its frames: tensors with a row for each, taken out and put back."""

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(slots=True)
class Rows:
    """Base of dataclasses of tensors that all have a row for each rig; by itself nothing is remembered."""

    def at(self, rows: Tensor) -> Self:
        """Copies of some rows. rows: int64 (B,), on the device."""
        taken = (getattr(self, field.name).index_select(0, rows) for field in fields(self))
        return type(self)(*taken)

    def put(self, rows: Tensor, changed: Self) -> None:
        """Write rows back."""
        for field in fields(self):
            getattr(self, field.name).index_copy_(0, rows, getattr(changed, field.name))

    def where(self, chosen: Tensor, other: Self) -> Self:
        """These rows where `chosen`, bool (B,), those of the other elsewhere."""
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return type(self)(*(torch.where(spread(chosen, mine), mine, its) for mine, its in pairs))


def spread(values: Tensor, beside: Tensor) -> Tensor:
    """(B,) as (B, 1, ...), with as many dimensions as `beside` has."""
    return values.view(-1, *(1 for _ in beside.shape[1:]))
