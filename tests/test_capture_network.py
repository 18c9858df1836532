"""Live sources against real servers: HTTP, UDP and bare TCP in this process, RTSP in its own."""

import contextlib
import http.server
import logging
import socket
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import media
import pytest
from rtsp import RtspServer

from streamfuse.capture._pump import PacketPump, PumpClosed
from streamfuse.capture.network import NetworkOptions, NetworkSource, redact
from streamfuse.clock import NS_PER_MS, NS_PER_S, RealClock, VirtualClock
from streamfuse.errors import SourceError, SourceInterrupted
from streamfuse.frame import DropCause, RawFrame

SECRET = "s3cret"
STALL_S = 1


@pytest.fixture
def connect() -> Iterator[Callable[..., NetworkSource]]:
    """Makes sources and closes them afterwards."""
    sources: list[NetworkSource] = []

    def make(url: str, **options: Any) -> NetworkSource:
        settings = {"url": url, "reconnect": {"stall_s": STALL_S}, "open_timeout_s": 6} | options
        sources.append(NetworkSource(NetworkOptions.model_validate(settings), clock=RealClock()))
        return sources[-1]

    yield make
    for source in sources:
        source.close()


def read(source: NetworkSource, count: int) -> list[RawFrame]:
    frames = [source.read() for _ in range(count)]
    assert None not in frames
    return [frame for frame in frames if frame is not None]


def drain(source: NetworkSource) -> tuple[list[RawFrame], str]:
    """What comes until the source is interrupted, and what it says then."""
    frames: list[RawFrame] = []
    try:
        while True:
            frames += read(source, 1)
    except SourceInterrupted as error:
        return frames, str(error)


# --- HTTP and UDP ---------------------------------------------------------------------------------------


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.paths[path](self)`."""

    server: "HttpServer"

    def do_GET(self) -> None:
        serve = self.server.paths.get(self.path)
        if serve is None:
            self.send_error(404)
            return
        with contextlib.suppress(OSError):  # the client may leave
            serve(self)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class HttpServer(http.server.ThreadingHTTPServer):
    """An HTTP camera. `stopping` ends whatever a path is sending."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.paths: dict[str, Callable[[_Handler], None]] = {}
        self.stopping = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


@pytest.fixture
def http_server() -> Iterator[HttpServer]:
    server = HttpServer()
    yield server
    server.stopping.set()
    server.shutdown()
    server.server_close()


def _send_jpegs(handler: _Handler, jpegs: Iterator[bytes]) -> None:
    for jpeg in jpegs:
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        handler.wfile.write(head.encode() + jpeg + b"\r\n")
        if handler.server.stopping.wait(0.02):
            return


def jpeg(index: int) -> bytes:
    return cv2.imencode(".jpg", cv2.cvtColor(media.picture(index), cv2.COLOR_RGB2BGR))[1].tobytes()


def mjpeg(frames: int, then: Callable[[_Handler], None] = lambda handler: None) -> Callable[[_Handler], None]:
    def serve(handler: _Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        _send_jpegs(handler, (jpeg(i) for i in range(frames)))
        then(handler)

    return serve


def quiet(handler: _Handler) -> None:
    handler.server.stopping.wait(30)


def test_mjpeg_has_no_stamps_but_arrivals(
    http_server: HttpServer, connect: Callable[..., NetworkSource]
) -> None:
    http_server.paths["/video"] = mjpeg(20, quiet)
    source = connect(http_server.url("/video"))
    info = source.open()
    assert (info.width, info.height, info.codec) == (media.WIDTH, media.HEIGHT, "mjpeg")
    frames = read(source, 15)
    assert [media.frame_number(f.image) for f in frames] == list(range(15))
    assert {f.pts for f in frames} == {None}, "FFmpeg makes these stamps up, they are not the camera's"
    arrivals = [f.t_arrival for f in frames]
    assert arrivals == sorted(arrivals)


def test_mpeg_ts_over_http_keeps_its_stamps_until_it_ends(
    http_server: HttpServer, connect: Callable[..., NetworkSource], tmp_path: Path
) -> None:
    data = media.write_clip(tmp_path / "a.ts", frames=24).read_bytes()

    def serve(handler: _Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(data)

    http_server.paths["/live.ts"] = serve
    source = connect(http_server.url("/live.ts"))
    source.open()
    frames, _ = drain(source)
    times = [f.pts * f.time_base * 25 for f in frames]  # type: ignore[operator]
    assert [media.frame_number(f.image) for f in frames][:20] == list(range(20))
    assert [t - times[0] for t in times] == list(range(len(times)))


def test_mpeg_ts_over_udp(connect: Callable[..., NetworkSource], tmp_path: Path) -> None:
    data = media.write_clip(tmp_path / "a.ts", frames=24, options={"g": "4"}).read_bytes()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stop = threading.Event()

    def send() -> None:
        datagram = 7 * 188
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not stop.is_set():
                for start in range(0, len(data), datagram):
                    sender.sendto(data[start : start + datagram], ("127.0.0.1", port))
                    stop.wait(0.01)

    sending = threading.Thread(target=send)
    sending.start()
    try:
        source = connect(f"udp://127.0.0.1:{port}")
        assert source.open().width == media.WIDTH
        assert len(read(source, 30)) == 30
    finally:
        stop.set()
        sending.join()
    assert "for 1 s" in drain(source)[1]


def test_a_stream_gone_quiet_is_interrupted(
    http_server: HttpServer, connect: Callable[..., NetworkSource]
) -> None:
    http_server.paths["/video"] = mjpeg(5, quiet)
    source = connect(http_server.url("/video"))
    source.open()
    assert "for 1 s" in drain(source)[1]


def test_data_without_a_picture_is_interrupted_and_counted(
    http_server: HttpServer, connect: Callable[..., NetworkSource]
) -> None:
    def garbage(handler: _Handler) -> None:
        spoilt = jpeg(0)[:4] + bytes(300)
        _send_jpegs(handler, iter(lambda: spoilt, b""))

    http_server.paths["/video"] = mjpeg(5, garbage)
    source = connect(http_server.url("/video"))
    source.open()
    assert "data comes, but no picture for 1 s" in drain(source)[1]
    assert source.drops[DropCause.CORRUPT] > 10


def test_closing_frees_a_waiting_reader(
    http_server: HttpServer, connect: Callable[..., NetworkSource]
) -> None:
    http_server.paths["/video"] = mjpeg(3, quiet)
    source = connect(http_server.url("/video"), reconnect={"stall_s": 4})
    source.open()
    outcome: list[str] = []
    reader = threading.Thread(target=lambda: outcome.append(drain(source)[1]))
    reader.start()
    time.sleep(0.3)
    source.close()
    reader.join(timeout=3)
    assert not reader.is_alive()
    assert outcome == [f"{http_server.url('/video')}: closed"]
    source.close()


def test_closing_frees_a_waiting_opener(
    connect: Callable[..., NetworkSource], tcp_server: Callable[[bytes | None], int]
) -> None:
    source = connect(f"rtsp://127.0.0.1:{tcp_server(None)}/x")
    outcome: list[str] = []

    def open_it() -> None:
        try:
            source.open()
        except SourceInterrupted as error:
            outcome.append(str(error))

    opener = threading.Thread(target=open_it)
    opener.start()
    time.sleep(0.3)
    source.close()
    opener.join(timeout=2)
    assert not opener.is_alive()
    assert "closed while connecting" in outcome[0]


# --- What can be wrong at the other end -------------------------------------------------------------------


@pytest.fixture
def tcp_server() -> Iterator[Callable[[bytes | None], int]]:
    """Starts servers that accept and answer with some bytes (None: never). Gives the port."""
    sockets: list[socket.socket] = []

    def start(answer: bytes | None) -> int:
        listening = socket.create_server(("127.0.0.1", 0))
        sockets.append(listening)

        def run() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                sockets.append(connection)
                if answer is not None:
                    connection.recv(1000)
                    connection.sendall(answer)
                    connection.close()

        threading.Thread(target=run, daemon=True).start()
        return int(listening.getsockname()[1])

    yield start
    for opened in sockets:
        opened.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def assert_refused(source: NetworkSource, kind: type[SourceError], *texts: str) -> None:
    with pytest.raises(SourceError) as caught:
        source.open()
    assert type(caught.value) is kind
    for text in texts:
        assert text in str(caught.value)


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_nobody_listens(connect: Callable[..., NetworkSource], scheme: str) -> None:
    port = free_port()
    source = connect(f"{scheme}://127.0.0.1:{port}/x")
    assert_refused(source, SourceInterrupted, f"nothing listens on port {port}", "127.0.0.1")


def test_unknown_host(connect: Callable[..., NetworkSource]) -> None:
    source = connect("rtsp://no-such-host.invalid/x")
    assert_refused(source, SourceInterrupted, "'no-such-host.invalid' cannot be resolved")


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_server_that_never_answers_does_not_hang_the_program(
    connect: Callable[..., NetworkSource], tcp_server: Callable[[bytes | None], int], scheme: str
) -> None:
    source = connect(f"{scheme}://127.0.0.1:{tcp_server(None)}/x", open_timeout_s=2)
    assert_refused(source, SourceInterrupted, "no answer within")


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_server_that_speaks_something_else(
    connect: Callable[..., NetworkSource], tcp_server: Callable[[bytes | None], int], scheme: str
) -> None:
    source = connect(f"{scheme}://127.0.0.1:{tcp_server(b'220 mail.example.com ESMTP ready')}/x")
    assert_refused(source, SourceError, "answers, but not with a stream that can be read")


def test_http_status_is_explained(http_server: HttpServer, connect: Callable[..., NetworkSource]) -> None:
    http_server.paths["/private"] = lambda handler: handler.send_error(401)
    http_server.paths["/broken"] = lambda handler: handler.send_error(503)
    http_server.paths["/page"] = lambda handler: (
        handler.send_response(200), handler.end_headers(), handler.wfile.write(b"<html></html>")
    )  # fmt: skip
    assert_refused(connect(http_server.url("/none")), SourceError, "has no such path (404)")
    assert_refused(connect(http_server.url("/private")), SourceError, "wants other credentials", "401")
    assert_refused(connect(http_server.url("/broken")), SourceInterrupted, "the server fails")
    assert_refused(connect(http_server.url("/page")), SourceError, "not with a stream")


def test_unknown_protocol(connect: Callable[..., NetworkSource]) -> None:
    assert_refused(connect("carrier-pigeon://loft/7"), SourceError, "not a URL of a protocol that is known")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://admin:s3cret@cam/1", "rtsp://***@cam/1"),
        ("rtsp://admin@cam/1", "rtsp://***@cam/1"),
        ("rtsp://admin:s3c/r@et@cam:554/1", "rtsp://***@cam:554/1"),
        ("http://cam/v?user=a&password=s3cret&x=1", "http://cam/v?user=a&password=***&x=1"),
        ("http://cam/v?apikey=s3cret", "http://cam/v?apikey=***"),
        ("rtsp://cam/a@b", "rtsp://cam/a@b"),
    ],
)
def test_redaction(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_credentials_appear_nowhere(
    connect: Callable[..., NetworkSource],
    http_server: HttpServer,
    tcp_server: Callable[[bytes | None], int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    http_server.paths["/video"] = mjpeg(3)
    said = []
    for url in (
        f"rtsp://admin:{SECRET}@127.0.0.1:{free_port()}/x",
        f"rtsp://admin:{SECRET}@127.0.0.1:{tcp_server(b'hello')}/x?token={SECRET}",
        http_server.url(f"/video?password={SECRET}").replace("//", f"//admin:{SECRET}@"),
    ):
        source = connect(url)
        try:
            source.open()
            read(source, 10)
        except SourceError as error:
            said += traceback.format_exception(error)
        else:
            pytest.fail("each of these must fail sooner or later")
        said += [repr(source._options), repr(source._options.model_dump(mode="json"))]
    assert SECRET not in "".join(said)
    assert SECRET not in caplog.text


# --- The receiving thread ---------------------------------------------------------------------------------


class SteppingClock(VirtualClock):
    """Goes on by `step_ns` each time it is read."""

    step_ns = 150 * NS_PER_MS

    def now_ns(self) -> int:
        self.advance_ns(self.step_ns)
        return super().now_ns()


def test_a_backlog_is_dropped_up_to_the_next_key_frame(tmp_path: Path) -> None:
    path = media.write_clip(tmp_path / "a.mkv", frames=24, options={"g": "4", "sc_threshold": "0"})
    drops: Counter[DropCause] = Counter()
    pump = PacketPump(lambda: av.open(str(path)), name="clip", clock=SteppingClock(), drops=drops)
    try:
        pump.wait_open(5)
        while not pump._ended:
            time.sleep(0.01)
        packets = [timed.packet for timed in iter(lambda: pump.next(5), None)]
    finally:
        pump.stop()
    # Packet 14 comes 2.1 s after packet 0, which still waits; the next key frame is packet 16.
    assert drops == {DropCause.OVERRUN: 16}
    assert [packet.is_keyframe for packet in packets] == 2 * [True, False, False, False]


def test_a_connection_that_hangs_is_abandoned(tmp_path: Path) -> None:
    path = media.write_clip(tmp_path / "a.mkv", frames=2)
    release = threading.Event()

    def hang() -> Any:
        release.wait(20)
        return av.open(str(path))

    pump = PacketPump(hang, name="hanging", clock=RealClock(), drops=Counter())
    with pytest.raises(TimeoutError):
        pump.wait_open(0.1)
    pump.stop()
    assert pump._thread.is_alive()
    release.set()
    pump._thread.join(5)
    assert not pump._thread.is_alive()
    with pytest.raises(PumpClosed):
        pump.next(0.1)


# --- RTSP -------------------------------------------------------------------------------------------------


@pytest.mark.rtsp
@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_rtsp_delivers_dated_pictures(connect: Callable[..., NetworkSource], transport: str) -> None:
    with RtspServer({"cam": "ball"}, fps=30) as server:
        source = connect(server.url("cam"), rtsp_transport=transport)
        info = source.open()
        assert (info.width, info.height, info.codec) == (320, 240, "h264")
        frames = read(source, 45)
        steps = {b.pts - a.pts for a, b in pairwise(frames)}  # type: ignore[operator]
        assert steps == {90_000 // 30}
        assert not any(frame.corrupt for frame in frames)
        assert frames[0].image.std() > 1
        assert any((a.image != b.image).any() for a, b in pairwise(frames))
        source.close()


@pytest.mark.rtsp
def test_rtsp_camera_that_dies_and_comes_back(connect: Callable[..., NetworkSource]) -> None:
    with RtspServer({"cam": "ball"}) as server:
        for transport in ("tcp", "udp"):
            source = connect(server.url("cam"), rtsp_transport=transport)
            source.open()
            read(source, 5)
            server.stop()
            assert "127.0.0.1" in drain(source)[1]
            assert_refused(source, SourceInterrupted, "nothing listens on port")
            server.start()
            source.open()
            assert len(read(source, 5)) == 5
            source.close()


@pytest.mark.rtsp
def test_rtsp_falls_back_to_tcp_when_udp_is_refused(connect: Callable[..., NetworkSource]) -> None:
    with RtspServer({"cam": "ball"}, tcp_only=True) as server:
        source = connect(server.url("cam"), rtsp_transport="auto")
        source.open()
        assert len(read(source, 5)) == 5
        source.close()
        source = connect(server.url("cam"), rtsp_transport="udp")
        assert_refused(source, SourceError, "not offered over udp; set rtsp_transport to auto")


@pytest.mark.rtsp
def test_rtsp_refusals_are_explained_without_the_password(connect: Callable[..., NetworkSource]) -> None:
    with RtspServer({"cam": "ball"}, user="admin", password=SECRET) as server:
        source = connect(server.url("cam"))
        source.open()
        source.close()
        for url in (server.url("cam", credentials=False), server.url("cam").replace(SECRET, "wr0ng")):
            source = connect(url)
            assert_refused(source, SourceError, "wants other credentials", "user:password@host")
    with RtspServer({"cam": "ball"}) as server:
        assert_refused(connect(server.url("nope")), SourceError, "has no such path (404)")


@pytest.mark.rtsp
def test_rtsp_of_a_file_ends(connect: Callable[..., NetworkSource], tmp_path: Path) -> None:
    path = media.write_clip(tmp_path / "a.mp4", frames=24)
    with RtspServer({"cam": str(path)}, width=media.WIDTH, height=media.HEIGHT) as server:
        source = connect(server.url("cam"))
        source.open()
        frames, reason = drain(source)
    assert "the stream ended" in reason
    numbers = [media.frame_number(frame.image) for frame in frames]
    assert numbers == list(range(24 - len(numbers), 24))
    assert len(numbers) >= 20


@pytest.mark.rtsp
def test_sender_reports_date_the_pictures_when_the_clock_is_trusted(
    connect: Callable[..., NetworkSource],
) -> None:
    with RtspServer({"cam": "ball"}) as server:
        source = connect(server.url("cam"), rtcp=True)
        source.open()
        dated: list[RawFrame] = []
        for _ in range(300):  # reports come every few seconds
            frame = source.read()
            if frame is not None and frame.t_capture_hint is not None:
                dated.append(frame)
            if len(dated) == 20:
                break
        source.close()
    assert len(dated) == 20
    delays = [frame.t_arrival - frame.t_capture_hint for frame in dated[5:]]  # type: ignore[operator]
    assert all(0 <= delay < NS_PER_S for delay in delays)
    captured = [frame.t_capture_hint for frame in dated[5:]]
    assert all(b - a == pytest.approx(NS_PER_S / 30, abs=2e6) for a, b in pairwise(captured))  # type: ignore[operator]


class YearsAhead(RealClock):
    def wall_ns(self) -> int:
        return super().wall_ns() + 3 * 365 * 86_400 * NS_PER_S


@pytest.mark.rtsp
def test_sender_reports_of_a_camera_with_a_wrong_clock_are_ignored_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with RtspServer({"cam": "ball"}) as server:
        options = NetworkOptions.model_validate({"url": server.url("cam"), "rtcp": True})
        source = NetworkSource(options, clock=YearsAhead())
        source.open()
        hints = set()
        for _ in range(300):
            frame = source.read()
            assert frame is not None
            hints.add(frame.t_capture_hint)
            if "rtcp is ignored" in caplog.text:
                break
        source.close()
    assert hints == {None}
    assert caplog.text.count("rtcp is ignored") == 1
