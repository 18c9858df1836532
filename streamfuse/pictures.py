"""Single pictures on disk, RGB in memory."""

from pathlib import Path

import cv2
import numpy as np

from streamfuse.errors import SinkError, SourceError
from streamfuse.frame import Image8, Image16


def read_picture(path: Path | str) -> Image8 | Image16:
    """Read any 8- or 16-bit picture: (H, W), or (H, W, 3) RGB; its EXIF orientation is applied.

    Raises:
        SourceError: naming the file.
    """
    path = Path(path)
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    if not data.size:
        raise SourceError(f"{path}: is empty (0 bytes)")
    # Keeps depth and channels as they are, less alpha; IMREAD_UNCHANGED would ignore the orientation.
    image = cv2.imdecode(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise SourceError(f"{path}: not a picture that can be read (8- or 16-bit PNG, JPEG, TIFF, BMP)")
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return image  # type: ignore[return-value]


def write_picture(path: Path | str, image: Image8) -> None:
    """Write (H, W) or RGB (H, W, 3); the suffix says how. The file is complete or as it was before.

    Raises:
        SinkError: naming the file.
    """
    path = Path(path)
    bgr = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    try:
        done, data = cv2.imencode(path.suffix, bgr)
    except cv2.error as error:
        raise SinkError(f"{path}: {path.suffix!r} is not a picture format; use .png or .jpg") from error
    target = path.resolve()
    partial = target.with_name(f".{path.name}.partial")
    try:
        if not done:
            raise OSError("the encoder failed")
        if target.exists() and not target.is_file():
            target.write_bytes(data.tobytes())  # a device or a pipe
            return
        partial.write_bytes(data.tobytes())
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SinkError(f"{path}: the picture cannot be written: {error.strerror or error}") from error
