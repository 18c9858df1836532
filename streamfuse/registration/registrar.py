"""The protocols that registrars keep, and nothing else."""

from collections.abc import Iterator
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from streamfuse.errors import DataError
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
            vis: uint8 (H, W), full-range BT.601 luma of the visible picture. Neither may be changed.
            valid: uint8 (H, W), 255 where `ir` holds picture, 0 where the sensor did not look; None: all.
            prior: a field to refine, such as that of the previous frame: only its neighbourhood is searched
                and whether to try again cold is the caller's decision. None: cold.

        Returns:
            A pull field in visible geometry (see `Registration`); status `ok`, or `off` with a reason
            and the identity when nothing could be matched.
        """
        ...


def check_pictures(ir: Image8, vis: Image8) -> None:
    """Raise DataError unless both are uint8 (H, W) of one size."""
    if not (ir.dtype == vis.dtype == np.uint8 and ir.ndim == 2 and ir.shape == vis.shape):
        raise DataError(
            f"registrars take uint8 (H, W) pictures of one size; infrared is {ir.dtype} {ir.shape}, "
            f"visible is {vis.dtype} {vis.shape}"
        )


Search = Iterator[Registration | None]
"""A cold registration in pieces: each step does one of them and gives None, the last one gives the field."""


@runtime_checkable
class PiecewiseRegistrar(Protocol):
    """A registrar whose cold pass can be spread over frames, each piece shorter than half a warm pass. It may
    do them on a thread of its own, between the steps."""

    def search(self, ir: Image8, vis: Image8, *, valid: Mask | None = None) -> Search:
        """What `register` finds without a prior. The pictures must stay as they are until it is found."""
        ...


def search(registrar: Registrar, ir: Image8, vis: Image8, *, valid: Mask | None = None) -> Search:
    """A cold registration in as many pieces as the registrar knows, at least one."""
    if isinstance(registrar, PiecewiseRegistrar):
        yield from registrar.search(ir, vis, valid=valid)
    else:
        yield registrar.register(ir, vis, valid=valid)
