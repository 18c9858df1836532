"""What a network costs: parameters, multiply-accumulates, memory, time."""

import statistics
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from streamfuse.clock import NS_PER_S, Clock
from streamfuse.nn.models import MODELS, build_model
from streamfuse.nn.network import Network

REPEATS = 7
SLOW_CALL_NS = 2 * NS_PER_S
"""A call longer than this is not repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCost:
    """One part. macs: convolutions and matrix products, one picture pair."""

    name: str
    parameters: int
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeCost:
    """One way of using a network on one pair of `width` x `height`.

    peak_bytes: largest total of intermediate results alive at once in eager float32 execution, without
    parameters, inputs and the workspace of the operators.
    """

    mode: str
    width: int
    height: int
    macs: int
    peak_bytes: int
    parts: tuple[PartCost, ...]


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def count_cost(name: str, *, width: int, height: int) -> list[ModeCost]:
    """Count what each mode of a network costs, without computing anything (PyTorch's meta device).

    Multiply-accumulates are half of what `torch.utils.flop_counter` counts: convolutions and matrix
    products. Element-wise operations, norms and resampling are not in it, though they take time.
    """
    with torch.device("meta"):
        network: Network = MODELS.load(name)().eval()
    return [
        _count(network, mode, inputs, width, height)
        for mode, inputs in network.example_inputs(height=height, width=width).items()
    ]


def _count(network: Network, mode: str, inputs: Mapping[str, Any], width: int, height: int) -> ModeCost:
    flops = FlopCounterMode(display=False)
    memory = _PeakBytes()
    with torch.inference_mode(), flops, memory:
        network(**inputs)
    counts = {path: sum(by_operator.values()) for path, by_operator in flops.get_flop_counts().items()}
    root = type(network).__name__

    def flops_of(path: str) -> int:
        # Containers are never called, so only what lies in them has been counted.
        if f"{root}.{path}" in counts:
            return counts[f"{root}.{path}"]
        return sum(flops_of(f"{path}.{name}") for name, _ in network.get_submodule(path).named_children())

    parts = tuple(
        PartCost(name=path, parameters=parameter_count(network.get_submodule(path)), macs=flops_of(path) // 2)
        for path in network.PARTS
    )
    macs = counts["Global"] // 2
    return ModeCost(mode=mode, width=width, height=height, macs=macs, peak_bytes=memory.peak, parts=parts)


def measure_seconds(name: str, *, width: int, height: int, device: str, clock: Clock) -> dict[str, float]:
    """Seconds per call of each mode of a network on `device`: float32, random weights, eager.

    The median of `REPEATS` calls after one to warm up; the first call itself when it is slow, which then
    hides what warming up costs.
    """
    network = build_model(name, device=device)

    def once(inputs: Mapping[str, Any]) -> int:
        started = clock.now_ns()
        network(**inputs)
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
        return clock.now_ns() - started

    seconds = {}
    with torch.inference_mode():
        for mode, inputs in network.example_inputs(height=height, width=width).items():
            took = once(inputs)
            if took < SLOW_CALL_NS:
                took = statistics.median_low(once(inputs) for _ in range(REPEATS))
            seconds[mode] = took / NS_PER_S
    return seconds


class _PeakBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operators return until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if _is_tensor(leaf)}
        for leaf in tree_leaves(result):
            if _is_tensor(leaf) and leaf.untyped_storage()._cdata not in inputs | self._alive.keys():
                self._follow(leaf.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        self._alive[storage._cdata] = storage.nbytes()
        weakref.finalize(storage, self._alive.pop, storage._cdata)
        self.peak = max(self.peak, sum(self._alive.values()))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)
