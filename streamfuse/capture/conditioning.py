"""The geometry a user asks for, and the channels a stream needs, before anything looks at a picture."""

import cv2
import numpy as np

from streamfuse.capture.options import SourceOptions
from streamfuse.errors import ConfigError
from streamfuse.frame import Image8, Image16, Stream

ROTATIONS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
FLIPS = {"horizontal": 1, "vertical": 0, "both": -1}
LAYOUTS = "uint8 (H, W) or (H, W, 3) RGB, or uint16 (H, W)"
"""What sources deliver."""


def wrong_layout(picture: object) -> str:
    """What a picture is that has none of the `LAYOUTS`; empty when it has one."""
    if not isinstance(picture, np.ndarray):
        return type(picture).__name__
    grey, colour = picture.ndim == 2, picture.ndim == 3 and picture.shape[2] == 3
    fits = grey if picture.dtype == np.uint16 else picture.dtype == np.uint8 and (grey or colour)
    return "" if fits and picture.size else f"{picture.dtype} {picture.shape}"


def oriented_size(width: int, height: int, options: SourceOptions, *, stream: Stream) -> tuple[int, int]:
    """Width and height of a picture once it is `oriented`.

    Raises:
        ConfigError: the crop does not lie inside the picture.
    """
    if options.rotate in (90, 270):
        width, height = height, width
    if options.crop is None:
        return width, height
    x, y, cropped_width, cropped_height = options.crop
    if (
        min(x, y) < 0
        or min(cropped_width, cropped_height) < 1
        or x + cropped_width > width
        or y + cropped_height > height
    ):
        raise ConfigError(
            f"sources.{stream}.crop: {list(options.crop)} (x, y, width, height) does not lie inside the "
            f"{width}x{height} picture"
        )
    return cropped_width, cropped_height


def oriented(image: Image8 | Image16, options: SourceOptions) -> Image8 | Image16:
    """Rotated, flipped, then cropped: C-contiguous, the same type and number of channels."""
    if options.rotate:
        image = cv2.rotate(image, ROTATIONS[options.rotate])  # type: ignore[assignment]
    if options.flip != "none":
        image = cv2.flip(image, FLIPS[options.flip])  # type: ignore[assignment]
    if options.crop is not None:
        x, y, width, height = options.crop
        image = image[y : y + height, x : x + width]
    return np.ascontiguousarray(image)  # type: ignore[return-value]


def to_stream(image: Image8, stream: Stream) -> Image8:
    """Infrared as (H, W) grey, visible as (H, W, 3) RGB; a grey visible picture is repeated."""
    if stream == "ir":
        return image if image.ndim == 2 else np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    return image if image.ndim == 3 else np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), np.uint8)
