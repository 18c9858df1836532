"""RTSP cameras, played by a real server."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import media
import pytest
from network import SECRET, assert_refused, drain, read
from rtsp import RtspServer

from streamfuse.capture.network import NetworkOptions, NetworkSource
from streamfuse.clock import NS_PER_S, RealClock
from streamfuse.errors import SourceError, SourceInterrupted
from streamfuse.frame import RawFrame

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
