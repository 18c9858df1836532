"""Seeded randomness: spectra instead of rectangles, hashes instead of state."""

import hashlib

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft

Field2D = npt.NDArray[np.float32]


def generator(*key: object) -> np.random.Generator:
    """A random generator that depends on the key and on nothing else, on any machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def spectrum(
    rng: np.random.Generator, height: int, width: int, *, slope: float, tileable: bool = False
) -> Field2D:
    """Noise whose amplitude falls with frequency as 1 / f**slope, float32 (H, W), zero mean, unit sigma.

    Natural scenes have slopes near 1; clouds and stains 1.5 and more. Unless `tileable`, opposite borders
    have nothing to do with each other.
    """
    if tileable:
        rows, columns = height, width
    else:
        rows, columns = (fft.next_fast_len(side * 5 // 4 + 1, real=True) for side in (height, width))
    fy = fft.fftfreq(rows).astype(np.float32)[:, None]
    fx = fft.rfftfreq(columns).astype(np.float32)[None, :]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = np.inf
    white = rng.standard_normal((*frequency.shape, 2), np.float32).view(np.complex64)[..., 0]
    field = fft.irfft2(white * frequency ** np.float32(-slope), (rows, columns))[:height, :width]
    field -= field.mean()
    return np.ascontiguousarray(field / max(float(field.std()), 1e-9), dtype=np.float32)


class Sway:
    """A smooth function of time that never repeats: sines whose frequencies have no common measure."""

    _RATIOS = (1.0, 1.6180, 2.7183)
    _WEIGHTS = (0.6, 0.3, 0.1)

    def __init__(self, rng: np.random.Generator, *, amplitude: float, hz: float) -> None:
        self._amplitude = amplitude
        self._hz = hz
        self._phases = rng.uniform(0, 2 * np.pi, len(self._RATIOS))

    def __call__(self, t_s: float) -> float:
        angles = 2 * np.pi * self._hz * t_s * np.array(self._RATIOS) + self._phases
        return float(self._amplitude * np.dot(self._WEIGHTS, np.sin(angles)))


class NoiseBank:
    """Frame noise at the price of a copy: crops of one large field at places that depend on the key.

    Two frames share no pixel noise in practice (hundreds of thousands of crops, four mirrorings), and the
    same key gives the same noise, whatever was asked before.
    """

    _MARGIN = 192

    def __init__(self, seed: int, name: str, height: int, width: int) -> None:
        self._key = (seed, name)
        self._size = (height, width)
        shape = (height + self._MARGIN, width + self._MARGIN)
        self._field = generator(seed, "noise bank", name).standard_normal(shape, np.float32)

    def at(self, t_ns: int) -> Field2D:
        """White noise, float32 (H, W), zero mean, unit sigma."""
        rng = generator(*self._key, t_ns)
        y, x, turn = (int(v) for v in rng.integers(0, (self._MARGIN, self._MARGIN, 4)))
        height, width = self._size
        crop = self._field[y : y + height, x : x + width]
        return np.ascontiguousarray(crop[:: 1 - 2 * (turn & 1), :: 1 - (turn & 2)])


def blur(field: Field2D, sigma: float) -> Field2D:
    """Gaussian blur; the border is continued."""
    return np.asarray(cv2.GaussianBlur(field, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE), np.float32)
