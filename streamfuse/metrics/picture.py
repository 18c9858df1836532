"""The 8-bit grey picture every metric works on, and a memory for what was computed from it.

A table of thirty metrics over one picture triple asks for the same histograms, gradients and window
moments again and again. A `Picture` carries its intermediate results along, so that the metrics can be
written as independent functions and still share their work.
"""

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.errors import DataError
from streamfuse.frame import Image8

Floats = npt.NDArray[np.float64]

P = ParamSpec("P")
R = TypeVar("R")


class Picture:
    """An 8-bit grey picture, (H, W), values 0..255.

    Args:
        pixels: uint8 (H, W), or any other real type that holds whole numbers 0..255.

    Raises:
        DataError: another shape, or values that are not 8-bit grey.
    """

    __slots__ = ("_results", "pixels")

    def __init__(self, pixels: npt.NDArray[Any]) -> None:
        pixels = np.asarray(pixels)
        if pixels.ndim != 2:
            raise DataError(
                f"a metric takes grey pictures of shape (H, W), not {pixels.shape}; grey_from_rgb makes one"
            )
        grey = pixels if pixels.dtype == np.uint8 else _to_uint8(pixels)
        self.pixels: Image8 = np.ascontiguousarray(grey)
        self._results: dict[Hashable, Any] = {}

    @property
    def shape(self) -> tuple[int, int]:
        height, width = self.pixels.shape
        return height, width

    def __repr__(self) -> str:
        return f"Picture({self.shape[1]}x{self.shape[0]})"


Grey = Picture | npt.NDArray[Any]
"""What the public functions take: an array, or a `Picture` to share work between calls."""


def _to_uint8(pixels: npt.NDArray[Any]) -> Image8:
    # NaN and values out of range make the cast undefined, which numpy reports as a warning; the
    # comparison catches them either way.
    with np.errstate(invalid="ignore"):
        grey = pixels.astype(np.uint8)
    if not np.array_equal(grey, pixels):
        raise DataError(
            f"a metric takes 8-bit grey values (whole numbers 0..255); this {pixels.dtype} array has others"
        )
    return grey


def pictures(*images: Grey, min_side: int = 2) -> tuple[Picture, ...]:
    """The images as pictures of one common size.

    Raises:
        DataError: sizes differ, or a side is shorter than `min_side`.
    """
    made = tuple(image if isinstance(image, Picture) else Picture(image) for image in images)
    sizes = [picture.shape for picture in made]
    if len(set(sizes)) > 1:
        listed = ", ".join(f"{width}x{height}" for height, width in sizes)
        raise DataError(f"pictures to compare must have one size, got {listed}")
    if min(sizes[0]) < min_side:
        raise DataError(f"this metric needs sides of at least {min_side} px, got {sizes[0][1]}x{sizes[0][0]}")
    return made


def remembered(function: Callable[P, R]) -> Callable[P, R]:
    """Compute once per arguments. The result lives in the last `Picture` among them, and as long as it.

    Where a source meets a fused picture, pass the fused one last: sources outlive the many methods that
    are judged against them.
    """

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        owner = next(arg for arg in reversed(args) if isinstance(arg, Picture))
        key = (function, args, tuple(sorted(kwargs.items())))
        if key not in owner._results:
            owner._results[key] = function(*args, **kwargs)
        return cast(R, owner._results[key])

    return wrapper


def grey_from_rgb(image: Image8) -> Image8:
    """8-bit luma exactly as PIL's convert("L"): BT.601 weights in 16-bit fixed point, rounded.

    Args:
        image: uint8 (H, W, 3) RGB, or (H, W), which is returned as it is.

    Raises:
        DataError: another type or shape.
    """
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise DataError(f"grey is made of uint8 (H, W, 3) RGB, or (H, W), not of {image.dtype} {image.shape}")
    if image.ndim == 2:
        return image
    red, green, blue = (image[..., channel].astype(np.uint32) for channel in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16).astype(np.uint8)


@remembered
def values(picture: Picture) -> Floats:
    """float64 (H, W), 0..255."""
    return picture.pixels.astype(np.float64)


@remembered
def stretched(picture: Picture) -> Floats:
    """Min-max stretched to 0..255, float64 (H, W); zeros where the picture is constant.

    The operations and their order are the reference evaluator's: what is truncated or rounded
    afterwards depends on the last bit.
    """
    low, high = int(picture.pixels.min()), int(picture.pixels.max())
    table = np.zeros(256)
    if high > low:
        table = (np.arange(256.0) - low) / (high - low) * 255
    return table[picture.pixels]


def window(image: Floats, kernel: Floats) -> Floats:
    """Weighted means under a separable window, (H-n+1, W-n+1): valid positions only."""
    margin = len(kernel) // 2
    height, width = image.shape
    full = cv2.sepFilter2D(image, cv2.CV_64F, kernel, kernel)
    return cast(Floats, full[margin : height - margin, margin : width - margin])


def gaussian(taps: int, sigma: float) -> Floats:
    """A sampled Gaussian of odd length `taps` and sum 1."""
    return cast(Floats, cv2.getGaussianKernel(taps, sigma, cv2.CV_64F).ravel())
