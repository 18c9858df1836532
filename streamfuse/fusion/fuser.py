"""The protocol every fuser keeps, and nothing else."""

from typing import ClassVar, Protocol

from streamfuse.frame import Image8, Mask
from streamfuse.registry import Options


class Fuser(Protocol):
    """Fuses two aligned luma pictures. Made by `Kind(options, device="cpu")`."""

    Options: ClassVar[type[Options]]

    def fuse(self, ir: Image8, vis: Image8, *, valid: Mask | None = None) -> Image8:
        """Fuse.

        Args:
            ir: uint8 (H, W), registered infrared (border replicated outside `valid`).
            vis: uint8 (H, W), visible luma. Neither may be changed: both are used further.
            valid: uint8 (H, W), 255 where `ir` holds picture. Outside it the caller puts the visible luma
                back; a fuser may use it to keep invalid infrared from bleeding in.

        Returns:
            Fused luma, uint8 (H, W).
        """
        ...

    def reset(self) -> None:
        """Forget temporal state (scene cut, new epoch, independent pictures)."""
        ...
