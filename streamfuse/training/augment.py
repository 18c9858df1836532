"""Photometric changes of one picture, so that the network looks at the scene and not at the camera.

Every function takes and gives float32 (H, W) in 0..255.
"""

import cv2
import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]


def tone(image: Plane, rng: np.random.Generator) -> Plane:
    """Gamma, contrast and brightness, as another exposure or another gain control would give."""
    low, high = np.percentile(image[::4, ::4], (1, 99))
    unit = np.clip((image - low) / max(high - low, 8.0), 0, 1)
    curve = unit ** float(np.exp(rng.uniform(-0.6, 0.6)))
    span = rng.uniform(60, 255)
    return np.asarray(curve * span + rng.uniform(0, 255 - span), np.float32)


def dim(image: Plane, rng: np.random.Generator) -> Plane:
    """Too little light: few grey levels, much noise, whole numbers."""
    low, high = np.percentile(image[::4, ::4], (1, 99))
    span = rng.uniform(12, 60)
    dark = np.clip((image - low) / max(high - low, 8.0), 0, 1.2) ** rng.uniform(1.0, 2.2) * span
    dark += rng.uniform(0.5, 3.0) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.asarray(np.round(dark + rng.uniform(0, 30)), np.float32)


def compress(image: Plane, rng: np.random.Generator) -> Plane:
    """What a video codec leaves."""
    quality = int(rng.integers(20, 90))
    _, coded = cv2.imencode(
        ".jpg", np.clip(image, 0, 255).astype(np.uint8), (cv2.IMWRITE_JPEG_QUALITY, quality)
    )
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE), np.float32)


def blur(image: Plane, rng: np.random.Generator, *, most: float) -> Plane:
    """Defocus, or a softer sensor: Gaussian of up to `most` pixels."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, most)), np.float32)


def noise(image: Plane, rng: np.random.Generator, *, most: float) -> Plane:
    """White noise, and now and then the column pattern of an uncorrected sensor, half as strong."""
    strength = rng.uniform(0, most)
    noisy = image + strength * rng.standard_normal(image.shape, dtype=np.float32)
    if rng.random() < 0.15:
        noisy = noisy + strength / 2 * rng.standard_normal((1, image.shape[1]), dtype=np.float32)
    return np.asarray(noisy, np.float32)


def occlude(image: Plane, other: Plane, rng: np.random.Generator) -> Plane:
    """Paste up to three soft patches of another picture: things only one camera sees."""
    rows, columns = image.shape
    result = image.copy()
    for _ in range(int(rng.integers(1, 4))):
        h, w = int(rng.integers(rows // 12, rows // 4)), int(rng.integers(columns // 12, columns // 4))
        y, x = int(rng.integers(0, rows - h)), int(rng.integers(0, columns - w))
        result[y : y + h, x : x + w] = other[y : y + h, x : x + w]
    return result


def photometric(image: Plane, rng: np.random.Generator, *, flip: float, softest: float) -> Plane:
    """A random change of look. flip: chance of reversed polarity; softest: strongest blur, pixels."""
    light = rng.random()
    if light < 0.5:
        image = tone(image, rng)
    elif light < 0.65:
        image = dim(image, rng)
    if rng.random() < 0.2:
        image = blur(image, rng, most=softest)
    if rng.random() < 0.25:
        image = noise(image, rng, most=5.0)
    if rng.random() < 0.2:
        image = compress(image, rng)
    image = np.clip(image, 0, 255)
    return 255 - image if rng.random() < flip else image
