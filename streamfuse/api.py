"""One pair of pictures, without a pipeline."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from streamfuse.config import parse_config, section
from streamfuse.errors import DataError
from streamfuse.frame import FusedFrame, Image8, Image16
from streamfuse.pipeline import Pipeline


def fuse_pair(
    ir: Image8 | Image16, vis: Image8 | Image16, *, settings: Mapping[str, Any] | None = None
) -> FusedFrame:
    """Register and fuse two pictures, cold, with no state kept.

    Args:
        ir: uint8 or uint16 (H, W), or uint8 (H, W, 3) RGB, of another size than `vis` if need be. Sides of 8
            to 16384 pixels.
        vis: uint8 (H, W, 3) RGB, or (H, W) grey; OpenCV reads BGR. Sides alike, for the default registrar
            at least 32.
        settings: configuration sections to change, as in the YAML file:
            `{"registration": {"model": "ecc"}, "calibration": "rig.yaml"}`.

    Returns:
        The fused frame in the visible picture's geometry.

    Raises:
        DataError: an array has another shape or type, or is too small. ConfigError: a setting is wrong.
        CalibrationError, WeightsError, SinkError: a file that a setting names.

    Each call reads the networks anew; a `Pipeline` with `{"worker": {"temporal": False}}` fuses any number
    of single pictures with one reading.
    """
    _check("ir", ir, deep=True)
    _check("vis", vis, deep=False)
    tree = section({"settings": settings}, "settings")
    tree["worker"] = {**section(tree, "worker"), "temporal": False}
    sources = section(tree, "sources")
    tree["sources"] = {
        stream: {**section(sources, stream, origin="sources."), "kind": "python", "frames": [image]}
        for stream, image in (("ir", ir), ("vis", vis))
    }
    frames = list(Pipeline(parse_config(tree, origin="settings")))
    if not frames:
        raise DataError("the pictures gave no fused frame")
    return frames[0]


def _check(name: str, image: object, *, deep: bool) -> None:
    """Raise DataError unless `image` is a picture; `deep`: 16-bit grey is one, too."""
    if isinstance(image, np.ndarray) and image.size:
        grey, colour = image.ndim == 2, image.ndim == 3 and image.shape[2] == 3
        if (image.dtype == np.uint8 and (grey or colour)) or (deep and image.dtype == np.uint16 and grey):
            return
    got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    wanted = "uint8 (H, W) or (H, W, 3) RGB" + (", or uint16 (H, W)" if deep else "")
    raise DataError(f"{name}: must be {wanted}; got {got}")
