"""What the program asks of a registrar and of a fuser that live on the device.

Everything is a tensor: nothing is read back, no Python branch depends on a value, no tensor is made from
numbers of the host, so that a CUDA graph can hold all of it. A batch is a picture each of B rigs: pictures
are float32 (B, 1, H, W) with whole values 0..255, masks bool of the same shape, flows float32 (B, 2, H, W),
confidences float32 (B,).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor

from streamfuse.device.memory import Rows

Past = TypeVar("Past", bound=Rows)
"""What a fuser remembers of each rig."""


class Found(NamedTuple):
    """A field: its code (see `Estimator`), trust in it, whether it can be used at all (bool (B,)), and what a
    joint estimator needs besides to fuse by it."""

    code: Tensor
    confidence: Tensor
    usable: Tensor
    views: Any = None


class Estimator(Protocol):
    """A registrar. A field is kept as its `code`, whatever describes it with the fewest numbers.

    code_shape: of a code, (B, *code_shape). warms: a code can be refined.
    """

    @property
    def code_shape(self) -> tuple[int, ...]: ...

    @property
    def warms(self) -> bool: ...

    def look(self, ir: Tensor, vis: Tensor, seen: Tensor) -> Any:
        """What is computed from infrared (in visible geometry) and visible luma once for all passes. seen:
        where the infrared holds picture."""
        ...

    def cold(self, scene: Any) -> Found: ...

    def warm(self, scene: Any, code: Tensor, confidence: Tensor) -> Found:
        """Refine a code that was trusted so much."""
        ...

    def flow(self, code: Tensor) -> Tensor:
        """The field at full size."""
        ...


class DeviceFuser(Protocol[Past]):
    """A fuser."""

    def fresh(self, count: int) -> Past:
        """What is remembered of so many rigs while nothing was seen of them."""
        ...

    def __call__(self, ir: Tensor, vis: Tensor, valid: Tensor, past: Past) -> Tensor:
        """Fused luma in 0..255 of infrared, visible luma, and where the infrared holds.

        past: of the rigs in the batch. Its fields, not their tensors, are changed to what is remembered next.
        """
        ...


class Stateless:
    """A function of infrared, visible luma, and where the infrared holds, as a fuser."""

    def __init__(self, fuse: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        self._fuse = fuse

    def fresh(self, count: int) -> Rows:
        return Rows()

    def __call__(self, ir: Tensor, vis: Tensor, valid: Tensor, past: Rows) -> Tensor:
        return self._fuse(ir, vis, valid)
