"""Servers that play network cameras, and how tests read from them."""

import contextlib
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import media
import pytest

from streamfuse.capture.network import NetworkOptions, NetworkSource
from streamfuse.clock import RealClock
from streamfuse.errors import SourceError, SourceInterrupted
from streamfuse.frame import RawFrame

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


def assert_refused(source: NetworkSource, kind: type[SourceError], *texts: str) -> None:
    with pytest.raises(SourceError) as caught:
        source.open()
    assert type(caught.value) is kind
    for text in texts:
        assert text in str(caught.value)
