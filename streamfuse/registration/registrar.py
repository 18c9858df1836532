"""The protocol every registrar keeps, and nothing else."""

from typing import ClassVar, Protocol

from streamfuse.frame import Image8, Mask, Registration
from streamfuse.registry import Options


class Registrar(Protocol):
    """Estimates the residual displacement between two pictures that share the visible geometry.

    Made from validated options and a torch device name (`Kind(options, device="cpu")`).
    """

    Options: ClassVar[type[Options]]

    def register(
        self,
        ir: Image8,
        vis: Image8,
        *,
        valid: Mask | None = None,
        prior: Registration | None = None,
    ) -> Registration:
        """Find where the infrared picture lies.

        Args:
            ir: uint8 (H, W), infrared brought into visible geometry by the rig calibration.
            vis: uint8 (H, W), full-range BT.601 luma of the visible picture.
            valid: uint8 (H, W), 255 where `ir` holds picture, 0 where the sensor did not look; None: all.
            prior: a field to refine, such as that of the previous frame: only its neighbourhood is searched
                and whether to try again cold is the caller's decision. None: cold.

        Returns:
            A pull field in visible geometry (see `Registration`); status `ok`, or `off` with a reason
            and the identity when nothing could be matched.
        """
        ...
