"""What can be wrong at the other end of a network camera."""

import logging
import socket
import traceback
from collections.abc import Callable

import pytest
from network import SECRET, HttpServer, assert_refused, mjpeg, read

from streamfuse.capture.network import NetworkSource, redact
from streamfuse.errors import SourceError, SourceInterrupted


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
