"""Sky, the far end of the street, trees, and the thin things that stand on pavements."""

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.synth.canvas import Texture, texture
from streamfuse.synth.light import LAMP_HEIGHT_M, Light
from streamfuse.synth.noise import Field2D, blur, spectrum

SKY_SIZE_M = (4200.0, 1700.0)
SKY_DISTANCE_M = 1500.0
BACKDROP_SIZE_M = (150.0, 30.0)
CROWN_SIZE_M = (5.6, 4.8)
TRUNK_SIZE_M = (1.6, 4.2)
LAMP_SIZE_M = (2.2, LAMP_HEIGHT_M + 0.4)
AIR_CELSIUS = 13.0
SKY_CELSIUS = 1.0
"""What metal and glass that look up mirror: the sky over a town, mean of all heights."""


def paint_sky(rng: np.random.Generator, light: Light) -> Texture:
    """Clouds on a gradient; in heat nearly black, less so near the horizon and under cloud."""
    ppm = 0.36
    width, height = (round(side * ppm) for side in SKY_SIZE_M)
    up = np.linspace(1, 0, height, dtype=np.float32)[:, None]
    # Seen from below, cloud fields are drawn out along the horizon.
    cloud = spectrum(rng, height // 2 + 2, width // 3 + 2, slope=1.75)
    cloud = np.asarray(cv2.resize(cloud, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
    cover = blur(np.clip((cloud + 0.35) * 0.75, 0, 1) ** 1.3, 1.0)
    base = light.sky_low + (light.sky_top - light.sky_low) * np.sqrt(up)[..., None]
    shading = 1.0 - 0.22 * np.clip(blur(cover, 9) - 0.25, 0, 1)
    rgb = base * (1 - cover[..., None]) + light.cloud * shading[..., None] * cover[..., None]
    celsius = 4.0 - 12.0 * up**0.6 + 5.5 * cover
    return texture(rgb, celsius, None, ppm=ppm, mips=3)


def paint_backdrop(rng: np.random.Generator, light: Light) -> Texture:
    """Roofs and tree tops where the street ends, in haze."""
    ppm = 7.0
    width, height = (round(side * ppm) for side in BACKDROP_SIZE_M)
    rgb = np.zeros((height, width, 3), np.float32)
    celsius = np.zeros((height, width), np.float32)
    alpha = np.zeros((height, width), np.float32)
    x = 0
    while x < width:
        w = int(rng.uniform(7, 16) * ppm)
        top = height - int(rng.uniform(9, 19) * ppm)
        at = np.s_[top:, x : x + w]
        wall = np.array([[196, 176, 150], [150, 104, 88], [182, 182, 184]][rng.integers(3)])
        rgb[at], celsius[at], alpha[at] = wall, AIR_CELSIUS - 1 + rng.uniform(-1, 1), 1
        for y in range(top + 10, height - 12, int(3.1 * ppm)):
            for k in range(x + 6, min(x + w, width) - 10, 18):
                rgb[y : y + 9, k : k + 7] = 70
                celsius[y : y + 9, k : k + 7] = AIR_CELSIUS - 4
        roof = np.array(
            [[x - 3, top], [x + w + 3, top], [x + w - 14, top - 26], [x + 14, top - 26]], np.int32
        )
        for image, value in ((rgb, [128, 74, 60]), (celsius, AIR_CELSIUS - 4.5), (alpha, 1)):
            cv2.fillConvexPoly(image, roof, value)
        x += w
    line = (
        height
        - (7 + 3.0 * spectrum(rng, 2, width, slope=1.2)[0] + 2 * spectrum(rng, 2, width, slope=0.7)[0]) * ppm
    )
    green = np.arange(height)[:, None] > line[None, :]
    leaves = spectrum(rng, height, width, slope=0.9)
    rgb[green] = (np.array([74, 92, 58]) * (1 + 0.25 * leaves)[..., None])[green]
    celsius[green] = (AIR_CELSIUS - 1.5 + 0.5 * leaves)[green]
    alpha[green] = 1
    lit = rgb * light.on((0.0, -0.5, -0.86))
    hazy = lit * 0.68 + 0.32 * light.sky_low
    return texture(hazy, celsius, blur(alpha, 0.6), ppm=ppm, mips=4)


def paint_crown(rng: np.random.Generator, light: Light) -> Texture:
    """Clumps of leaves, dark inside and lit outside; cool in heat, colder where they see the sky."""
    ppm = 40.0
    width, height = (round(side * ppm) for side in CROWN_SIZE_M)
    tone = np.full((height, width), 0.4, np.float32)
    kelvin = np.zeros((height, width), np.float32)
    alpha = np.zeros((height, width), np.uint8)
    centres = np.stack([rng.uniform(0.26, 0.74, 9) * width, rng.uniform(0.27, 0.70, 9) * height], 1)
    for count, radius, depth in (
        (90, (0.34, 0.60), 0.55),
        (210, (0.16, 0.34), 0.8),
        (430, (0.07, 0.17), 1.0),
    ):
        for _ in range(count):
            home = centres[rng.integers(len(centres))]
            x, y = home + rng.normal(0, 0.105, 2) * (width, height)
            r = rng.uniform(*radius) * ppm
            if not (r < x < width - r and r < y < height - r):
                continue
            sun_side = 0.9 - 0.9 * (0.45 * x / width + 0.55 * y / height)
            shine = depth * (0.42 + 0.9 * sun_side) * rng.uniform(0.75, 1.25)
            at = (round(x * 16), round(y * 16))
            axes = (round(r * 16), round(r * rng.uniform(0.55, 0.9) * 16))
            turn = rng.uniform(0, 180)
            outline = cv2.ellipse2Poly((0, 0), axes, round(turn), 0, 360, 40) + np.array(at)
            cv2.fillConvexPoly(tone, outline, shine, cv2.LINE_8, 4)
            cv2.fillConvexPoly(kelvin, outline, 0.9 * (depth - 0.75) + rng.normal(0, 0.35), cv2.LINE_8, 4)
            cv2.fillConvexPoly(alpha, outline, 255, cv2.LINE_AA, 4)
    leaves = spectrum(rng, height, width, slope=0.9)
    tone = blur(tone, 0.7) * (1 + 0.10 * leaves)
    hue = np.array([[80, 92, 54], [66, 84, 54], [88, 90, 56]][rng.integers(3)], np.float32)
    rgb = hue * tone[..., None] * light.on((-0.45, -0.7, -0.55))
    # Light that comes through leaves is yellower than what they throw back.
    rgb *= np.array([1.0, 1.0, 0.9]) + 0.1 * np.clip(tone - 0.9, 0, 1)[..., None] * np.array([1.0, 0.8, -1.0])
    up = 1 - np.linspace(0, 1, height, dtype=np.float32)[:, None]
    if light.lamps:
        rgb += hue * 0.16 * np.clip(0.7 - up, 0, 1)[..., None]
    celsius = AIR_CELSIUS - 0.8 + blur(kelvin, 0.8) + 0.15 * leaves - 1.6 * up
    celsius += 1.6 * (light.sun_kelvin / 7.0) * np.clip(tone - 0.7, 0, 1)
    return texture(rgb, celsius, alpha / 255.0, ppm=ppm)


def paint_trunk(rng: np.random.Generator, light: Light) -> Texture:
    """Trunk and first forks."""
    ppm = 60.0
    width, height = (round(side * ppm) for side in TRUNK_SIZE_M)
    alpha = np.zeros((height, width), np.uint8)
    foot, fork = np.array([width / 2, height]), np.array([width / 2 + rng.normal(0, 3), height * 0.35])
    _taper(alpha, foot, fork, 0.17 * ppm, 0.12 * ppm)
    for side in (-1, 1):
        tip = np.array([width / 2 + side * width * rng.uniform(0.25, 0.4), height * rng.uniform(0, 0.08)])
        _taper(alpha, fork, tip, 0.09 * ppm, 0.04 * ppm)
    bark = spectrum(rng, height, width, slope=0.8)
    across = np.linspace(1.35, 0.65, width, dtype=np.float32)[None, :]
    rgb = np.array([98, 82, 66]) * ((1 + 0.2 * bark) * across)[..., None] * light.on((-0.6, 0, -0.7))
    if light.lamps:
        rgb = rgb + 18.0
    celsius = AIR_CELSIUS + 0.8 + 0.3 * bark + light.sun_kelvin * 0.15 * (across - 1)
    return texture(rgb, celsius, alpha / 255.0, ppm=ppm)


def paint_lamp(light: Light) -> Texture:
    """A street lamp whose arm points right: a cold pole under the sky, a warm head when lit."""
    ppm = 50.0
    width, height = (round(side * ppm) for side in LAMP_SIZE_M)
    alpha = np.zeros((height, width), np.uint8)
    pole = 0.3 * ppm
    _taper(alpha, np.array([pole, height]), np.array([pole, 0.5 * ppm]), 0.075 * ppm, 0.05 * ppm)
    cv2.rectangle(alpha, (round(pole - 6), height - 45), (round(pole + 6), height), 255, -1)
    arm = cv2.ellipse2Poly(
        (round(pole + 0.8 * ppm), round(0.55 * ppm)), (round(0.8 * ppm), round(0.35 * ppm)), 0, 180, 270, 6
    )
    cv2.polylines(alpha, [np.array(arm)], False, 255, 4, cv2.LINE_AA)
    head = np.zeros_like(alpha)
    cv2.ellipse(head, (round(pole + 1.15 * ppm), round(0.24 * ppm)), (22, 6), 4, 0, 360, 255, -1, cv2.LINE_AA)
    on_head = (head / 255.0)[..., None]
    across = np.linspace(1.4, 0.5, width, dtype=np.float32)[None, :, None]
    rgb = np.array([86, 92, 90]) * across * light.on((-0.6, 0, -0.7)) + (16 if light.lamps else 0)
    glow = np.array([255, 236, 190]) if light.lamps else np.array([170, 172, 168]) * light.on((0, -1, 0))
    rgb = rgb * (1 - on_head) + glow * on_head
    celsius = np.full((height, width), AIR_CELSIUS - 1.8, np.float32)
    celsius += on_head[..., 0] * (14.0 if light.lamps else 1.0)
    return texture(rgb, celsius, np.maximum(alpha, head) / 255.0, ppm=ppm)


def paint_halo() -> Texture:
    """The glare around a lit lamp; light only."""
    ppm, side = 30.0, 66
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    strength = np.clip(1 - np.hypot(x, y), 0, 1) ** 2.6 * 0.8
    rgb = np.ones((side, side, 3)) * np.array([255, 224, 166])
    return texture(rgb, np.zeros((side, side)), strength, ppm=ppm)


def paint_sign(rng: np.random.Generator, light: Light) -> Texture:
    """A traffic sign or a litter bin on a post."""
    ppm = 60.0
    width, height = round(0.8 * ppm), round(2.5 * ppm)
    alpha = np.zeros((height, width), np.uint8)
    rgb = np.zeros((height, width, 3), np.float32)
    cv2.line(alpha, (width // 2, 6), (width // 2, height), 255, 4)
    rgb[:] = [128, 130, 128]
    centre, radius = (width // 2, round(0.42 * ppm)), round(0.34 * ppm)
    ring, face = ([186, 36, 34], [232, 228, 222]) if rng.random() < 0.5 else ([232, 232, 230], [36, 74, 150])
    for r, colour in ((radius, ring), (radius - 5, face)):
        cv2.circle(rgb, centre, r, colour, -1, cv2.LINE_AA)
    cv2.circle(alpha, centre, radius, 255, -1, cv2.LINE_AA)
    bin_at = np.s_[round(1.35 * ppm) : round(2.0 * ppm), 8:-8]
    rgb[bin_at], alpha[bin_at] = [54, 74, 60], 255
    celsius = np.full((height, width), AIR_CELSIUS - 1.0, np.float32)
    celsius[bin_at] += 2.0
    # A sheet of metal mirrors the cold sky above the street.
    cv2.circle(celsius, centre, radius, AIR_CELSIUS - 4.5, -1)
    lit = rgb * (light.on((0, -0.2, -1.0)) + (0.25 if light.lamps else 0.0))
    return texture(lit, celsius, alpha / 255.0, ppm=ppm)


def paint_smoke(rng: np.random.Generator, light: Light, density: float) -> Texture:
    """A sheet of smoke, tileable sideways only by being very wide."""
    ppm, height, width = 14.0, 182, 1024
    puffs = spectrum(rng, height, width, slope=1.25)
    cover = np.clip(0.5 + 0.28 * puffs, 0, 1)
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(0, 1, width, dtype=np.float32)[None, :]
    fade = np.clip(y / 0.3, 0, 1) * np.clip(np.minimum(x, 1 - x) / 0.08, 0, 1)
    # At full density even the thin places are opaque.
    thick = np.clip(cover * 2.2 * density + np.clip(density - 0.75, 0, 1) * 2.4, 0, 1) * fade
    tone = 178 + 24 * spectrum(rng, height, width, slope=1.4)
    rgb = tone[..., None] * np.array([1.0, 1.0, 1.02]) * (light.ambient + 0.5 * light.sun + 0.02)
    made = texture(rgb, np.full((height, width), AIR_CELSIUS + 2.0), thick, ppm=ppm, mips=3)
    return Texture(made.rgba, tuple(_thinned(level) for level in made.heat), ppm)


def _thinned(heat: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Long-wave infrared passes smoke: an eighth of the optical thickness is left."""
    return np.ascontiguousarray(heat / 8.0)


def _taper(mask: npt.NDArray[np.uint8], a: Field2D, b: Field2D, ra: float, rb: float) -> None:
    along = (b - a) / max(float(np.linalg.norm(b - a)), 1e-6)
    side = np.array([-along[1], along[0]])
    outline = np.stack([a + side * ra, b + side * rb, b - side * rb, a - side * ra])
    cv2.fillConvexPoly(mask, np.rint(outline * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
