"""One pair of pictures, without a pipeline."""

from collections.abc import Mapping
from typing import Any

from streamfuse.config import parse_config
from streamfuse.errors import DataError
from streamfuse.frame import FusedFrame, Image8, Image16
from streamfuse.pipeline import Pipeline


def fuse_pair(
    ir: Image8 | Image16, vis: Image8 | Image16, *, settings: Mapping[str, Any] | None = None
) -> FusedFrame:
    """Register and fuse two pictures, cold, with no state kept.

    Args:
        ir: uint8 or uint16 (H, W), or uint8 (H, W, 3) RGB; any size.
        vis: uint8 (H, W, 3) RGB, or (H, W) grey.
        settings: configuration sections to change, as in the YAML file:
            `{"registration": {"model": "ecc"}, "calibration": "rig.yaml"}`.

    Returns:
        The fused frame in the visible picture's geometry.

    Raises:
        DataError: an array has another shape or type. ConfigError: a setting is wrong.
    """
    tree: dict[str, Any] = dict(settings or {})
    tree["worker"] = {**(tree.get("worker") or {}), "temporal": False}
    tree["sources"] = {
        stream: {**((tree.get("sources") or {}).get(stream) or {}), "kind": "python", "frames": [image]}
        for stream, image in (("ir", ir), ("vis", vis))
    }
    frames = list(Pipeline(parse_config(tree, origin="settings")))
    if not frames:
        raise DataError("the pictures gave no fused frame")
    return frames[0]
