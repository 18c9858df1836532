"""What is wrong with the pictures: optics, pixels, noise, counts.

Noise depends on the seed and a time of reading out, and on nothing else: a frame can be asked for twice.
"""

import cv2
import numpy as np

from streamfuse.frame import Image8, Image16
from streamfuse.synth.geometry import Bend
from streamfuse.synth.noise import Field2D, NoiseBank, blur, generator
from streamfuse.synth.options import RigOptions

COUNTS_AT_ZERO = 6000.0
COUNTS_PER_KELVIN = 50.0
"""Of a 14-bit microbolometer core: 20 mK a count, the whole street within 4000 counts."""
MIN_HEAT_COLUMNS = 480
"""The heat picture is drawn at least this wide and averaged down to the sensor's own pixels."""
_BEND_MARGIN_PX = 2


class VisibleSensor:
    """Lens blur, exposure, shot and read noise."""

    def __init__(self, options: RigOptions, seed: int) -> None:
        self._options = options
        height, width = options.vis_height, options.vis_width
        self._luma_noise = NoiseBank(seed, "visible", height, width)
        levels = np.arange(256, dtype=np.float32)
        # Shot noise after gamma: nearly flat in mid tones, less in deep shadow and at the ceiling.
        shape = 0.55 + 0.6 * np.sqrt(np.clip(levels / 255, 0, 1)) - 0.35 * (levels / 255) ** 4
        gain = np.sqrt(max(options.exposure, 1.0))
        self._sigma = (options.vis_noise * gain * shape).astype(np.float32)
        self._exposed = np.clip(np.rint(levels * options.exposure), 0, 255).astype(np.uint8)

    def expose(self, rgb: Image8, noise_ns: int) -> Image8:
        """Picture of the light `rgb`, uint8 (H, W, 3)."""
        o = self._options
        if o.vis_blur_px > 0:
            rgb = np.asarray(cv2.GaussianBlur(rgb, (0, 0), o.vis_blur_px), np.uint8)
        if o.exposure != 1.0:
            rgb = np.asarray(cv2.LUT(rgb, self._exposed), np.uint8)
        if o.vis_noise == 0:
            return rgb
        sigma = self._sigma[cv2.extractChannel(rgb, 1)]
        noise = np.asarray(self._luma_noise.at(noise_ns) * sigma, np.float32)
        up = cv2.convertScaleAbs(np.maximum(noise, 0))
        down = cv2.convertScaleAbs(np.minimum(noise, 0))
        rgb = np.asarray(cv2.add(rgb, cv2.cvtColor(up, cv2.COLOR_GRAY2RGB)), np.uint8)
        return np.asarray(cv2.subtract(rgb, cv2.cvtColor(down, cv2.COLOR_GRAY2RGB)), np.uint8)


class InfraredSensor:
    """Bent optics, blur, big pixels, fixed pattern, temporal noise, counts."""

    def __init__(self, options: RigOptions, bend: Bend, seed: int) -> None:
        self._options = options
        height, width = options.ir_height, options.ir_width
        self.supersample = max(1, -(-MIN_HEAT_COLUMNS // width))
        self._noise = NoiseBank(seed, "infrared", height, width)
        rng = generator(seed, "fixed pattern")
        pixels = rng.standard_normal((height, width), np.float32)
        columns = rng.standard_normal((1, width), np.float32)
        slow = blur(rng.standard_normal((height, width), np.float32), width / 8)
        pattern = 0.6 * pixels + 0.5 * columns + 0.6 * slow / max(float(slow.std()), 1e-9)
        self._pattern = pattern * np.float32(options.fixed_pattern_mk / 1000)
        s = self.supersample
        y, x = np.mgrid[0 : height * s, 0 : width * s].astype(np.float32)
        imaged = np.stack([(x + 0.5) / s - 0.5, (y + 0.5) / s - 0.5], axis=-1)
        ideal = bend.inverse(imaged)
        self.margin = int(np.ceil(np.abs(ideal - imaged).max())) + _BEND_MARGIN_PX
        """Infrared pixels that have to be drawn beyond the sensor for the bend to draw on."""
        drawn = (ideal + 0.5 + self.margin) * s - 0.5
        self._map = tuple(np.ascontiguousarray(drawn[..., k], dtype=np.float32) for k in range(2))

    def expose(self, celsius: Field2D, noise_ns: int) -> Image16:
        """Counts for heat drawn by `camera.scaled(supersample, margin * supersample)`, uint16 (H, W)."""
        o = self._options
        x, y = self._map
        image = cv2.remap(celsius, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if o.ir_blur_px > 0:
            image = blur(np.asarray(image, np.float32), o.ir_blur_px * self.supersample)
        if self.supersample > 1:
            image = cv2.resize(image, (o.ir_width, o.ir_height), interpolation=cv2.INTER_AREA)
        kelvin = np.asarray(image, np.float32)
        if o.fixed_pattern_mk > 0:
            kelvin = kelvin + self._pattern
        if o.netd_mk > 0:
            kelvin = kelvin + self._noise.at(noise_ns) * np.float32(o.netd_mk / 1000)
        counts: Image16 = (
            np.rint(kelvin * COUNTS_PER_KELVIN + COUNTS_AT_ZERO).clip(0, 65535).astype(np.uint16)
        )
        return counts


def to_counts(celsius: float) -> int:
    """What a pixel at this apparent temperature reads."""
    return round(COUNTS_AT_ZERO + COUNTS_PER_KELVIN * celsius)


class View:
    """Counts to grey by one fixed curve, made from one picture: plateau equalisation, half and half with
    a linear stretch, as thermal cores show a scene. Fixed, so that nothing flickers.
    """

    _PLATEAU = 3.0
    """Times the mean of the occupied bins: large even areas do not use up all the grey levels."""
    _HEADROOM = 0.12
    """Share of the grey levels kept for what is hotter than anything in the first picture."""

    def __init__(self, first: Image16) -> None:
        low, high = (int(v) for v in np.percentile(first, (0.2, 99.8)))
        high = max(high, low + 1)
        histogram = np.bincount(np.clip(first.reshape(-1), low, high) - low, minlength=high - low + 1)
        histogram = np.minimum(histogram, self._PLATEAU * histogram[histogram > 0].mean())
        equalised = np.cumsum(histogram) / histogram.sum()
        curve = 0.5 * equalised + 0.5 * np.linspace(0, 1, high - low + 1)
        counts = np.arange(65536)
        grey = np.interp(counts, np.arange(low, high + 1), curve * (1 - self._HEADROOM))
        slope = self._HEADROOM / max(4.0 * COUNTS_PER_KELVIN, 1.0)
        grey = grey + np.clip((counts - high) * slope, 0, self._HEADROOM)
        self._table = np.rint(grey * 255).astype(np.uint8)

    def __call__(self, counts: Image16) -> Image8:
        """uint16 (H, W) to uint8 (H, W)."""
        return np.asarray(self._table[counts], np.uint8)
