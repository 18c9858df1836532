"""Reduced precision where it is harmless, float32 where positions in pixels are computed."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["auto", "float32", "bfloat16"]


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Switches autocast off for the device of `x`, where the device knows autocast at all."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def has_bfloat16(device: str) -> bool:
    """Whether a device multiplies bfloat16 in hardware: emulated, it is slower than float32."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return kind == "cpu" and torch.cpu._is_avx512_bf16_supported()


def is_reduced(precision: Precision, device: str) -> bool:
    """Whether a precision means bfloat16 on a device; `auto`: where the device has it."""
    return has_bfloat16(device) if precision == "auto" else precision == "bfloat16"


def reduced_precision(precision: Precision, device: str) -> AbstractContextManager[object]:
    """A context, to be entered any number of times, in which convolutions and matrix products run in
    `precision`."""
    if not is_reduced(precision, device):
        return nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16)
