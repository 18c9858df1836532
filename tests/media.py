"""Small real clips and pictures whose every frame says which one it is and which way up."""

import struct
from collections.abc import Callable, Container, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT = 96, 64
LEVEL_STEP = 8
LEVEL_BASE = 20
"""Frame i is of grey level LEVEL_BASE + i * LEVEL_STEP, which any codec keeps, for i < 27."""
CORNER = 16


def picture(index: int, *, width: int = WIDTH, height: int = HEIGHT) -> npt.NDArray[np.uint8]:
    """RGB, of one grey level, with a white corner top left and a red one top right."""
    image = np.full((height, width, 3), LEVEL_BASE + LEVEL_STEP * index, np.uint8)
    image[:CORNER, :CORNER] = 255
    image[:CORNER, -CORNER:] = (255, 0, 0)
    return image


def counts(index: int, *, width: int = WIDTH, height: int = HEIGHT) -> npt.NDArray[np.uint16]:
    """A 16-bit thermal picture: a ramp that no 8 bits can hold, raised by 1 a frame."""
    ramp = np.arange(width * height, dtype=np.uint16).reshape(height, width)
    return (20_000 + ramp + index).astype(np.uint16)


def frame_number(image: npt.NDArray[np.uint8]) -> int:
    """Which `picture` this is, from its lower half."""
    lower = image[image.shape[0] // 2 + CORNER // 2 :]
    return round((float(lower.mean()) - LEVEL_BASE) / LEVEL_STEP)


def write_clip(
    path: Path,
    *,
    frames: int = 24,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: Fraction | int = 25,
    pts: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    grey16: bool = False,
    audio: bool = False,
) -> Path:
    """Encode `picture(0)`, `picture(1)`, ... (`counts` with grey16). `pts`: in units of 1 / rate."""
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        stream.options = options or {}
        sound = container.add_stream("aac", rate=48_000) if audio else None
        for i in range(frames):
            array = counts(i) if grey16 else picture(i)
            frame = av.VideoFrame.from_ndarray(array, format="gray16le" if grey16 else "rgb24")
            frame.pts = pts[i] if pts else i
            frame.time_base = Fraction(1) / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            container.mux([*sound.encode(_silence()), *sound.encode()])
    return path


def write_audio(path: Path) -> Path:
    """A file with sound and nothing else."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=48_000)
        container.mux([*sound.encode(_silence()), *sound.encode()])
    return path


def _silence() -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
    frame.sample_rate = 48_000
    return frame


def write_grey_clip(path: Path, image: npt.NDArray[np.uint8], *, limited_range: bool) -> Path:
    """One lossless grey picture, its range marked limited (1) or full (2)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = image.shape
        stream.pix_fmt = "gray"
        stream.codec_context.color_range = 1 if limited_range else 2
        frame = av.VideoFrame.from_ndarray(image, format="gray")
        frame.color_range = stream.codec_context.color_range
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def spoil(path: Path, packets: Container[int], damage: Callable[[bytes], bytes]) -> Path:
    """A copy of a clip in which some packets hold something else."""
    spoilt = path.with_name(f"spoilt_{path.name}")
    with av.open(str(path)) as source, av.open(str(spoilt), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for i, packet in enumerate(packet for packet in source.demux(stream) if packet.size):
            new = av.Packet(damage(bytes(packet))) if i in packets else packet
            new.pts, new.dts, new.time_base = packet.pts, packet.dts, packet.time_base
            new.is_keyframe, new.stream = packet.is_keyframe, copy
            target.mux(new)
    return spoilt


def set_mp4_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write a display matrix into an MP4's track header (ISO 14496-12, 8.3.2): x' = ax + cy, y' = bx + dy."""
    one = 1 << 16
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") - 4
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    data[header + 48 : header + 84] = matrix
    path.write_bytes(data)
    return path


def write_pictures(folder: Path, names: Sequence[str], *, grey16: bool = False, grey: bool = False) -> Path:
    """Write `picture(i)` (its red channel with `grey`), or `counts(i)`, under each name."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        image = counts(i) if grey16 else cv2.cvtColor(picture(i), cv2.COLOR_RGB2BGR)
        if grey and not grey16:
            image = np.full((HEIGHT, WIDTH), LEVEL_BASE + LEVEL_STEP * i, np.uint8)
        done, data = cv2.imencode(Path(name).suffix, image)
        assert done
        (folder / name).write_bytes(data.tobytes())
    return folder
