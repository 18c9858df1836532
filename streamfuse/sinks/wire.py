"""Wire schema v1: what a fused frame looks like on a topic. Pure: bytes in, bytes out, no socket.

A message is `[topic, header, payload, ...]`. The topic is `<rig>/<channel>/`; it ends with a slash because
ZeroMQ filters by prefix, and "rig1" would match "rig10". The header is one JSON object with its keys in a
fixed order, in the words of ROS; payload n is described by `images[n]`. Times that are subtracted are
monotonic differences made by the sender; wall time only says when. In the packed variant the same bytes
travel in one part, `topic NUL "SFZ1" u32le(header length) header payloads`, for CONFLATE and for bridges.

A reader ignores keys it does not know; a key never changes its meaning without a new `version`.
"""

import json
import struct
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.clock import NS_PER_S
from streamfuse.errors import WireError
from streamfuse.frame import Frame, FusedFrame, Image8, Image16, Registration, Rung
from streamfuse.sinks.media_time import driver_frame, is_live

Channel = Literal["fused", "ir", "vis", "overlay"]
Encoding = Literal["rgb8", "bgr8", "mono8", "mono16", "32FC1", "32FC2"]

FRAME_SCHEMA = "streamfuse.frame"
STATUS_SCHEMA = "streamfuse.status"
CALIB_SCHEMA = "streamfuse.calib"
VERSION = 1
MAX_HEADER_BYTES = 4096
"""Small enough for any reader to take in one piece; a full header has about 1.7 KB."""
MAX_REASON_CHARS = 200
"""Free text in a header is cut to this, so that it always fits."""
PACKED_MARK = b"\x00SFZ1"
FLOW_STEP = 4
"""Fields are smooth: every fourth pixel is enough to say how large one is."""

DTYPES: dict[str, tuple[npt.DTypeLike, int]] = {
    "rgb8": (np.uint8, 3),
    "bgr8": (np.uint8, 3),
    "mono8": (np.uint8, 1),
    "mono16": (np.uint16, 1),
    "32FC1": (np.float32, 1),
    "32FC2": (np.float32, 2),
}
"""ROS encoding to element type and number of channels."""
RUNGS = list(Rung)


def topic_name(rig: str, channel: str) -> bytes:
    """The topic of one channel of one rig."""
    return f"{rig}/{channel}/".encode()


def stamp(time_ns: int) -> dict[str, int]:
    """Nanoseconds as the two integers of a ROS stamp: int64 would lose digits in JSON readers."""
    seconds, nanoseconds = divmod(time_ns, NS_PER_S)
    return {"sec": seconds, "nanosec": nanoseconds}


def stamp_ns(value: dict[str, int]) -> int:
    """A ROS stamp as nanoseconds."""
    return int(value["sec"]) * NS_PER_S + int(value["nanosec"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """One picture as it is sent. data: C-contiguous pixels, or an encoded file of kind `format`."""

    name: str
    width: int
    height: int
    encoding: Encoding
    step: int
    data: bytes | memoryview
    format: Literal["", "jpeg", "png"] = ""

    def describe(self, part: int) -> dict[str, Any]:
        """The entry in the header's list of images."""
        return {
            "name": self.name,
            "width": self.width,
            "height": self.height,
            "encoding": self.encoding,
            "is_bigendian": 0,
            "step": self.step,
            "format": self.format,
            "part": part,
            "nbytes": len(self.data),
        }


def raw_payload(name: str, image: Image8 | Image16) -> Payload:
    """Pixels as they are, without a copy: uint8 (H, W) or (H, W, 3) RGB, or uint16 (H, W)."""
    encoding: Encoding = "rgb8" if image.ndim == 3 else "mono8" if image.dtype == np.uint8 else "mono16"
    pixels: npt.NDArray[Any] = np.ascontiguousarray(image, "<u2" if encoding == "mono16" else np.uint8)
    height, width = pixels.shape[:2]
    return Payload(
        name=name,
        width=width,
        height=height,
        encoding=encoding,
        step=pixels.strides[0],
        data=pixels.data.cast("B"),
    )


def jpeg_payload(name: str, image: Image8, *, quality: int) -> Payload:
    """uint8 (H, W) or (H, W, 3) RGB as JPEG; `step` stays that of the decoded picture."""
    colour = image.ndim == 3
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if colour else image
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    height, width = image.shape[:2]
    return Payload(
        name=name,
        width=width,
        height=height,
        encoding="rgb8" if colour else "mono8",
        step=width * (3 if colour else 1),
        data=data.tobytes(),
        format="jpeg",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SendTimes:
    """The moment of sending. now_ns: monotonic; wall_ns: Unix; encode_ns: how long encoding took."""

    now_ns: int
    wall_ns: int
    encode_ns: int = 0


def frame_header(
    frame: FusedFrame,
    payloads: list[Payload],
    *,
    times: SendTimes,
    session: str,
    seq: int,
    rig: str,
    optical_frame: str = "vis_optical",
    calib_id: str | None = None,
    eos: bool = False,
) -> dict[str, Any]:
    """The header of one message. What a stage did not say is null, never invented.

    Live stamps are Unix time; those of recordings that are not played in real time are media time, and the
    latencies that need a common time line are then null.
    """
    pair = frame.pair
    driver = driver_frame(frame)
    live = is_live(driver)
    to_wall = times.wall_ns - times.now_ns if live else 0
    age = times.now_ns - frame.t_capture if live else None
    stages = frame.latencies_ns
    header: dict[str, Any] = {
        "schema": FRAME_SCHEMA,
        "version": VERSION,
        "session": session,
        "seq": seq,
        "stamp": stamp(frame.t_capture + to_wall),
        "stamp_source": driver.stamp_source,
        "stamp_uncertainty_ns": driver.stamp_uncertainty_ns,
        "frame_id": f"{rig}/{optical_frame}",
        "images": [payload.describe(part) for part, payload in enumerate(payloads, start=2)],
        "sources": {
            "ir": None
            if pair.ir is None
            else _source(pair.ir, to_wall, times.now_ns if live else None, held=pair.held),
            "vis": _source(pair.vis, to_wall, times.now_ns if live else None, held=False),
        },
        "pair": {
            "dt_ns": None if pair.ir is None else pair.dt_ns,
            "policy": "nearest",
            "window_ns": pair.window_ns,
            "offset_ns": pair.offset_ns,
            "offset_source": pair.offset_source,
            "skew_ppm": frame.extra.get("skew_ppm"),
            "motion": frame.extra.get("motion"),
        },
        "registration": _registration(frame.registration, frame),
        "quality": {"rung": RUNGS.index(frame.rung), "reason": _cut(frame.extra.get("rung_reason", ""))},
        "latency_ns": {
            "capture_to_arrival": driver.t_arrival - driver.t_capture if live else None,
            "wait_pair": stages.get("wait_pair"),
            "queue": stages.get("queue"),
            "gpu": stages.get("register_and_fuse"),
            "encode": times.encode_ns,
            "capture_to_publish": age,
        },
        "publish_stamp": stamp(times.wall_ns),
        "dropped": dropped(frame),
        "calib_id": calib_id,
    }
    if eos:
        header["eos"] = True
    return header


def dropped(frame: FusedFrame) -> dict[str, Any]:
    """Drops so far, in total and by cause."""
    return {"total": sum(frame.dropped.values()), "by_cause": dict(sorted(frame.dropped.items()))}


def _source(frame: Frame, to_wall: int, now_ns: int | None, *, held: bool) -> dict[str, Any]:
    base = frame.time_base
    return {
        "stamp": stamp(frame.t_capture + to_wall),
        "seq": frame.seq,
        "pts": frame.pts,
        "time_base": None if base is None else [base.numerator, base.denominator],
        "age_ns": None if now_ns is None else now_ns - frame.t_capture,
        "unique": not frame.duplicate,
        "held": held,
        "frozen": frame.frozen,
        "unit": frame.unit,
    }


def _registration(registration: Registration, frame: FusedFrame) -> dict[str, Any]:
    matrix = registration.matrix
    return {
        "status": registration.status.value,
        "reason": _cut(registration.reason),
        "confidence": round(registration.confidence, 4),
        "scales": frame.extra.get("scales"),
        "warm_start": registration.warm,
        "homography": None if matrix is None else [float(value) for value in matrix.ravel()],
        "max_disp_px": round(_largest_displacement(registration, *frame.valid.shape), 3),
    }


def _largest_displacement(registration: Registration, height: int, width: int) -> float:
    """Pixels; of a matrix at the corners, where it is largest unless the horizon crosses the picture."""
    if registration.flow is not None:
        coarse = registration.flow[::FLOW_STEP, ::FLOW_STEP]
        return float(np.sqrt((coarse * coarse).sum(axis=-1).max()))
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], np.float64)
    mapped = np.column_stack([corners, np.ones(4)]) @ np.asarray(registration.matrix).T
    return float(np.linalg.norm(mapped[:, :2] / mapped[:, 2:] - corners, axis=1).max())


def _cut(text: str) -> str:
    return text if len(text) <= MAX_REASON_CHARS else text[: MAX_REASON_CHARS - 1] + "…"


def encode_header(header: dict[str, Any]) -> bytes:
    """The header's bytes: same header, same bytes. Raises WireError above 4 KiB."""
    try:
        data = json.dumps(header, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise WireError(f"the header holds a number that is not finite: {error}") from error
    if len(data) > MAX_HEADER_BYTES:
        raise WireError(f"header of {len(data)} bytes: at most {MAX_HEADER_BYTES} are allowed")
    return data


def pack(topic: bytes, header: bytes, payloads: list[bytes | memoryview]) -> bytes:
    """The single-part variant."""
    return b"".join([topic, PACKED_MARK, struct.pack("<I", len(header)), header, *payloads])
