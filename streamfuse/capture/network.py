"""Live video from the network: RTSP cameras, HTTP (MJPEG, MPEG-TS), UDP, any protocol FFmpeg knows."""

import errno
import logging
import re
import socket
import struct
from dataclasses import replace
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

import av
import av.error
from av.container import InputContainer
from pydantic import Field, field_serializer

from streamfuse.capture._av import SensorUnit
from streamfuse.capture._hardware import Hardware, find_accelerator
from streamfuse.capture._live import LiveVideoSource
from streamfuse.capture._pump import TimedPacket
from streamfuse.capture.options import SourceOptions
from streamfuse.clock import NS_PER_MS, NS_PER_S, Clock
from streamfuse.errors import SourceError, SourceInterrupted
from streamfuse.frame import RawFrame, SourceInfo

log = logging.getLogger(__name__)

ANALYZE_US = 500_000
"""How much of the stream FFmpeg may study before it opens. Its default of 5 s is spent in full by a camera
that does not announce its rate."""
RECEIVE_BUFFER = 2 << 20
"""Bytes of socket buffer for UDP: a key frame of a 4K camera arrives in one burst."""
PLAUSIBLE_DELAY_NS = 10 * NS_PER_S
CLOCK_ERROR_NS = 50 * NS_PER_MS
"""A sender's clock is believed if its pictures were taken at most so long before, or after, they arrive."""
DIAGNOSIS_TIMEOUT_S = 2.0
DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935}

_SECRET_QUERY = re.compile(r"(?i)([?&](?:[^=&]*(?:pass|pwd|token|key|secret|auth)[^=&]*)=)[^&#]*")
_USER_INFO = re.compile(r"(?<=://)(?:[^\s@/]*:[^\s?#]*|[^\s/?#]*)@")
"""Up to the last @ when there is a colon: passwords are often written without the encoding they need."""


def redact(text: str) -> str:
    """A URL, or text that holds one, without user name, password and secret query values."""
    return _SECRET_QUERY.sub(r"\1***", _USER_INFO.sub("***@", text))


class NetworkOptions(SourceOptions):
    """A live stream by URL."""

    url: Annotated[str, Field(min_length=1)] = Field(
        description="rtsp://, http://, udp://, ...; a user and password in it appear in no message",
        repr=False,
    )
    rtsp_transport: Literal["tcp", "udp", "auto"] = Field(
        "tcp",
        description="tcp loses nothing; udp delays less on a bad line, and shows what was lost; "
        "auto: udp, then tcp when that brings nothing",
    )
    open_timeout_s: Annotated[float, Field(gt=0)] = Field(
        10.0, description="longest wait for a connection, and then for its first picture"
    )
    max_delay_ms: Annotated[float, Field(ge=0)] = Field(
        100.0, description="udp: how long a missing packet is waited for"
    )
    rtcp: bool = Field(
        False,
        description="the camera's clock is set to this machine's (NTP, PTP): take capture times from its "
        "sender reports; without that, its stamps count only relative to each other",
    )
    unit: SensorUnit = Field("counts", description="what the values of 9- to 16-bit grey video mean")
    hardware: Hardware = Field("none", description="decode on a video engine; in software when that fails")
    threads: Annotated[int, Field(ge=1, le=16)] = Field(1, description="decoder threads")

    @field_serializer("url", when_used="json")
    def _redact_url(self, url: str) -> str:
        return redact(url)


class NetworkSource(LiveVideoSource):
    """Receives a live stream.

    Pictures: as `VideoFileSource`. PTS: those of the stream; none from HTTP MJPEG, whose PTS FFmpeg makes
    up. Credentials appear in no message, log line or chained exception.
    """

    Options: ClassVar[type[NetworkOptions]] = NetworkOptions

    def __init__(self, options: NetworkOptions, *, clock: Clock) -> None:
        super().__init__(
            name=redact(options.url),
            open_timeout_s=options.open_timeout_s,
            stall_s=options.reconnect.stall_s,
            unit=options.unit,
            threads=options.threads,
            clock=clock,
        )
        self._options = options
        # Half, so that "auto" still has time for tcp after udp.
        self._socket_timeout_s = options.open_timeout_s / 2
        self._scheme = urlsplit(options.url).scheme.lower()
        self._made_up_pts = False
        self._awaits_stamps = False
        self._clock_doubted = False

    def open(self) -> SourceInfo:
        self._awaits_stamps = self._scheme in ("rtsp", "rtsps")
        return super().open()

    def _connect(self) -> InputContainer:
        options = self._options
        started = self._clock.now_ns()
        try:
            container = av.open(
                options.url,
                "r",
                options=self._ffmpeg_options(),
                timeout=(options.open_timeout_s, options.reconnect.stall_s),
                hwaccel=find_accelerator(options.hardware),
            )
        except av.error.FFmpegError as error:
            _scrub(error)
            raise self._explain_refusal(error, (self._clock.now_ns() - started) / NS_PER_S) from error
        self._made_up_pts = container.format.name == "mpjpeg"
        return container

    def _ffmpeg_options(self) -> dict[str, str]:
        options = self._options
        timeout_us = str(round(self._socket_timeout_s * 1e6))
        # Not "nobuffer": it throws away the key frame that FFmpeg sees while it opens, so the first picture
        # waits for the next one (3.1 s instead of 0.35 s where a key frame comes every 3 s).
        common = {"fpsprobesize": "0", "analyzeduration": str(ANALYZE_US)}
        if self._scheme in ("rtsp", "rtsps"):
            rtsp = {"timeout": timeout_us, "max_delay": str(round(options.max_delay_ms * 1000))}
            if options.rtsp_transport != "auto":
                rtsp["rtsp_transport"] = options.rtsp_transport
            return common | rtsp | {"buffer_size": str(RECEIVE_BUFFER)}
        if self._scheme == "udp":
            return common | {
                "timeout": timeout_us,
                "buffer_size": str(RECEIVE_BUFFER),
                "overrun_nonfatal": "1",
            }
        if self._scheme in ("http", "https", "tcp"):
            return common | {"timeout": timeout_us}
        # For others "timeout" has other meanings (for rtmp: to listen); PyAV's own time-outs hold.
        return common

    def _explain_refusal(self, error: av.error.FFmpegError, elapsed_s: float) -> SourceError:
        """Why there is no connection; FFmpeg often knows no more than "invalid data"."""
        name = self._name
        match error:
            case av.error.HTTPUnauthorizedError() | av.error.HTTPForbiddenError():
                return SourceError(
                    f"{name}: the server wants other credentials ({error.strerror}); "
                    f"give them as {self._scheme}://user:password@host/path"
                )
            case av.error.HTTPNotFoundError():
                return SourceError(f"{name}: the server is there, but has no such path (404)")
            case av.error.HTTPClientError():
                return SourceError(f"{name}: {error.strerror}")
            case av.error.HTTPServerError():
                return SourceInterrupted(f"{name}: the server fails ({error.strerror})")
            case av.error.FFmpegError(errno=errno.EPROTONOSUPPORT) if self._scheme in ("rtsp", "rtsps"):
                transport = self._options.rtsp_transport
                return SourceError(f"{name}: not offered over {transport}; set rtsp_transport to auto")
            case av.error.ProtocolNotFoundError() | av.error.FileNotFoundError():
                return SourceError(
                    f"{name}: not a URL of a protocol that is known, such as rtsp, http or udp"
                )
        silent = isinstance(error, av.error.ExitError | av.error.TimeoutError)
        silent = silent or elapsed_s >= self._socket_timeout_s
        unreachable = self._try_to_reach()
        if unreachable:
            return SourceInterrupted(f"{name}: {unreachable}")
        if silent:
            return SourceInterrupted(f"{name}: no answer within {elapsed_s:.0f} s")
        return SourceError(f"{name}: answers, but not with a stream that can be read ({error.strerror})")

    def _try_to_reach(self) -> str:
        """Why no TCP connection to the server comes about; empty when one does, or TCP is not in use."""
        parts = urlsplit(self._options.url)
        port = parts.port or DEFAULT_PORTS.get(self._scheme)
        if not parts.hostname or port is None or self._scheme == "udp":
            return ""
        try:
            socket.create_connection((parts.hostname, port), DIAGNOSIS_TIMEOUT_S).close()
        except socket.gaierror as error:
            return f"the host name {parts.hostname!r} cannot be resolved ({error.strerror})"
        except ConnectionRefusedError:
            return f"nothing listens on port {port} (connection refused)"
        except OSError as error:
            return f"{parts.hostname} port {port} cannot be reached ({error.strerror or 'timed out'})"
        return ""

    def _explain(self, error: av.error.FFmpegError) -> SourceError:
        _scrub(error)
        if isinstance(error, av.error.ExitError):
            return SourceInterrupted(f"{self._name}: no data for {self._options.reconnect.stall_s:g} s")
        return SourceInterrupted(f"{self._name}: connection lost ({error.strerror})")

    def _capture_hint(self, timed: TimedPacket) -> int | None:
        """Capture time from the sender reports (RFC 3550, 6.4.1), which FFmpeg puts beside each packet."""
        if not self._options.rtcp or not timed.packet.has_sidedata("prft"):
            return None
        wall_us: int
        (wall_us,) = struct.unpack_from("=q", bytes(timed.packet.get_sidedata("prft")))
        captured = self._clock.now_ns() - (self._clock.wall_ns() - wall_us * 1000)
        delay = timed.t_arrival - captured
        if not -CLOCK_ERROR_NS <= delay <= PLAUSIBLE_DELAY_NS:
            if not self._clock_doubted:
                log.warning(
                    "%s: by its sender reports, pictures are taken %.3f s before they arrive; its clock is "
                    "not this machine's, rtcp is ignored",
                    self._name,
                    delay / NS_PER_S,
                )
            self._clock_doubted = True
            return None
        return min(captured, timed.t_arrival)

    def _deliver(self, picture: RawFrame) -> RawFrame | None:
        if self._made_up_pts:
            return replace(picture, pts=None, time_base=None)
        # FFmpeg gives the very first picture of an RTSP stream no stamp.
        awaited, self._awaits_stamps = self._awaits_stamps, False
        return None if awaited and picture.pts is None else picture


def _scrub(error: av.error.FFmpegError) -> None:
    """Take credentials out of an exception that will be chained, and so may be printed."""
    error.args = tuple(redact(part) if isinstance(part, str) else part for part in error.args)
