"""What infrared and visible pictures have in common: where edges are and how they run.

Intensities do not correspond across the modalities and the sign of an edge may flip, but the places and
directions of edges mostly agree. A picture becomes four maps |gradient along 0, 45, 90, 135 degrees|, each
made local by removing its mean and dividing by the local energy, so that a faint edge in a dark corner
counts as much as a strong one under a lamp. Everything runs on box filters and 8-bit gradients: the maps of a
320-pixel picture cost less than a millisecond.
"""

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.frame import Image8, Mask

Maps = npt.NDArray[np.float32]

ORIENTATIONS = 4
NOISE_FLOOR = 4.0
"""Gradient (Sobel units, 8 per grey level and pixel) below which texture fades into sensor noise."""
MASK_MARGIN = 3
"""Pixels next to the edge of the valid area whose gradient would see the edge itself (Sobel and halving)."""


def working_size(shape: tuple[int, ...], longest: int) -> tuple[int, int]:
    """(width, height) of a picture of `shape` (rows, columns) reduced to `longest` pixels; never enlarged."""
    height, width = shape[:2]
    scale = min(1.0, longest / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def reduced(image: Image8, size: tuple[int, int]) -> Image8:
    """Area-averaged copy of `image` with `size` = (width, height); `image` itself when it has that size."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def gradient_maps(image: Image8, *, valid: Mask | None = None, halvings: int = 0, window: int) -> Maps:
    """Oriented, locally normalised gradient maps.

    Args:
        image: uint8 (H, W).
        valid: uint8 (H, W), 255 where the picture holds; elsewhere the maps are 0.
        halvings: how often the gradient magnitudes (not the picture: fine texture must survive as
            energy) are averaged over 2 x 2 pixels.
        window: side of the normalising neighbourhood in pixels of the result.

    Returns:
        float32 (H >> halvings, W >> halvings, 4), each pixel of about unit energy.
    """
    # 8-bit magnitudes saturate at 32 grey levels a pixel: an edge that strong needs no more weight.
    gx = cv2.Sobel(image, cv2.CV_16S, 1, 0)
    gy = cv2.Sobel(image, cv2.CV_16S, 0, 1)
    diagonal = np.sqrt(0.5)
    magnitudes = cv2.merge(
        [
            cv2.convertScaleAbs(gx),
            cv2.convertScaleAbs(gy),
            cv2.convertScaleAbs(cv2.add(gx, gy), alpha=diagonal),
            cv2.convertScaleAbs(cv2.subtract(gx, gy), alpha=diagonal),
        ]
    )
    inside = _eroded(valid) if valid is not None else None
    for _ in range(halvings):
        height, width = magnitudes.shape[0] // 2, magnitudes.shape[1] // 2
        even = (slice(0, 2 * height), slice(0, 2 * width))
        magnitudes = cv2.resize(magnitudes[even], (width, height), interpolation=cv2.INTER_AREA)
        if inside is not None:
            inside = reduced(inside[even], (width, height))
    maps = magnitudes.astype(np.float32)
    return _locally_normalised(maps, None if inside is None else (inside == 255).astype(np.float32), window)


def _eroded(valid: Mask) -> Mask:
    side = 2 * MASK_MARGIN + 1
    return np.asarray(
        cv2.erode(valid, np.ones((side, side), np.uint8), borderType=cv2.BORDER_REPLICATE), np.uint8
    )


def _locally_normalised(maps: Maps, inside: npt.NDArray[np.float32] | None, window: int) -> Maps:
    """(maps - local mean) / local standard deviation over the four orientations together."""

    def local_mean(values: Maps) -> Maps:
        return np.asarray(cv2.blur(values, (window, window), borderType=cv2.BORDER_REFLECT_101), np.float32)

    if inside is None:
        mean = local_mean(maps)
        energy = local_mean(_squared_norm(maps))
    else:
        maps *= inside[..., None]
        share = np.maximum(local_mean(inside), np.float32(1e-3))
        mean = (local_mean(maps) / share[..., None]).astype(np.float32)
        energy = (local_mean(_squared_norm(maps)) / share).astype(np.float32)
    variance = np.maximum(energy - _squared_norm(mean), 0)
    gain = 1 / np.sqrt(variance + np.float32(NOISE_FLOOR**2))
    maps -= mean
    maps *= (gain if inside is None else gain * inside)[..., None]
    return maps


def _squared_norm(maps: Maps) -> npt.NDArray[np.float32]:
    """Sum of squares over the orientations: (H, W, 4) -> (H, W)."""
    return np.asarray(np.einsum("yxc,yxc->yx", maps, maps), np.float32)
