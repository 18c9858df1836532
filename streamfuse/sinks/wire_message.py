"""Reading wire schema v1 (see `streamfuse.sinks.wire`): nothing is trusted before it was checked."""

import json
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.errors import WireError
from streamfuse.sinks.wire import (
    CALIB_SCHEMA,
    DTYPES,
    FRAME_SCHEMA,
    MAX_HEADER_BYTES,
    PACKED_MARK,
    STATUS_SCHEMA,
    VERSION,
    stamp_ns,
)

REQUIRED: dict[str, dict[str, type]] = {
    FRAME_SCHEMA: {
        "session": str,
        "seq": int,
        "stamp": dict,
        "publish_stamp": dict,
        "images": list,
        "registration": dict,
        "latency_ns": dict,
    },
    STATUS_SCHEMA: {"session": str, "seq": int, "publish_stamp": dict},
    CALIB_SCHEMA: {"session": str, "seq": int, "publish_stamp": dict},
}
"""What a reader relies on, per schema; the rest may be absent."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Message:
    """A decoded message. The dictionary `header` is as it came, unknown keys included.

    A `Subscriber` adds received_ns: local monotonic time of arrival; delay_ns: capture to arrival;
    lost: messages of this topic missing right before it.
    """

    topic: str
    header: dict[str, Any]
    payloads: tuple[memoryview, ...]
    received_ns: int = 0
    delay_ns: int = 0
    lost: int = 0

    def age_ns(self, now_ns: int) -> int:
        """Time since capture (since publication, for recordings), at a local monotonic time such as
        `time.monotonic_ns()`."""
        return self.delay_ns + now_ns - self.received_ns

    @property
    def session(self) -> str:
        return str(self.header["session"])

    @property
    def seq(self) -> int:
        return int(self.header["seq"])

    @property
    def stamp_ns(self) -> int:
        """Acquisition time: Unix time, or media time for a recording that is not played in real time."""
        return stamp_ns(self.header["stamp"])

    @property
    def publish_stamp_ns(self) -> int:
        """Unix time at which the sender let go of it, by the sender's clock."""
        return stamp_ns(self.header["publish_stamp"])

    @property
    def status(self) -> str:
        """`ok`, `held`, `calibration` or `off`."""
        return str(self.header["registration"]["status"])

    @property
    def confidence(self) -> float:
        """Of the registration, 0..1."""
        return float(self.header["registration"]["confidence"])

    @property
    def eos(self) -> bool:
        """The sender ended its stream with this message, which carries no picture."""
        return self.header.get("eos") is True

    def image(self, name: str | None = None) -> npt.NDArray[Any]:
        """A picture, by default the first one: (H, W) or (H, W, 3) RGB; raw ones are read-only views.

        Raises WireError when there is no such picture or it cannot be decoded.
        """
        for entry, payload in zip(self.header["images"], self.payloads, strict=True):
            if name is None or entry["name"] == name:
                return _decode_image(entry, payload)
        have = [entry["name"] for entry in self.header["images"]]
        raise WireError(f"{self.topic} seq {self.seq}: no image {name or ''!r} among {have}")

    def __repr__(self) -> str:
        pictures = ", ".join(
            f"{e['name']} {e['width']}x{e['height']} {e.get('format') or e['encoding']}"
            for e in self.header.get("images", [])
        )
        return f"Message({self.topic} #{self.seq} [{pictures}])"

    def __reduce__(self) -> tuple[Any, ...]:
        # To another process, or a copy: views of received memory cannot be pickled, their bytes can.
        payloads = tuple(bytes(payload) for payload in self.payloads)
        return _restored, (self.topic, self.header, payloads, self.received_ns, self.delay_ns, self.lost)


def _restored(
    topic: str,
    header: dict[str, Any],
    payloads: tuple[bytes, ...],
    received_ns: int,
    delay_ns: int,
    lost: int,
) -> Message:
    views = tuple(memoryview(payload) for payload in payloads)
    return Message(
        topic=topic, header=header, payloads=views, received_ns=received_ns, delay_ns=delay_ns, lost=lost
    )


def decode(parts: list[bytes]) -> Message:
    """Read a message of several parts, or of one in the packed variant.

    Raises WireError when it is foreign traffic, of another version, or does not agree with itself.
    """
    if len(parts) == 1:
        return _decode_packed(parts[0])
    if not parts:
        raise WireError("no message: it has no parts")
    topic, header = _decode_head(parts[0], parts[1])
    payloads = tuple(memoryview(part) for part in parts[2:])
    if header["schema"] == FRAME_SCHEMA:
        sizes = [entry["nbytes"] for entry in header["images"]]
        if [len(payload) for payload in payloads] != sizes:
            got = [len(payload) for payload in payloads]
            raise WireError(f"{topic}: the header announces payloads of {sizes} bytes, {got} came")
    return Message(topic=topic, header=header, payloads=payloads)


def _decode_packed(data: bytes) -> Message:
    mark = data.find(PACKED_MARK)
    start = mark + len(PACKED_MARK) + 4
    if mark < 0 or len(data) < start:
        raise WireError(f"not a streamfuse message: one part of {len(data)} bytes without its mark")
    end = start + struct.unpack_from("<I", data, start - 4)[0]
    topic, header = _decode_head(data[:mark], data[start:end])
    rest = memoryview(data)[end:]
    sizes = [entry["nbytes"] for entry in header.get("images", [])] or [len(rest)] * bool(rest)
    if sum(sizes) != len(rest):
        raise WireError(f"{topic}: the header announces {sum(sizes)} bytes of payload, {len(rest)} came")
    cuts = np.cumsum([0, *sizes])
    payloads = tuple(rest[a:b] for a, b in pairwise(cuts))
    return Message(topic=topic, header=header, payloads=payloads)


def _decode_head(topic_part: bytes, data: bytes) -> tuple[str, dict[str, Any]]:
    topic = topic_part.decode(errors="replace")
    if len(data) > MAX_HEADER_BYTES or not data.startswith(b"{"):
        raise WireError(f"{topic!r:.80}: no streamfuse header, which is a JSON object of at most 4 KiB")
    try:
        header = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WireError(f"{topic}: the header is not JSON: {error}") from error
    schema, version = header.get("schema"), header.get("version")
    if schema not in REQUIRED:
        raise WireError(f"{topic}: schema {schema!r} is none of {sorted(REQUIRED)}")
    if version != VERSION:
        raise WireError(f"{topic}: version {version!r} of {schema}; this reader knows version {VERSION}")
    for key, kind in REQUIRED[schema].items():
        if not isinstance(header.get(key), kind):
            raise WireError(f"{topic}: header key {key!r} is {header.get(key)!r:.40}, not a {kind.__name__}")
    if schema == FRAME_SCHEMA:
        _check_words(topic, header)
    for key in ("stamp", "publish_stamp"):
        if key in REQUIRED[schema]:
            _check_integers(topic, key, header[key], ("sec", "nanosec"))
    for entry in header.get("images", []):
        _check_integers(topic, "images", entry, ("width", "height", "step", "nbytes"))
        if min(entry["width"], entry["height"], entry["step"], entry["nbytes"]) < 0:
            raise WireError(f"{topic}: an image has a negative size: {entry!r:.200}")
    return topic, header


def _check_words(topic: str, header: dict[str, Any]) -> None:
    registration, age = header["registration"], header["latency_ns"].get("capture_to_publish")
    if not isinstance(registration.get("status"), str) or not isinstance(
        registration.get("confidence"), int | float
    ):
        raise WireError(f"{topic}: header key 'registration' is {registration!r:.60}: status or confidence?")
    if not isinstance(age, int | None):
        raise WireError(f"{topic}: latency_ns.capture_to_publish is {age!r:.40}, not nanoseconds or null")


def _check_integers(topic: str, key: str, value: Any, names: tuple[str, ...]) -> None:
    if not (isinstance(value, dict) and all(isinstance(value.get(name), int) for name in names)):
        raise WireError(f"{topic}: header key {key!r} is {value!r:.60}, without integers for {names}")


def _decode_image(entry: dict[str, Any], payload: memoryview) -> npt.NDArray[Any]:
    what = f"image {entry.get('name')!r}"
    width, height, step = entry["width"], entry["height"], entry["step"]
    if entry.get("encoding") not in DTYPES:
        raise WireError(f"{what}: encoding {entry.get('encoding')!r} is none of {sorted(DTYPES)}")
    kind, channels = DTYPES[entry["encoding"]]
    if entry.get("format"):
        return _decode_file(what, payload, shape=(height, width), colour=channels == 3)
    dtype = np.dtype(kind).newbyteorder(">" if entry.get("is_bigendian") else "<")
    row = width * channels * dtype.itemsize
    if min(width, height) < 1 or step < row or step * height != len(payload):
        raise WireError(f"{what}: {width}x{height} with a step of {step} bytes is not {len(payload)} bytes")
    rows = np.ascontiguousarray(np.frombuffer(payload, np.uint8).reshape(height, step)[:, :row])
    pixels = np.require(rows.view(dtype), requirements="A")  # a packed payload may start at an odd address
    if channels > 1:
        pixels = pixels.reshape(height, width, channels)
    return pixels[..., ::-1] if entry["encoding"] == "bgr8" else pixels


def _decode_file(what: str, payload: memoryview, *, shape: tuple[int, int], colour: bool) -> npt.NDArray[Any]:
    flag = cv2.IMREAD_COLOR if colour else cv2.IMREAD_UNCHANGED
    image = cv2.imdecode(np.frombuffer(payload, np.uint8), flag) if len(payload) else None
    if image is None or image.shape[:2] != shape:
        found = "nothing readable" if image is None else f"{image.shape[1]}x{image.shape[0]}"
        raise WireError(f"{what}: {shape[1]}x{shape[0]} was announced, the payload holds {found}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if colour else image
