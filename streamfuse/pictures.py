"""Single pictures on disk, RGB in memory."""

from pathlib import Path

import cv2
import numpy as np

from streamfuse.errors import SinkError, SourceError
from streamfuse.frame import Image8, Image16


def read_picture(path: Path | str) -> Image8 | Image16:
    """Read any 8- or 16-bit picture: (H, W), or (H, W, 3) RGB. Raises SourceError naming the file."""
    path = Path(path)
    if not path.is_file():
        raise SourceError(f"{path}: no such picture")
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED) if path.stat().st_size else None
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise SourceError(f"{path}: not a picture that can be read (8- or 16-bit PNG, JPEG, TIFF, BMP)")
    if image.ndim == 3:
        code = cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
        image = cv2.cvtColor(image, code)
    return image  # type: ignore[return-value]


def write_picture(path: Path | str, image: Image8) -> None:
    """Write (H, W) or RGB (H, W, 3); the suffix says how. Raises SinkError naming the file."""
    path = Path(path)
    bgr = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    try:
        done, data = cv2.imencode(path.suffix, bgr)
    except cv2.error as error:
        raise SinkError(f"{path}: {path.suffix!r} is not a picture format; use .png or .jpg") from error
    try:
        if not done:
            raise OSError("the encoder failed")
        data.tofile(path)
    except OSError as error:
        raise SinkError(f"{path}: the picture cannot be written: {error}") from error
