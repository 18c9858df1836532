"""The geometry and polarity a user asks for, applied to every picture before anything looks at it."""

import cv2
import numpy as np

from streamfuse.capture.options import SourceOptions
from streamfuse.errors import SourceError
from streamfuse.frame import Image8, Image16, Stream

ROTATIONS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
FLIPS = {"horizontal": 1, "vertical": 0, "both": -1}


def oriented(image: Image8 | Image16, options: SourceOptions, *, stream: Stream) -> Image8 | Image16:
    """Rotated, flipped, then cropped: C-contiguous, the same type and number of channels.

    Raises:
        SourceError: the crop does not lie inside the picture.
    """
    if options.rotate:
        image = cv2.rotate(image, ROTATIONS[options.rotate])  # type: ignore[assignment]
    if options.flip != "none":
        image = cv2.flip(image, FLIPS[options.flip])  # type: ignore[assignment]
    if options.crop is not None:
        x, y, width, height = options.crop
        rows, columns = image.shape[:2]
        if min(x, y) < 0 or min(width, height) < 1 or x + width > columns or y + height > rows:
            raise SourceError(
                f"sources.{stream}.crop: {list(options.crop)} (x, y, width, height) does not lie inside the "
                f"{columns}x{rows} picture"
            )
        image = image[y : y + height, x : x + width]
    return np.ascontiguousarray(image)  # type: ignore[return-value]


def to_stream(image: Image8, stream: Stream) -> Image8:
    """Infrared as (H, W) grey, visible as (H, W, 3) RGB; a grey visible picture is repeated."""
    if stream == "ir":
        return image if image.ndim == 2 else np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    return image if image.ndim == 3 else np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), np.uint8)
