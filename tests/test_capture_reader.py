"""The reader: time, offline and live."""

import threading
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import media
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import frames, raw, reader, textured

from streamfuse.capture.media_time import MediaTime, Pace
from streamfuse.capture.reader import FrameReader
from streamfuse.capture.video_file import VideoFileOptions, VideoFileSource
from streamfuse.clock import NS_PER_MS, NS_PER_S, RealClock, VirtualClock
from streamfuse.errors import SourceError, SourceInterrupted
from streamfuse.frame import RawFrame

# -- offline time ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("rate", [25, Fraction(30000, 1001)])
def test_a_real_clip_keeps_its_exact_stamps(tmp_path: Path, suffix: str, rate: Fraction | int) -> None:
    options = VideoFileOptions(path=media.write_clip(tmp_path / f"a.{suffix}", rate=rate))
    clock = RealClock()
    source = FrameReader(
        VideoFileSource(options, clock=clock), stream="vis", options=options, kind="file", clock=clock
    )
    source.open()
    found = frames(source)
    source.close()
    assert [media.frame_number(f.image) for f in found] == list(range(24))
    assert [f.seq for f in found] == list(range(24))
    for f in found:
        assert f.pts_seconds is not None
        assert f.t_capture == round(f.pts_seconds * NS_PER_S)
        assert (f.stamp_source, f.stamp_uncertainty_ns, f.epoch) == ("file_pts", 0, 0)


def test_a_hint_is_the_capture_time_of_a_recording() -> None:
    source = reader([raw(i, t_capture_hint=10**18 + i) for i in range(3)])
    assert [f.t_capture for f in frames(source)] == [10**18, 10**18 + 1, 10**18 + 2]


def test_joined_recordings_go_on_in_time_as_a_new_epoch(caplog: pytest.LogCaptureFixture) -> None:
    source = reader([raw(i, pts_ms=p) for i, p in enumerate([5000, 5040, 5080, 0, 40, 80])])
    found = frames(source)
    assert [f.t_capture // NS_PER_MS for f in found] == [5000, 5040, 5080, 5120, 5160, 5200]
    assert [f.epoch for f in found] == [0, 0, 0, 1, 1, 1]
    assert [f.pts for f in found] == [5000, 5040, 5080, 0, 40, 80]
    assert "time line broke" in caplog.text


def test_a_stamp_that_stumbles_moves_nothing_else() -> None:
    source = reader([raw(i, pts_ms=p) for i, p in enumerate([0, 40, 80, 60, 80, 120, 160])])
    found = frames(source)
    assert [f.t_capture for f in found[-2:]] == [120 * NS_PER_MS, 160 * NS_PER_MS]
    assert {f.epoch for f in found} == {0}


@given(st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=50))
def test_media_time_always_rises_and_is_exact_while_the_stamps_do(stamps: list[int]) -> None:
    media_time = MediaTime()
    found = [media_time.stamp(t) for t in stamps]
    assert all(a.t_capture < b.t_capture for a, b in pairwise(found))
    rising = 0
    while rising < len(stamps) and (rising == 0 or stamps[rising] > stamps[rising - 1]):
        assert found[rising].t_capture == stamps[rising]
        rising += 1


def test_pictures_without_any_stamp_are_25_a_second() -> None:
    bare = [RawFrame(image=textured(i), t_arrival=0) for i in range(3)]
    assert [f.t_capture // NS_PER_MS for f in frames(reader(bare))] == [0, 40, 80]


# -- live time -------------------------------------------------------------------------------------


def test_live_stamps_are_arrival_less_latency() -> None:
    source = reader([raw(i) for i in range(50)], live=True, latency_ms=30)
    found = frames(source)
    assert source.live
    assert [f.t_capture for f in found] == [f.t_arrival - 30 * NS_PER_MS for f in found]
    assert {f.stamp_source for f in found} == {"device"}
    assert source.skew_ppm == pytest.approx(0, abs=1)


def test_capture_times_known_from_the_sender_are_used_and_rise() -> None:
    hints = [5 * NS_PER_S, 5 * NS_PER_S + 10, 4 * NS_PER_S, 6 * NS_PER_S]
    found = frames(reader([raw(i, t_capture_hint=h) for i, h in enumerate(hints)], live=True))
    assert [f.t_capture for f in found] == [*hints[:2], hints[1] + 1, hints[3]]
    assert {f.stamp_source for f in found} == {"rtcp"}


@pytest.mark.parametrize("key", ["t_arrival", "t_capture_hint"])
def test_a_live_picture_dated_by_unix_time_is_refused(key: str) -> None:
    unix_ns = 1_700_000_000 * NS_PER_S
    source = reader([raw(0), raw(1, **{key: unix_ns})], live=True)
    source.read()
    with pytest.raises(SourceError, match=f"vis: picture 1 has a {key} 1700000000 s ahead; must be on"):
        source.read()
    assert reader([raw(0, t_capture_hint=unix_ns)]).read(), "a recording may be dated so"


def test_stamps_that_stand_still_give_way_to_arrival(caplog: pytest.LogCaptureFixture) -> None:
    stuck = [raw(i, pts_ms=7, t_arrival=i * 40 * NS_PER_MS) for i in range(100)]
    found = frames(reader(stuck, live=True))
    assert [f.t_capture for f in found[-50:]] == [f.t_arrival for f in found[-50:]]
    assert [f.stamp_source for f in found[-50:]] == ["arrival"] * 50
    assert caplog.messages[-1] == "vis: the source's time line broke; once too often, arrival counts for now"
    assert len(caplog.messages) == found[-1].epoch == 4


def test_a_source_without_a_clock_is_stamped_by_arrival() -> None:
    bare = [RawFrame(image=textured(i), t_arrival=i * 40 * NS_PER_MS) for i in range(20)]
    found = frames(reader(bare, live=True))
    assert {f.stamp_source for f in found} == {"arrival"}
    assert all(a.t_capture < b.t_capture for a, b in pairwise(found))


def test_a_reconnect_is_a_new_epoch_and_time_still_rises() -> None:
    source = reader(
        [raw(i) for i in range(5)],
        [raw(i, t_arrival=(2000 + 40 * i) * NS_PER_MS) for i in range(5)],
        live=True,
    )
    first = frames(source)
    source.close()
    source.open()
    second = frames(source)
    assert [f.seq for f in first + second] == list(range(10))
    assert [f.epoch for f in first + second] == [0] * 5 + [1] * 5
    assert all(a.t_capture < b.t_capture for a, b in pairwise(first + second))


def test_recordings_played_in_real_time_share_one_start() -> None:
    clock = VirtualClock(start_ns=1000 * NS_PER_S)
    pace = Pace(clock)
    infrared = reader([raw(i, pts_ms=7000 + 100 * i) for i in range(3)], stream="ir", pace=pace, clock=clock)
    visible = reader([raw(i, pts_ms=7050 + 100 * i) for i in range(3)], pace=pace, clock=clock)
    assert infrared.live
    found = [f for pair in zip(frames(infrared), frames(visible), strict=True) for f in pair]
    start = 1000 * NS_PER_S
    assert [(f.t_capture - start) // NS_PER_MS for f in found] == [0, 50, 100, 150, 200, 250]
    assert {f.stamp_source for f in found} == {"file_pts"}
    assert clock.now_ns() == start + 250 * NS_PER_MS


def test_closing_ends_the_wait_of_a_paced_recording() -> None:
    clock = RealClock()
    source = reader([raw(0), raw(1, pts_ms=60_000)], pace=Pace(clock), clock=clock)
    source.read()
    threading.Timer(0.1, source.close).start()
    with pytest.raises(SourceInterrupted, match="closed"):
        source.read()
