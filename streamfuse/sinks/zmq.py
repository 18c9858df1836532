"""Fused frames on a ZeroMQ topic, in wire schema v1.

A subscriber that cannot keep up loses messages and never delays the others; what it lost it sees in `seq`.
Nothing is encoded for a channel without a subscriber. `<rig>/status/` says once a second that the rig is
alive, with or without frames; `<rig>/calib/` carries the calibration in force, to everyone who subscribes.
"""

import json
import logging
import uuid
from collections import Counter
from hashlib import sha256
from ipaddress import ip_address
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from streamfuse.clock import NS_PER_S, Clock
from streamfuse.errors import SinkError, WireError
from streamfuse.frame import FusedFrame
from streamfuse.registry import Options
from streamfuse.sinks.publisher import Parts, Publisher
from streamfuse.sinks.views import View, render
from streamfuse.sinks.wire import (
    CALIB_SCHEMA,
    STATUS_SCHEMA,
    VERSION,
    Channel,
    Payload,
    SendTimes,
    dropped,
    encode_header,
    frame_header,
    jpeg_payload,
    pack,
    raw_payload,
    stamp,
    topic_name,
)

logger = logging.getLogger(__name__)

DEFAULT_JPEG_QUALITY = 90
"""1.5 ms at 640x480, a tenth of the raw bytes, no loss that perception would notice."""
VIEWS: dict[Channel, View] = {"fused": "fused", "vis": "visible", "overlay": "overlay"}
CALIB_ID_DIGITS = 16
"""Of a SHA-256: enough to tell any two calibrations apart."""


class ZmqOptions(Options):
    """Options of the `zmq` sink."""

    bind: str = Field("tcp://127.0.0.1:5556", description="endpoint; port 0 takes a free one")
    rig: Annotated[str, Field(pattern=r"^[^/\s\x00]+$")] = Field("rig0", description="first word of topics")
    channels: Annotated[tuple[Channel, ...], Field(min_length=1)] = Field(
        ("fused",), description="pictures to publish; ir and vis are the pair before registration"
    )
    encoding: Literal["raw", "jpeg"] = Field(
        "raw", description="raw sends 16-bit infrared where there is one; jpeg its 8-bit view"
    )
    quality: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description=f"of jpeg; null: {DEFAULT_JPEG_QUALITY}"
    )
    packed: bool = Field(False, description="single-part messages, for CONFLATE users and bridges")
    insecure: bool = Field(False, description="allow an address that other machines can reach")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.encoding == "raw" and self.quality is not None:
            raise ValueError("quality does not apply to raw pixels")
        if len(set(self.channels)) != len(self.channels):
            raise ValueError(f"channels: {list(self.channels)} names one twice")
        if not self.insecure and is_public(self.bind):
            raise ValueError(
                f"bind: {self.bind} can be reached from other machines, unencrypted and by anyone; "
                "use tcp://127.0.0.1:PORT or ipc://PATH, or say insecure: true"
            )
        return self


def is_public(endpoint: str) -> bool:
    """Whether other machines may reach an endpoint; when in doubt, yes."""
    scheme, _, rest = endpoint.partition("://")
    if scheme == "ipc":
        return False
    host = rest.rpartition(":")[0].strip("[]")
    if host in ("localhost", "lo"):
        return False
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return True


class ZmqSink:
    """Publishes frames; `endpoint` is where, with the real port once open."""

    Options: ClassVar[type[ZmqOptions]] = ZmqOptions

    def __init__(self, options: ZmqOptions, *, clock: Clock) -> None:
        self.endpoint = options.bind
        self._options = options
        self._clock = clock
        self._session = str(uuid.uuid4())
        self._seq: Counter[str] = Counter()
        self._publisher: Publisher | None = None
        self._last: FusedFrame | None = None
        self._last_at_ns = 0
        self._frames = 0
        self._ended = False
        self._rate_mark = (clock.now_ns(), 0)
        self._calibration: Any = None
        self._calib_id: str | None = None
        self._calib_announced: str | None = None

    def open(self) -> None:
        """Bind. Raises SinkError when the address is taken or is none."""
        if self._publisher is not None:
            return
        if self._ended:
            raise SinkError(f"zmq: {self._options.bind} was closed")
        publisher = Publisher(self._options.bind, self._announce, clock=self._clock)
        try:
            publisher.open()
        except SinkError as error:
            raise SinkError(f"zmq: {error}") from error
        self._publisher = publisher
        self.endpoint = publisher.endpoint
        if is_public(self._options.bind):
            logger.warning("zmq: %s is open to everyone who can reach it (insecure: true)", self.endpoint)

    def write(self, frame: FusedFrame) -> None:
        """Publish one frame on every channel that somebody listens to. Raises SinkError."""
        self.open()
        assert self._publisher is not None
        self._last, self._last_at_ns = frame, self._clock.now_ns()
        self._frames += 1
        self._take_calibration(frame)
        for channel in self._options.channels:
            absent = channel == "ir" and frame.pair.ir is None
            if not absent and self._publisher.wanted(topic_name(self._options.rig, channel)):
                started = self._clock.now_ns()
                payload = self._payload(frame, channel)
                self._publish(frame, channel, [payload], encode_ns=self._clock.now_ns() - started)

    def close(self) -> None:
        """Say that the stream ended, let the last messages leave, release the address."""
        publisher = self._publisher
        if publisher is None:
            self._ended = True
            return
        try:
            if self._last is not None and not self._ended:
                for channel in self._options.channels:
                    self._publish(self._last, channel, [], encode_ns=0, eos=True)
            self._ended = True
        finally:
            self._publisher = None
            publisher.close()

    def _payload(self, frame: FusedFrame, channel: Channel) -> Payload:
        quality = self._options.quality or DEFAULT_JPEG_QUALITY
        jpeg = self._options.encoding == "jpeg"
        if channel == "ir" and frame.pair.ir is not None:
            ir = frame.pair.ir
            if jpeg:
                return jpeg_payload(channel, ir.image, quality=quality)
            return raw_payload(channel, ir.image if ir.raw is None else ir.raw)
        image = render(frame, VIEWS[channel])
        return jpeg_payload(channel, image, quality=quality) if jpeg else raw_payload(channel, image)

    def _publish(
        self,
        frame: FusedFrame,
        channel: Channel,
        payloads: list[Payload],
        *,
        encode_ns: int,
        eos: bool = False,
    ) -> None:
        header = frame_header(
            frame,
            payloads,
            times=SendTimes(now_ns=self._clock.now_ns(), wall_ns=self._clock.wall_ns(), encode_ns=encode_ns),
            session=self._session,
            seq=self._next_seq(channel),
            rig=self._options.rig,
            optical_frame="ir_optical" if channel == "ir" else "vis_optical",
            calib_id=self._calib_id,
            eos=eos,
        )
        try:
            data = encode_header(header)
        except WireError as error:
            raise SinkError(f"zmq: frame {frame.seq}: {error}") from error
        assert self._publisher is not None
        self._publisher.publish(self._parts(channel, data, [payload.data for payload in payloads]))

    def _parts(self, channel: str, header: bytes, payloads: list[bytes | memoryview]) -> Parts:
        topic = topic_name(self._options.rig, channel)
        if self._options.packed:
            return [pack(topic, header, payloads)]
        return [topic, header, *payloads]

    def _next_seq(self, channel: str) -> int:
        seq = self._seq[channel]
        self._seq[channel] += 1
        return seq

    def _take_calibration(self, frame: FusedFrame) -> None:
        """`extra["calibration"]` of a frame is the rig calibration in force, as a mapping for JSON."""
        calibration = frame.extra.get("calibration")
        if calibration is not self._calibration:
            text = json.dumps(calibration, sort_keys=True, separators=(",", ":"))
            self._calib_id = sha256(text.encode()).hexdigest()[:CALIB_ID_DIGITS]
            self._calibration = calibration

    def _announce(self, prefix: bytes | None) -> list[Parts]:
        """On the publisher's thread: what is said every second, and to everyone who subscribes."""
        rig = self._options.rig
        messages: list[Parts] = []
        if prefix is None or topic_name(rig, "status").startswith(prefix):
            messages.append(self._parts("status", encode_header(self._status()), []))
        asked = prefix is not None and topic_name(rig, "calib").startswith(prefix)
        if asked or self._calib_id != self._calib_announced:
            self._calib_announced = self._calib_id
            header = self._head(CALIB_SCHEMA, "calib") | {"calib_id": self._calib_id}
            data = json.dumps(self._calibration, sort_keys=True).encode()
            messages.append(self._parts("calib", encode_header(header), [data]))
        return messages

    def _head(self, schema: str, channel: str) -> dict[str, Any]:
        return {
            "schema": schema,
            "version": VERSION,
            "session": self._session,
            "seq": self._next_seq(channel),
            "publish_stamp": stamp(self._clock.wall_ns()),
        }

    def _status(self) -> dict[str, Any]:
        last, frames, now = self._last, self._frames, self._clock.now_ns()
        since, before = self._rate_mark
        self._rate_mark = (now, frames)
        header = self._head(STATUS_SCHEMA, "status")
        header |= {
            "state": "ended" if self._ended else "waiting" if last is None else "running",
            "channels": list(self._options.channels),
            "frames": frames,
            "fps": round((frames - before) * NS_PER_S / (now - since), 2) if now > since else 0.0,
            "last_frame_age_ns": None if last is None else now - self._last_at_ns,
            "registration": None
            if last is None
            else {"status": last.status.value, "confidence": round(last.confidence, 4)},
            "dropped": None if last is None else dropped(last),
            "calib_id": self._calib_id,
        }
        if self._ended:
            header["eos"] = True
        return header
