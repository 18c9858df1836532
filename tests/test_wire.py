"""Wire schema v1: golden bytes, an independent reader, and a reader that believes nothing."""

import copy
import itertools
import json
import pickle
import struct
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from factories import fused_frame
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamfuse.clock import NS_PER_S
from streamfuse.errors import WireError
from streamfuse.frame import FusedFrame, Registration, Rung, Status
from streamfuse.sinks.freshness import Freshness
from streamfuse.sinks.wire import (
    MAX_HEADER_BYTES,
    SendTimes,
    encode_header,
    frame_header,
    jpeg_payload,
    pack,
    raw_payload,
    stamp,
    stamp_ns,
    topic_name,
)
from streamfuse.sinks.wire_message import Message, decode

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no failure."""
SESSION = "6f1b2c1e-8a52-4f0e-9d0e-2b1f5a1c7e11"
LIVE_TIMES = SendTimes(now_ns=5_100_000_000, wall_ns=1_700_000_000_123_456_789, encode_ns=1_500_000)

GOLDEN_HEADER = (
    b'{"schema":"streamfuse.frame","version":1,"session":"6f1b2c1e-8a52-4f0e-9d0e-2b1f5a1c7e11","seq":7,'
    b'"stamp":{"sec":1700000000,"nanosec":23456789},"stamp_source":"arrival","stamp_uncertainty_ns":0,'
    b'"frame_id":"rig0/vis_optical","images":[{"name":"fused","width":4,"height":2,"encoding":"rgb8",'
    b'"is_bigendian":0,"step":12,"format":"","part":2,"nbytes":24}],"sources":{"ir":{"stamp":'
    b'{"sec":1700000000,"nanosec":23456789},"seq":3,"pts":null,"time_base":null,"age_ns":100000000,'
    b'"unique":true,"held":false,"frozen":false,"unit":"agc8"},"vis":{"stamp":{"sec":1700000000,'
    b'"nanosec":23456789},"seq":3,"pts":null,"time_base":null,"age_ns":100000000,"unique":true,"held":false,'
    b'"frozen":false,"unit":"agc8"}},"pair":{"dt_ns":0,"policy":"nearest","window_ns":20000000,"offset_ns":0,'
    b'"offset_source":"config","skew_ppm":null,"motion":null},"registration":{"status":"ok","reason":"","confidence":0.9,'
    b'"scales":null,"warm_start":false,"homography":[1.0,0.0,0.0,0.0,1.0,0.0,0.0,0.0,1.0],"max_disp_px":0.0},'
    b'"quality":{"rung":0,"reason":""},"latency_ns":{"capture_to_arrival":40000000,"wait_pair":null,'
    b'"queue":null,"gpu":9000000,"encode":1500000,"capture_to_publish":100000000},"publish_stamp":'
    b'{"sec":1700000000,"nanosec":123456789},"dropped":{"total":3,"by_cause":{"duplicate":2,"late":1}},'
    b'"calib_id":null}'
)


def live_frame() -> FusedFrame:
    return fused_frame(
        3,
        image=np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
        live=True,
        t_capture=5_000_000_000,
        t_arrival=5_040_000_000,
        latencies_ns={"register_and_fuse": 9_000_000},
        dropped={"late": 1, "duplicate": 2},
    )


def message_parts(frame: FusedFrame, **changes: Any) -> list[bytes]:
    payloads = [raw_payload("fused", frame.image)]
    settings_ = {"times": LIVE_TIMES, "session": SESSION, "seq": 7, "rig": "rig0"} | changes
    header = frame_header(frame, payloads, **settings_)
    return [topic_name("rig0", "fused"), encode_header(header), *(bytes(p.data) for p in payloads)]


def independent_decoder(parts: list[bytes]) -> dict[str, Any]:
    """The schema as a reader would write it who never saw our code."""
    header = json.loads(parts[1])
    assert header["schema"] == "streamfuse.frame"
    assert header["version"] == 1
    (image,) = header["images"]
    height, width, step = image["height"], image["width"], image["step"]
    data = parts[image["part"]]
    rows = [data[y * step : y * step + width * 3] for y in range(height)]
    pixels = [[tuple(row[x * 3 : x * 3 + 3]) for x in range(width)] for row in rows]
    return {"topic": parts[0].decode(), "pixels": pixels, "seconds": header["stamp"]["sec"]}


def test_golden_header() -> None:
    assert message_parts(live_frame())[1] == GOLDEN_HEADER


def test_an_independent_decoder_reads_it() -> None:
    frame = live_frame()
    decoded = independent_decoder(message_parts(frame))
    assert decoded["topic"] == "rig0/fused/"
    assert decoded["seconds"] == 1_700_000_000
    assert np.array_equal(np.array(decoded["pixels"]), frame.image)


def test_our_decoder_reads_the_golden_bytes() -> None:
    frame = live_frame()
    message = decode([b"rig0/fused/", GOLDEN_HEADER, frame.image.tobytes()])
    assert (message.image() == frame.image).all()
    assert message.stamp_ns == 1_700_000_000_023_456_789
    assert message.publish_stamp_ns == LIVE_TIMES.wall_ns
    assert (message.seq, message.session, message.status, message.eos) == (7, SESSION, "ok", False)
    assert message.confidence == pytest.approx(0.9)


def test_recordings_carry_media_time() -> None:
    header = json.loads(message_parts(fused_frame(30))[1])
    assert header["stamp"] == {"sec": 1, "nanosec": 0}
    assert header["stamp_source"] == "file_pts"
    assert header["sources"]["vis"]["pts"] == 15360
    assert header["sources"]["vis"]["time_base"] == [1, 15360]
    assert header["latency_ns"]["capture_to_publish"] is None
    assert header["sources"]["ir"]["age_ns"] is None


def test_a_recording_played_in_real_time_is_live() -> None:
    frame = fused_frame(30, t_capture=5_000_000_000, t_arrival=5_000_000_000)
    header = json.loads(message_parts(frame)[1])
    assert header["stamp"] == {"sec": 1_700_000_000, "nanosec": 23_456_789}
    assert header["stamp_source"] == "file_pts"
    assert header["latency_ns"]["capture_to_publish"] == 100_000_000


def test_without_infrared_nothing_is_invented() -> None:
    frame = fused_frame(0, with_ir=False, status=Status.OFF, reason="no infrared", rung=Rung.PASS_THROUGH)
    header = json.loads(message_parts(frame)[1])
    assert header["sources"]["ir"] is None
    assert header["pair"]["dt_ns"] is None
    assert header["registration"]["status"] == "off"
    assert header["quality"]["rung"] == 4


def test_largest_displacement_is_that_of_the_field() -> None:
    frame = fused_frame(0)
    flow = np.zeros((48, 64, 2), np.float32)
    flow[16:32, 16:32] = (3, 4)
    moved = replace(frame, registration=Registration(status=Status.OK, confidence=1, flow=flow))
    header = json.loads(message_parts(moved)[1])
    assert header["registration"]["max_disp_px"] == pytest.approx(5)
    assert header["registration"]["homography"] is None
    shift = np.array([[1, 0, 6], [0, 1, -8], [0, 0, 1]], float)
    moved = replace(frame, registration=Registration(status=Status.OK, confidence=1, matrix=shift))
    header = json.loads(message_parts(moved)[1])
    assert header["registration"]["max_disp_px"] == pytest.approx(10)
    assert header["registration"]["homography"] == [1, 0, 6, 0, 1, -8, 0, 0, 1]


def test_a_header_never_outgrows_its_limit() -> None:
    frame = fused_frame(0, reason="x" * 10_000, dropped={f"cause_{i}": i for i in range(20)})
    assert len(message_parts(frame)[1]) < MAX_HEADER_BYTES
    with pytest.raises(WireError, match="at most 4096"):
        encode_header({"a": "x" * 5000})
    with pytest.raises(WireError, match="not finite"):
        encode_header({"a": float("nan")})


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
@pytest.mark.parametrize("packed", [False, True])
def test_raw_pictures_round_trip(shape: tuple[int, ...], packed: bool, rng: np.random.Generator) -> None:
    kinds = [np.uint8] if len(shape) == 3 else [np.uint8, np.uint16]
    for kind in kinds:
        image = rng.integers(0, np.iinfo(kind).max, shape, dtype=kind)
        payload = raw_payload("ir", image)
        header = frame_header(fused_frame(0), [payload], times=LIVE_TIMES, session=SESSION, seq=0, rig="rig0")
        parts = [b"rig0/ir/", encode_header(header), bytes(payload.data)]
        message = decode([pack(*parts[:2], parts[2:])] if packed else parts)
        assert message.topic == "rig0/ir/"
        assert message.image("ir").dtype == kind
        assert (message.image() == image).all()


def test_a_packed_message_is_topic_mark_length_header_payload() -> None:
    topic, header, payload = message_parts(live_frame())
    packed = pack(topic, header, [payload])
    assert packed.startswith(b"rig0/fused/\x00SFZ1" + struct.pack("<I", len(header)) + b"{")
    assert packed.endswith(payload)


@pytest.mark.parametrize("gray", [False, True])
def test_jpeg_is_a_plain_file_with_right_colours(gray: bool) -> None:
    frame = fused_frame(0, width=96, height=64)
    image = frame.registered_ir if gray else frame.image
    payload = jpeg_payload("fused", image, quality=95)
    header = frame_header(frame, [payload], times=LIVE_TIMES, session=SESSION, seq=0, rig="r")
    message = decode([b"r/fused/", encode_header(header), payload.data])
    assert message.image().shape == image.shape
    assert cv2.PSNR(message.image(), image) > 35
    direct = cv2.imdecode(np.frombuffer(payload.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert direct.shape == image.shape


def test_unknown_keys_are_ignored_and_kept() -> None:
    topic, header, payload = message_parts(live_frame())
    extended = json.loads(header) | {"weather": {"rain": True}}
    message = decode([topic, json.dumps(extended).encode(), payload])
    assert message.header["weather"] == {"rain": True}


def changed(**changes: Any) -> list[bytes]:
    topic, header, payload = message_parts(live_frame())
    return [topic, json.dumps(json.loads(header) | changes).encode(), payload]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "no parts"),
        ([b"hello"], "without its mark"),
        ([b"rig0/fused/", b"\x93msgpack"], "JSON object"),
        ([b"rig0/fused/", b"{" + b" " * 5000], "at most 4 KiB"),
        ([b"rig0/fused/", b"{nonsense"], "not JSON"),
        ([b"rig0/fused/", b'{"a":' + b"[" * 3000], "not JSON"),
        ([b"rig0/fused/", b'{"schema":"other"}'], "schema 'other'"),
        (changed(version=2), "version 2"),
        (changed(seq="7"), "'seq' is '7'"),
        (changed(stamp={"sec": 1}), "'stamp'"),
        (changed(registration={}), "registration"),
        (changed(latency_ns={"capture_to_publish": "soon"}), "capture_to_publish"),
        (changed(images=[]), r"payloads of \[\] bytes, \[24\] came"),
        (changed(images=[{"name": "fused"}]), "without integers"),
        (changed(images=[{"width": 4, "height": 2, "step": 12, "nbytes": -24}]), "negative"),
        (message_parts(live_frame())[:2], "came"),
        ([pack(*message_parts(live_frame())[:2], [b"short"])], "announces 24 bytes"),
    ],
)
def test_foreign_and_damaged_messages_are_rejected(parts: list[bytes], message: str) -> None:
    with pytest.raises(WireError, match=message):
        decode(parts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoding": "8UC3"}, "encoding '8UC3'"),
        ({"width": 5}, "is not 24 bytes"),
        ({"format": "jpeg"}, "nothing readable"),
    ],
)
def test_a_picture_that_cannot_be_is_refused_on_use(change: dict[str, Any], message: str) -> None:
    entry = json.loads(GOLDEN_HEADER)["images"][0] | change
    decoded = decode(changed(images=[entry]))
    with pytest.raises(WireError, match=message):
        decoded.image()
    with pytest.raises(WireError, match="no image 'depth' among"):
        decoded.image("depth")


@UNHURRIED
@given(st.lists(st.binary(max_size=60), max_size=4))
def test_random_bytes_raise_nothing_but_wire_errors(parts: list[bytes]) -> None:
    with pytest.raises(WireError):
        decode(parts)


@UNHURRIED
@given(st.data())
def test_damaged_bytes_raise_nothing_but_wire_errors(data: st.DataObject) -> None:
    parts = message_parts(live_frame())
    whole = pack(*parts[:2], parts[2:]) if data.draw(st.booleans()) else b""
    victim = bytearray(whole or parts[1])
    for _ in range(data.draw(st.integers(1, 4))):
        victim[data.draw(st.integers(0, len(victim) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = decode([bytes(victim)] if whole else [parts[0], bytes(victim), parts[2]])
        message.image()
    except WireError:
        return
    assert message.image().ndim in (2, 3)


@UNHURRIED
@given(st.integers(-(10**18), 4 * 10**18))
def test_stamps_lose_no_nanosecond(time_ns: int) -> None:
    value = stamp(time_ns)
    assert 0 <= value["nanosec"] < 10**9
    assert stamp_ns(value) == time_ns


def dated(
    freshness: Freshness, seq: int, *, sent: int, arrived: int, skew: int, own: int = 10
) -> Message | None:
    parts = message_parts(live_frame(), seq=seq)
    header = json.loads(parts[1])
    header["publish_stamp"] = stamp(sent + skew)
    header["latency_ns"]["capture_to_publish"] = own
    message = decode([parts[0], json.dumps(header).encode(), parts[2]])
    return freshness.accept(message, now_ns=arrived, wall_ns=arrived)


@UNHURRIED
@given(st.integers(-(10**15), 10**15))
def test_age_needs_no_common_clock(skew: int) -> None:
    freshness = Freshness()
    quick = dated(freshness, 0, sent=1000, arrived=1005, skew=skew)
    slow = dated(freshness, 1, sent=2000, arrived=2505, skew=skew)
    assert quick is not None
    assert quick.age_ns(1005) == 10
    assert slow is not None
    assert slow.age_ns(2505) == 510
    assert slow.age_ns(3505) == 1510


def test_gaps_repeats_and_sessions_are_counted() -> None:
    freshness = Freshness()
    lost = []
    for seq in (4, 5, 8, 8, 7, 9):
        message = dated(freshness, seq, sent=seq, arrived=seq, skew=0)
        lost.append(None if message is None else message.lost)
    assert lost == [0, 0, 2, None, None, 0]
    statistics = freshness.statistics()
    assert (statistics.received, statistics.lost, statistics.repeated, statistics.sessions) == (4, 2, 2, 1)


def test_a_replaced_publisher_counts_again_when_its_successor_is_silent() -> None:
    freshness = Freshness()
    frame = decode(message_parts(live_frame(), seq=0))
    seqs = itertools.count()

    def accepted(session: str, at_s: float) -> bool:
        at_ns = round(at_s * NS_PER_S)
        message = replace(frame, header=frame.header | {"session": session, "seq": next(seqs)})
        try:
            return freshness.accept(message, now_ns=at_ns, wall_ns=at_ns) is not None
        except WireError:
            return False

    assert accepted("first", 0)
    assert accepted("second", 0.1)
    assert not accepted("first", 0.2)
    assert accepted("second", 0.3)
    assert not accepted("first", 3.2)
    assert accepted("first", 3.4)
    assert not accepted("second", 3.5)


def test_a_message_goes_to_another_process() -> None:
    message = replace(decode(message_parts(live_frame())), received_ns=5, delay_ns=6, lost=1)
    for twin in (pickle.loads(pickle.dumps(message)), copy.deepcopy(message)):
        assert twin == message
        np.testing.assert_array_equal(twin.image(), message.image())
