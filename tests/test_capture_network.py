"""Cameras on a network, met over real sockets: HTTP and UDP, and the thread that receives."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import media
import pytest
from network import HttpServer, _Handler, _send_jpegs, drain, jpeg, mjpeg, read

from streamfuse.capture._pump import PacketPump, PumpClosed
from streamfuse.capture.network import NetworkSource
from streamfuse.clock import NS_PER_MS, RealClock, VirtualClock
from streamfuse.errors import SourceInterrupted
from streamfuse.frame import DropCause


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
