"""The ZeroMQ sink and its subscriber, over real sockets."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import zmq
from factories import fused_frame
from pydantic import ValidationError

from streamfuse.clock import NS_PER_S, RealClock
from streamfuse.errors import ConfigError, SinkError, StaleError
from streamfuse.frame import FusedFrame
from streamfuse.sinks.subscriber import Subscriber
from streamfuse.sinks.wire import topic_name
from streamfuse.sinks.wire_message import decode
from streamfuse.sinks.zmq import ZmqOptions, ZmqSink

PATIENCE_S = 20.0


def until(condition: Callable[[], Any]) -> None:
    """Wait for something that other threads bring about."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def live_frame(index: int, **options: Any) -> FusedFrame:
    now = RealClock().now_ns()
    return fused_frame(index, live=True, t_capture=now, **options)


def has_status(subscriber: Subscriber) -> bool:
    try:
        return bool(subscriber.status())
    except StaleError:
        return False


class Rig:
    """Sinks and subscribers that are closed at the end of a test."""

    def __init__(self) -> None:
        self.stack = ExitStack()

    def sink(self, bind: str = "tcp://127.0.0.1:0", **options: Any) -> ZmqSink:
        sink = ZmqSink(ZmqOptions(bind=bind, **options), clock=RealClock())
        sink.open()
        self.stack.callback(sink.close)
        return sink

    def subscriber(self, sink: ZmqSink, channel: str = "fused", **options: Any) -> Subscriber:
        """A subscriber whose subscription has arrived: the status comes in answer to it."""
        subscriber = self.stack.enter_context(Subscriber(sink.endpoint, channel=channel, **options))
        until(lambda: has_status(subscriber))
        return subscriber

    @staticmethod
    def wait_for(sink: ZmqSink, channel: str = "fused") -> None:
        assert sink._publisher is not None
        until(lambda: sink._publisher.wanted(topic_name("rig0", channel)))  # type: ignore[union-attr]


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    with rig.stack:
        yield rig


def test_every_channel_carries_its_picture(rig: Rig) -> None:
    raw = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)
    frame = live_frame(0)
    frame = replace(frame, pair=replace(frame.pair, ir=replace(frame.pair.ir, raw=raw, unit="counts")))
    channels = ("fused", "ir", "vis", "overlay")
    sink = rig.sink(channels=channels)
    subscribers = {channel: rig.subscriber(sink, channel) for channel in channels}
    sink.write(frame)
    got = {channel: subscriber.next(PATIENCE_S) for channel, subscriber in subscribers.items()}
    assert (got["fused"].image() == frame.image).all()
    assert (got["vis"].image() == frame.visible).all()
    assert (got["ir"].image() == raw).all()
    assert got["ir"].header["frame_id"] == "rig0/ir_optical"
    assert got["ir"].header["sources"]["ir"]["unit"] == "counts"
    assert got["overlay"].image().shape == (48, 64, 3)
    assert got["fused"].header["sources"]["vis"]["seq"] == got["ir"].header["sources"]["vis"]["seq"] == 0


def test_jpeg(rig: Rig) -> None:
    sink = rig.sink(encoding="jpeg", quality=95, channels=("fused", "ir"))
    fused, ir = rig.subscriber(sink), rig.subscriber(sink, "ir")
    frame = live_frame(0, width=160, height=120)
    sink.write(frame)
    message = fused.next(PATIENCE_S)
    assert message.header["images"][0]["format"] == "jpeg"
    assert cv2.PSNR(message.image(), frame.image) > 32
    assert ir.next(PATIENCE_S).image().shape == (120, 160)


def test_packed_messages_survive_conflate(rig: Rig) -> None:
    sink = rig.sink(packed=True)
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.CONFLATE, 1)
        socket.setsockopt(zmq.SUBSCRIBE, b"rig0/fused/")
        socket.connect(sink.endpoint)
        rig.wait_for(sink)
        subscriber = rig.subscriber(sink)
        frame = live_frame(0)
        sink.write(frame)
        assert socket.poll(PATIENCE_S * 1000)
        assert (decode([socket.recv()]).image() == frame.image).all()
        assert (subscriber.next(PATIENCE_S).image() == frame.image).all()


def test_a_subscriber_may_come_before_the_publisher(rig: Rig) -> None:
    first = rig.sink()
    endpoint = first.endpoint
    first.close()
    subscriber = rig.stack.enter_context(Subscriber(endpoint))
    with pytest.raises(StaleError, match="the publisher was never heard"):
        subscriber.latest(10)
    sink = rig.sink(endpoint)
    rig.wait_for(sink)
    sink.write(live_frame(0))
    assert subscriber.next(PATIENCE_S).seq == 0


def test_a_late_joiner_starts_with_the_next_frame_and_counts_no_loss(rig: Rig) -> None:
    sink = rig.sink()
    early = rig.subscriber(sink)
    for index in range(5):
        sink.write(live_frame(index))
        until(lambda index=index: early.statistics().received == index + 1)
    late = rig.subscriber(sink)
    sink.write(live_frame(5))
    assert late.next(PATIENCE_S).seq == 5
    assert late.statistics().lost == 0


def test_a_slow_reader_gets_fresh_frames_and_the_quick_one_all(rig: Rig) -> None:
    sink = rig.sink()
    quick, slow = rig.subscriber(sink), rig.subscriber(sink)
    every = quick.every(buffer=100)
    seen = []
    for index in range(40):
        sink.write(live_frame(index))
        until(lambda index=index: slow.statistics().received == index + 1)
        if index % 10 == 9:
            seen.append(slow.next(PATIENCE_S).seq)
    assert seen == [9, 19, 29, 39]
    assert [next(every).seq for _ in range(40)] == list(range(40))
    assert every.lost == 0
    assert slow.statistics().lost == 0


def test_a_full_buffer_loses_the_oldest_and_says_so(rig: Rig) -> None:
    sink = rig.sink()
    subscriber = rig.subscriber(sink)
    every = subscriber.every(buffer=3)
    for index in range(10):
        sink.write(live_frame(index))
        until(lambda index=index: subscriber.statistics().received == index + 1)
    sink.close()
    assert [message.seq for message in every] == [7, 8, 9]
    assert every.lost == 7
    with pytest.raises(ValueError, match="buffer = 0"):
        subscriber.every(buffer=0)


def test_an_abandoned_reader_is_forgotten(rig: Rig) -> None:
    sink = rig.sink()
    subscriber = rig.subscriber(sink)
    for _ in range(3):
        subscriber.every()
    assert len(subscriber._readers) == 0


def test_a_subscriber_that_restarts_gets_frames_again(rig: Rig) -> None:
    sink = rig.sink()
    for index in range(3):
        with Subscriber(sink.endpoint) as subscriber:
            rig.wait_for(sink)
            sink.write(live_frame(index))
            assert subscriber.next(PATIENCE_S).seq == index
        until(lambda: not sink._publisher.wanted(b"rig0/fused/"))


def test_nothing_is_encoded_without_a_subscriber(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = rig.sink(encoding="jpeg", channels=("fused", "vis"))
    rig.subscriber(sink, "vis")
    made: list[str] = []
    original = sink._payload
    monkeypatch.setattr(
        sink, "_payload", lambda frame, channel: made.append(channel) or original(frame, channel)
    )
    sink.write(live_frame(0))
    assert made == ["vis"]


def test_a_publisher_that_restarts_is_a_new_session(rig: Rig) -> None:
    sink = rig.sink()
    subscriber = rig.subscriber(sink)
    sink.write(live_frame(0))
    sink.write(live_frame(1))
    until(lambda: subscriber.statistics().received == 2)
    first = subscriber.latest(PATIENCE_S).session
    sink.close()
    until(lambda: subscriber.next(PATIENCE_S) is None)
    again = rig.sink(sink.endpoint)
    rig.wait_for(again)
    again.write(live_frame(0))
    message = subscriber.next(PATIENCE_S)
    assert message is not None
    assert (message.seq, message.lost) == (0, 0)
    assert message.session != first
    assert subscriber.statistics().sessions == 2


def test_the_end_is_told_and_the_last_frame_kept(rig: Rig) -> None:
    sink = rig.sink()
    subscriber = rig.subscriber(sink)
    every = subscriber.every()
    sink.write(live_frame(0))
    sink.close()
    sink.close()
    assert [message.seq for message in every] == [0]
    assert subscriber.latest(PATIENCE_S).seq == 0
    until(lambda: subscriber.status()["state"] == "ended")
    with pytest.raises(StaleError, match="ended its stream"):
        subscriber.latest(0)
    assert subscriber.next(PATIENCE_S) is None


class SteppedClock(RealClock):
    """Real time plus what the test adds."""

    extra_ns = 0

    def now_ns(self) -> int:
        return super().now_ns() + self.extra_ns


def test_an_old_frame_is_never_passed_off_as_fresh(rig: Rig) -> None:
    clock = SteppedClock()
    sink = rig.sink()
    subscriber = rig.subscriber(sink, clock=clock)
    sink.write(live_frame(0))
    until(lambda: subscriber.statistics().received == 1)
    assert subscriber.latest(PATIENCE_S).seq == 0
    with pytest.raises(StaleError, match=r"none for 0\.01 s, the last one is .* the publisher is alive and"):
        subscriber.next(0.01)
    clock.extra_ns = 1000 * NS_PER_S
    with pytest.raises(StaleError, match=r"none younger than 20 s, the last one is 1000\..* s old"):
        subscriber.latest(PATIENCE_S)


def test_a_frame_that_was_old_when_it_came_is_stale(rig: Rig) -> None:
    sink = rig.sink()
    subscriber = rig.subscriber(sink)
    now = RealClock().now_ns()
    sink.write(fused_frame(0, live=True, t_capture=now - 100 * NS_PER_S))
    until(lambda: subscriber.statistics().received == 1)
    with pytest.raises(StaleError, match=r"the last one is 100\."):
        subscriber.latest(50)
    assert subscriber.statistics().age_ms["max"] >= 100_000


def test_readers_that_wait_are_released(rig: Rig) -> None:
    sink = rig.sink()
    subscriber = rig.subscriber(sink)
    every = subscriber.every()
    results: list[Any] = []
    waiting = [
        threading.Thread(target=lambda: results.append(subscriber.next(PATIENCE_S))),
        threading.Thread(target=lambda: results.append(list(every))),
    ]
    for thread in waiting:
        thread.start()
    subscriber.close()
    subscriber.close()
    for thread in waiting:
        thread.join(PATIENCE_S)
    assert None in results
    assert [] in results


def test_every_with_a_timeout_says_that_nothing_comes(rig: Rig) -> None:
    sink = rig.sink()
    every = rig.subscriber(sink).every(timeout_s=0.01)
    with pytest.raises(StaleError, match=r"none for 0\.01 s"):
        next(every)


def test_foreign_messages_are_counted_not_believed(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    with zmq.Context() as context, context.socket(zmq.XPUB) as stranger:
        port = stranger.bind_to_random_port("tcp://127.0.0.1")
        with Subscriber(f"tcp://127.0.0.1:{port}") as subscriber:
            stranger.recv()
            stranger.recv()
            stranger.send_multipart([b"rig0/fused/", b"\x00\x01", b"junk"])
            stranger.send_multipart([b"rig0/fused/", json.dumps({"schema": "numpy"}).encode()])
            stranger.send(b"rig0/fused/ hello")
            until(lambda: subscriber.statistics().rejected == 3)
            assert "without its mark" in subscriber.statistics().last_rejected
            with pytest.raises(StaleError):
                subscriber.latest(PATIENCE_S)
    assert len([r for r in caplog.records if "rejected" in r.getMessage()]) == 3


def test_status_comes_without_frames(rig: Rig) -> None:
    sink = rig.sink()
    subscriber = rig.subscriber(sink)
    first = subscriber.status()
    assert (first["state"], first["frames"], first["last_frame_age_ns"]) == ("waiting", 0, None)
    until(lambda: subscriber.status()["seq"] > first["seq"])
    sink.write(live_frame(0, dropped={"late": 2}))
    until(lambda: subscriber.status()["state"] == "running")
    status = subscriber.status()
    assert status["frames"] == 1
    assert status["dropped"] == {"total": 2, "by_cause": {"late": 2}}


def test_calibration_goes_to_everyone_who_subscribes(rig: Rig) -> None:
    sink = rig.sink()
    calibration = {"homography": [1, 0, 0, 0, 1, 0, 0, 0, 1]}
    frame = replace(live_frame(0), extra={"calibration": calibration})
    sink.write(frame)
    for _ in range(2):
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.setsockopt(zmq.SUBSCRIBE, b"rig0/calib/")
            socket.connect(sink.endpoint)
            assert socket.poll(PATIENCE_S * 1000)
            message = decode(socket.recv_multipart())
            assert json.loads(bytes(message.payloads[0])) == calibration
    subscriber = rig.subscriber(sink)
    sink.write(frame)
    assert subscriber.next(PATIENCE_S).header["calib_id"] == message.header["calib_id"]


@pytest.mark.parametrize(
    "bind", ["tcp://*:5556", "tcp://0.0.0.0:5556", "tcp://10.0.0.3:5556", "tcp://eth0:0"]
)
def test_a_public_address_is_refused_unless_asked_for(bind: str) -> None:
    with pytest.raises(ValidationError, match="insecure: true"):
        ZmqOptions(bind=bind)
    assert ZmqOptions(bind=bind, insecure=True).bind == bind


@pytest.mark.parametrize(
    "bind", ["tcp://127.0.0.1:0", "tcp://localhost:5556", "tcp://[::1]:1", "ipc:///tmp/x"]
)
def test_a_local_address_needs_no_permission(bind: str) -> None:
    assert ZmqOptions(bind=bind).bind == bind


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": 80}, "does not apply to raw"),
        ({"channels": ("ir", "ir")}, "names one twice"),
        ({"channels": ()}, "at least 1 item"),
        ({"rig": "a/b"}, "pattern"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ZmqOptions(**options)


def test_a_taken_address_is_an_error(rig: Rig) -> None:
    sink = rig.sink()
    with pytest.raises(SinkError, match=f"zmq: cannot bind {sink.endpoint}: Address already in use"):
        rig.sink(sink.endpoint)
    with pytest.raises(SinkError, match="cannot bind nonsense"):
        ZmqSink(ZmqOptions(bind="nonsense", insecure=True), clock=RealClock()).open()
    with pytest.raises(ConfigError, match="no ZeroMQ endpoint"):
        Subscriber("nonsense")


def test_an_ipc_path_is_not_taken_from_another_publisher(rig: Rig, tmp_path: Any) -> None:
    sink = rig.sink(f"ipc://{tmp_path}/s")
    with pytest.raises(SinkError, match=f"cannot bind ipc://{tmp_path}/s: another program publishes there"):
        rig.sink(f"ipc://{tmp_path}/s")
    subscriber = rig.subscriber(sink)
    sink.write(live_frame(0))
    assert subscriber.next(PATIENCE_S).seq == 0
    with socket.socket(socket.AF_UNIX) as killed:  # leaves its path behind
        killed.bind(f"{tmp_path}/t")
    rig.sink(f"ipc://{tmp_path}/t")


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        ({"rig": "a/b"}, "'a/b' is no name of a rig"),
        ({"rig": ""}, "'' is no name of a rig"),
        ({"channel": "fusd"}, "'fusd' is no channel: use one of fused, ir, vis, overlay"),
    ],
)
def test_a_topic_that_cannot_be_is_refused(topic: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Subscriber("tcp://127.0.0.1:1", **topic)


def test_a_wrong_rig_and_a_channel_that_is_not_sent_are_told(rig: Rig) -> None:
    sink = rig.sink(channels=("fused", "vis"))
    with pytest.raises(StaleError, match="alive and does not send 'ir', only fused, vis"):
        rig.subscriber(sink, "ir").next(0)
    with Subscriber(sink.endpoint, rig="rig1") as other, pytest.raises(StaleError, match="rig is not 'rig1'"):
        other.next(0)


def test_two_publishers_of_one_topic_are_told_and_never_mixed(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """Behind a forwarder, as brokers are set up for many rigs."""
    sinks = rig.sink(), rig.sink()
    with zmq.Context() as context, context.socket(zmq.SUB) as inside, context.socket(zmq.XPUB) as outside:
        inside.subscribe(b"rig0/fused/")
        port = outside.bind_to_random_port("tcp://127.0.0.1")
        for sink in sinks:
            inside.connect(sink.endpoint)
            rig.wait_for(sink)
        with Subscriber(f"tcp://127.0.0.1:{port}") as subscriber:
            outside.recv()
            outside.recv()
            for index in range(4):
                for sink in sinks:
                    sink.write(live_frame(index))
                    outside.send_multipart(inside.recv_multipart())
            until(lambda: subscriber.statistics().received + subscriber.statistics().rejected == 8)
            statistics = subscriber.statistics()
    assert (statistics.received, statistics.rejected, statistics.sessions) == (5, 3, 2)
    assert "two publishers send it" in statistics.last_rejected
    assert len([r for r in caplog.records if "rejected" in r.getMessage()]) == 1


def test_ipc(rig: Rig, tmp_path: Any) -> None:
    sink = rig.sink(f"ipc://{tmp_path}/s")
    subscriber = rig.subscriber(sink)
    sink.write(live_frame(0))
    assert subscriber.next(PATIENCE_S).seq == 0
