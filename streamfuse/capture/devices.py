"""The cameras of this machine, through Video4Linux. On other systems it finds none.

Structures and request numbers: `linux/videodev2.h`, the kernel's stable user interface.
"""

import errno
import os
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

DEV = Path("/dev")

_SENSOR_SIZES = frozenset(
    {
        *((80, 60), (160, 120), (206, 156), (240, 180), (256, 192), (320, 256), (336, 256), (384, 288)),
        *((640, 512), (256, 384), (384, 576)),
    }
)
"""Microbolometer arrays; the last two send picture and temperatures one above the other. No webcam has one of
these as its largest size."""
_EXPORT_LIMIT_FPS = 9.1
"""Thermal cores slower than 9 Hz need no export licence, so most are."""
_COUNTS = frozenset({"Y16", "Y14", "Y12"})
_NAMES = re.compile(r"(?i)flir|boson|lepton|tau ?2|seek ?therm|infiray|p2 ?pro|hikmicro|\w*thermal|xtherm")

# Request numbers (each holds the size of its structure) and where the fields lie.
_QUERYCAP, _QUERYCAP_SIZE = 0x80685600, 104
_ENUM_FORMATS, _ENUM_FORMATS_SIZE = 0xC0405602, 64
_ENUM_SIZES, _ENUM_SIZES_SIZE = 0xC02C564A, 44
_ENUM_INTERVALS, _ENUM_INTERVALS_SIZE = 0xC034564B, 52
_CARD = slice(16, 48)
_CAPABILITIES, _DEVICE_CAPABILITIES = 84, 88
_HAS_DEVICE_CAPABILITIES, _CAPTURES = 0x80000000, 0x1
_BUFFER_OF_CAPTURE = 1
_FORMAT_CODE = 44
_SIZE_KIND, _SIZE_DISCRETE, _SIZE_RANGE_MAX = 8, (12, 16), (16, 28)
_INTERVAL_SHORTEST = 20
_DISCRETE = 1


@dataclass(frozen=True, slots=True)
class Mode:
    """What a camera can deliver. `pixel_format`: the driver's four letters. `fps`: highest, 0 unknown."""

    pixel_format: str
    width: int
    height: int
    fps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """One camera.

    device: `/dev/videoN`, which may be another camera's after a restart. stable: names that stay, by USB
    socket and by serial number. thermal: why it looks like a thermal camera, empty when it does not.
    problem: why it could not be asked.
    """

    device: Path
    name: str = ""
    stable: tuple[Path, ...] = ()
    modes: tuple[Mode, ...] = ()
    problem: str = ""

    @property
    def thermal(self) -> tuple[str, ...]:
        return signs_of_thermal(self.name, self.modes)


def signs_of_thermal(name: str, modes: tuple[Mode, ...]) -> tuple[str, ...]:
    """What speaks for a thermal camera: its name, 16-bit counts, its array, its rate."""
    signs = []
    if match := _NAMES.search(name):
        signs.append(f"is called {match.group()!r}")
    if counts := sorted({mode.pixel_format for mode in modes} & _COUNTS):
        signs.append(f"delivers counts ({counts[0]})")
    if modes:
        largest = max(modes, key=lambda mode: mode.width * mode.height)
        if (largest.width, largest.height) in _SENSOR_SIZES:
            signs.append(f"{largest.width}x{largest.height} is the size of a thermal sensor")
        if 0 < max(mode.fps for mode in modes) <= _EXPORT_LIMIT_FPS:
            signs.append("is limited to 9 pictures a second")
    return tuple(signs)


def find_cameras(dev: Path = DEV) -> list[Camera]:
    """Every capture device under `dev`, those that cannot be opened with the reason."""
    devices = sorted(dev.glob("video[0-9]*"), key=lambda path: int(path.name.removeprefix("video")))
    cameras = []
    for device in devices:
        try:
            camera = _describe(device, stable_names(device, dev))
        except OSError as error:
            reason = "not a video device" if error.errno == errno.ENOTTY else error.strerror
            camera = Camera(device=device, stable=stable_names(device, dev), problem=reason or str(error))
        if camera is not None:
            cameras.append(camera)
    return cameras


def stable_names(device: Path, dev: Path = DEV) -> tuple[Path, ...]:
    """The links udev keeps for a device: by USB socket first, then by serial number."""
    links = (link for folder in ("by-path", "by-id") for link in sorted((dev / "v4l" / folder).glob("*")))
    return tuple(link for link in links if link.resolve() == device.resolve())


def _describe(device: Path, stable: tuple[Path, ...]) -> Camera | None:
    """Ask the driver; None when the device captures no pictures (metadata, output). Raises OSError."""
    handle = os.open(device, os.O_RDWR | os.O_NONBLOCK)
    try:
        answer = _ask(handle, _QUERYCAP, _QUERYCAP_SIZE)
        has_own = _uint(answer, _CAPABILITIES) & _HAS_DEVICE_CAPABILITIES
        if not _uint(answer, _DEVICE_CAPABILITIES if has_own else _CAPABILITIES) & _CAPTURES:
            return None
        name = answer[_CARD].split(b"\0")[0].decode("utf-8", "replace")
        return Camera(device=device, name=name, stable=stable, modes=tuple(_modes(handle)))
    finally:
        os.close(handle)


def _modes(handle: int) -> Iterator[Mode]:
    for format_ in _each(handle, _ENUM_FORMATS, _ENUM_FORMATS_SIZE, _BUFFER_OF_CAPTURE):
        code = _uint(format_, _FORMAT_CODE)
        letters = struct.pack("=I", code).decode("latin-1").strip()
        for size in _each(handle, _ENUM_SIZES, _ENUM_SIZES_SIZE, code):
            at = _SIZE_DISCRETE if _uint(size, _SIZE_KIND) == _DISCRETE else _SIZE_RANGE_MAX
            width, height = (_uint(size, offset) for offset in at)
            rates = [
                _uint(interval, _INTERVAL_SHORTEST + 4) / max(1, _uint(interval, _INTERVAL_SHORTEST))
                for interval in _each(handle, _ENUM_INTERVALS, _ENUM_INTERVALS_SIZE, code, width, height)
            ]
            yield Mode(letters, width, height, max(rates, default=0.0))


def _each(handle: int, request: int, size: int, *key: int) -> Iterator[bytes]:
    """The answers for index 0, 1, ..., until the driver says that there are no more."""
    for index in count():
        try:
            yield _ask(handle, request, size, index, *key)
        except OSError as error:
            # ENOTTY: this driver does not enumerate.
            if error.errno in (errno.EINVAL, errno.ENOTTY):
                return
            raise


def _ask(handle: int, request: int, size: int, *head: int) -> bytes:
    import fcntl  # exists on Unix only, as do the devices

    buffer = bytearray(size)
    struct.pack_into(f"={len(head)}I", buffer, 0, *head)
    fcntl.ioctl(handle, request, buffer)
    return bytes(buffer)


def _uint(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], sys.byteorder)
