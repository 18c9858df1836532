"""The working picture: what the learned registrar looks at, whatever the cameras deliver.

Every pair is brought to about one and the same number of pixels, so cost does not grow with the cameras, and
to zero local mean and unit local contrast, so gain control and exposure do not matter.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.frame import Image8

WINDOW = 25
"""Side of the box that local mean and contrast are taken over, working pixels."""
FLOOR = 6.0
"""Contrast, in grey levels, below which a surface is noise and is not stretched."""
LIMIT = 4.0
Plane = npt.NDArray[np.float32]


def to_working(image: Image8, shape: tuple[int, int]) -> Image8:
    """The picture at working size, uint8."""
    if image.shape == shape:
        return image
    size = (shape[1], shape[0])
    if shape[0] < image.shape[0]:
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    # Enlarging pictures of 8 bit OpenCV rounds twice: a level here and there, a twentieth of a pixel.
    larger = cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.rint(larger, out=np.asarray(larger, np.float32)), np.uint8)


def normalise(image: npt.NDArray[np.uint8] | Plane) -> Plane:
    """(image - local mean) / local contrast, float32 (H, W), within +-LIMIT."""
    box = (WINDOW, WINDOW)
    # Of 8-bit pictures the sums are exact, and take half the time of those of floats.
    mean = np.asarray(cv2.boxFilter(image, cv2.CV_32F, box), np.float32)
    contrast = np.asarray(cv2.sqrBoxFilter(image, cv2.CV_32F, box), np.float32)
    contrast -= mean * mean
    np.maximum(contrast, 0, out=contrast)
    contrast += np.float32(FLOOR**2)
    np.sqrt(contrast, out=contrast)
    plane = image.astype(np.float32)
    plane -= mean
    plane /= contrast
    return np.clip(plane, -LIMIT, LIMIT, out=plane)


def sample(image: Any, positions: Any, *, border: int = cv2.BORDER_REPLICATE) -> Any:
    """Bilinear samples of `image` at float32 (h, w, 2) positions (x, y); a constant border is 0."""
    # OpenCV's stub denies the empty second map that positions in one array ask for.
    return cv2.remap(image, positions, None, cv2.INTER_LINEAR, borderMode=border)  # type: ignore[call-overload]
