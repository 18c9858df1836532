"""What every network of the package is, beyond an nn.Module."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn


class Network(nn.Module, ABC):
    """Base of the networks in `streamfuse.nn.models.MODELS`. Made without arguments, weights random."""

    NAME: ClassVar[str]
    SUMMARY: ClassVar[str]
    PARTS: ClassVar[tuple[str, ...]]
    """Paths of submodules that together are the whole network, for its bill of costs."""
    FOREIGN_NAMES: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Regular expression and replacement, applied in order, from others' parameter names to ours."""
    FOREIGN_UNUSED: ClassVar[tuple[str, ...]] = ()
    """Regular expressions of parameters in others' checkpoints that take no part in the computation."""

    @abstractmethod
    def example_inputs(self, *, height: int, width: int) -> Mapping[str, Mapping[str, Any]]:
        """Keyword arguments of `forward` for each way of using the network, on its own device."""
