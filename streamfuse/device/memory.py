"""What is remembered of each rig between its frames: tensors with a row for each, taken out and put back."""

from dataclasses import dataclass, fields
from typing import Self

from torch import Tensor


@dataclass(slots=True)
class Rows:
    """Base of dataclasses of tensors that all have a row for each rig."""

    def at(self, rows: Tensor) -> Self:
        """Copies of some rows. rows: int64 (B,), on the device."""
        taken = (getattr(self, field.name).index_select(0, rows) for field in fields(self))
        return type(self)(*taken)

    def put(self, rows: Tensor, changed: Self) -> None:
        """Write rows back."""
        for field in fields(self):
            getattr(self, field.name).index_copy_(0, rows, getattr(changed, field.name))


def spread(values: Tensor, beside: Tensor) -> Tensor:
    """(B,) as (B, 1, ...), with as many dimensions as `beside` has."""
    return values.view(-1, *(1 for _ in beside.shape[1:]))
