"""Pairing offline, on time lines drawn in comments, and what holds for all of them under random schedules."""

import random
from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matching import MS, assert_conserved, frame, frames, live, play, stamps
from pydantic import ValidationError

from streamfuse.frame import STREAMS, DropCause, Frame, FramePair, Stream
from streamfuse.pairing.matcher import Matcher
from streamfuse.pairing.options import PairingOptions


def pair_offline(ir: Iterator[Frame], vis: Iterator[Frame], matcher: Matcher) -> Iterator[FramePair]:
    """Read two streams only as far as the matcher needs to decide."""
    streams: dict[Stream, Iterator[Frame]] = {"ir": ir, "vis": vis}
    while (wanted := matcher.wants()) is not None:
        following = next(streams[wanted], None)
        if following is None:
            matcher.end(wanted)
        else:
            matcher.push(following)
        yield from matcher.poll()
    yield from matcher.flush()


def timeline(ir: str, vis: str) -> tuple[list[float], list[float]]:
    """Stamps in ms of the marks in two drawings."""
    return [i * 10.0 for i, c in enumerate(ir) if c == "i"], [i * 10.0 for i, c in enumerate(vis) if c == "v"]


def offline(
    ir_ms: Iterable[float], vis_ms: Iterable[float], **options: object
) -> tuple[list[FramePair], Matcher]:
    matcher = Matcher(PairingOptions(**options), live=False, default_driver="vis")  # type: ignore[arg-type]
    pairs = list(pair_offline(iter(frames("ir", ir_ms)), iter(frames("vis", vis_ms)), matcher))
    assert_conserved(matcher, buffered=0)
    return pairs, matcher


# -- offline time lines ----------------------------------------------------------------------------


def test_ir_drives_and_every_frame_takes_its_nearest() -> None:
    # i          i          i
    # |          |          |
    # v  v  v  v  v  v  v  v  v
    ir, vis = timeline("i..........i..........i....", "v..v..v..v..v..v..v..v..v")
    pairs, matcher = offline(ir, vis, driver="ir", window_ms=15)
    assert stamps(pairs) == [(0, 0), (110, 120), (220, 210)]
    assert matcher.drops["vis"] == {DropCause.SUPERSEDED: 6}


def test_a_visible_frame_serves_one_driver_frame_only() -> None:
    # i i i       the second and third are nearest to the same visible frame; the later one goes without
    # |  \
    # v   v
    pairs, matcher = offline([0, 20, 40], [0, 30], driver="ir", window_ms=15)
    assert stamps(pairs) == [(0, 0), (20, 30)]
    assert matcher.drops["ir"] == {DropCause.NO_PARTNER: 1}


def test_visible_drives_and_infrared_is_held_up_to_the_limit() -> None:
    # i              i
    # | \ \ . .      |      . are pairs without infrared
    # v  v  v  v  v  v
    ir, vis = timeline("i..............i", "v..v..v..v..v..v")
    pairs, matcher = offline(ir, vis, driver="vis", window_ms=14, hold_max_ms=60)
    assert stamps(pairs) == [(0, 0), (0, 30), (0, 60), (None, 90), (None, 120), (150, 150)]
    assert [p.held for p in pairs] == [False, True, True, False, False, False]
    assert "90 ms old, 60 ms allowed" in pairs[3].reason
    statistics = matcher.statistics()
    assert (statistics.held, statistics.without_ir, statistics.used["ir"]) == (2, 2, 2)


def test_visible_frames_before_the_first_infrared_come_out_alone() -> None:
    # .  .  |
    #       i  i
    # v  v  v  v
    pairs, _ = offline([60, 90], [0, 30, 60, 90])
    assert stamps(pairs) == [(None, 0), (None, 30), (60, 60), (90, 90)]
    assert pairs[0].reason == "no infrared frame yet"


def test_one_infrared_frame_may_serve_two_visible_ones_and_the_second_is_held() -> None:
    # i       25 Hz against 50 Hz: the tie of the second goes to the earlier infrared
    # |\
    # v v v
    pairs, _ = offline([0, 40, 80], [0, 20, 40, 60, 80], window_ms=20)
    assert stamps(pairs) == [(0, 0), (0, 20), (40, 40), (40, 60), (80, 80)]
    assert [p.held for p in pairs] == [False, True, False, True, False]


def test_a_tie_goes_to_the_earlier_frame() -> None:
    #  i
    # v v
    pairs, _ = offline([10, 50], [0, 20, 40, 60], driver="ir", window_ms=15)
    assert stamps(pairs) == [(10, 0), (50, 40)]


def test_outside_the_window_is_no_pair() -> None:
    pairs, matcher = offline([0, 100, 200], [0, 111, 200], driver="ir", window_ms=10)
    assert stamps(pairs) == [(0, 0), (200, 200)]
    assert matcher.drops["ir"] == {DropCause.OUT_OF_WINDOW: 1}


def test_offset_moves_infrared_onto_the_visible_time_line() -> None:
    # Positive: the same event is later in the visible.
    pairs, _ = offline([0, 100, 200], [60, 160, 260], offset_ms=60)
    assert stamps(pairs) == [(0, 60), (100, 160), (200, 260)]
    assert all(p.dt_ns == 0 and p.offset_ns == 60 * MS for p in pairs)
    assert [p.t_capture for p in pairs] == [p.vis.t_capture for p in pairs]
    ir_driven, _ = offline([0, 100, 200], [60, 160, 260], offset_ms=60, driver="ir")
    assert [p.t_capture for p in ir_driven] == [60 * MS, 160 * MS, 260 * MS]


@pytest.mark.parametrize("driver", ["ir", "vis"])
@pytest.mark.parametrize("fps", [9, 22, 25, 30000 / 1001, 30, 120])
def test_clips_of_equal_rate_pair_frame_by_frame_despite_rounded_stamps(driver: str, fps: float) -> None:
    exact = [i * 1000 / fps for i in range(200)]
    rounded = [float(round(t)) for t in exact]  # Matroska keeps milliseconds
    pairs, _ = offline(exact, rounded, driver=driver)
    assert [(p.ir.seq if p.ir else None, p.vis.seq) for p in pairs] == [(i, i) for i in range(200)]
    assert not any(p.held for p in pairs)


@pytest.mark.parametrize("driver", ["ir", "vis"])
@pytest.mark.parametrize("vis_ms", [0, 12_345])
def test_two_still_pictures_are_a_pair(driver: str, vis_ms: float) -> None:
    pairs, _ = offline([0], [vis_ms], driver=driver)
    assert stamps(pairs) == [(0, vis_ms)]
    assert abs(pairs[0].dt_ns) <= pairs[0].window_ns


def test_slow_infrared_is_held_between_its_frames() -> None:
    pairs, matcher = offline([i * 111 for i in range(100)], [i * 33.3 for i in range(300)])
    assert len(pairs) == 300
    assert matcher.statistics().without_ir == 0
    assert matcher.statistics().held == 210


def test_a_shorter_infrared_clip_leaves_the_rest_of_the_visible_alone() -> None:
    pairs, _ = offline([i * 33.3 for i in range(20)], [i * 33.3 for i in range(40)])
    assert [p.ir is not None for p in pairs] == [True] * 21 + [False] * 19  # one held frame bridges
    assert pairs[20].held


def test_neighbours_in_time_travel_with_the_pair() -> None:
    for driver in ("ir", "vis"):
        pairs, _ = offline([0, 33, 66, 99], [0, 33, 66, 99], driver=driver)
        neighbours = [(p.ir_before and p.ir_before.seq, p.ir_after and p.ir_after.seq) for p in pairs]
        assert neighbours == [(None, 1), (0, 2), (1, 3), (2, None)], driver


def test_neighbours_do_not_cross_an_epoch() -> None:
    matcher = Matcher(PairingOptions(), live=False, default_driver="ir")
    ir = [frame("ir", t, seq=i, epoch=int(i >= 2)) for i, t in enumerate([0, 33, 66, 99])]
    pairs = list(pair_offline(iter(ir), iter(frames("vis", [0, 33, 66, 99])), matcher))
    assert [p.ir_after is None for p in pairs] == [False, True, False, True]
    assert [p.ir_before is None for p in pairs] == [True, False, True, False]


@pytest.mark.parametrize("driver", ["ir", "vis"])
@pytest.mark.parametrize(
    ("ir_start_s", "vis_start_s"), [(0, 600), (600, 0), (0, 0)], ids=["vis later", "ir later", "together"]
)
def test_look_ahead_stays_short_however_far_apart_the_clips_are(
    driver: str, ir_start_s: float, vis_start_s: float
) -> None:
    alive = {"ir": 0, "vis": 0}
    most = {"ir": 0, "vis": 0}

    def reader(stream: Stream, start_s: float, fps: float) -> Iterator[Frame]:
        for i in range(300):
            alive[stream] = matcher.statistics().buffered[stream]
            most[stream] = max(most[stream], alive[stream])
            yield frame(stream, start_s * 1000 + i * 1000 / fps, seq=i)

    matcher = Matcher(PairingOptions(driver=driver), live=False, default_driver="vis")  # type: ignore[arg-type]
    list(pair_offline(reader("ir", ir_start_s, 9), reader("vis", vis_start_s, 30), matcher))
    assert most["ir"] <= 9  # the stamps that make the first estimate of the period
    assert most["vis"] <= 9
    assert_conserved(matcher, buffered=0)


# -- trouble ---------------------------------------------------------------------------------------


def test_stamps_that_do_not_rise_are_dropped_and_named() -> None:
    matcher = Matcher(PairingOptions(driver="ir", window_ms=5), live=False, default_driver="ir")
    for t, epoch in [(0, 0), (40, 0), (40, 0), (20, 0), (30, 1), (80, 1)]:
        matcher.push(frame("ir", t, epoch=epoch))
    assert matcher.drops["ir"] == {DropCause.LATE: 2, DropCause.EPOCH_RESET: 1}
    for t in (0, 40, 80):
        matcher.push(frame("vis", t))
    assert stamps(matcher.flush()) == [(0, 0), (40, 40), (80, 80)]
    assert_conserved(matcher, buffered=0)


def test_a_frame_after_the_end_of_its_stream_is_a_mistake_of_the_caller() -> None:
    matcher = Matcher(PairingOptions(), live=True, default_driver="vis")
    matcher.end("ir")
    with pytest.raises(ValueError, match="after the end"):
        matcher.push(frame("ir", 0))


@pytest.mark.parametrize("bad", [{"driver": "both"}, {"window_ms": 0}, {"hold_max_ms": -1}, {"windw_ms": 3}])
def test_bad_options_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PairingOptions(**bad)  # type: ignore[arg-type]


# -- properties ------------------------------------------------------------------------------------

stamps_ms = st.lists(st.integers(1, 150), max_size=40).map(lambda gaps: np.cumsum(gaps).tolist())
drivers = st.sampled_from(STREAMS)


def summary(pairs: list[FramePair]) -> list[tuple[object, ...]]:
    def seq(f: Frame | None) -> int | None:
        return None if f is None else f.seq

    return [
        (p.vis.seq, seq(p.ir), p.dt_ns, p.window_ns, p.held, seq(p.ir_before), seq(p.ir_after), p.reason)
        for p in pairs
    ]


@given(ir=stamps_ms, vis=stamps_ms, driver=drivers, offset=st.integers(-200, 200))
@example(ir=[1, 2, 16, 46, 69], vis=[1, 2, 3, 4, 5, 9, 13, 17, 21, 67, 68], driver="vis", offset=0)
@settings(deadline=None, max_examples=200)
def test_offline_properties(ir: list[int], vis: list[int], driver: Stream, offset: int) -> None:
    pairs, matcher = offline(ir, vis, driver=driver, offset_ms=offset)
    times = [p.t_capture for p in pairs]
    assert all(a < b for a, b in pairwise(times))
    infrared = [p.ir.seq for p in pairs if p.ir is not None]
    assert infrared == sorted(infrared)
    visible = [p.vis.seq for p in pairs]
    assert len(set(visible)) == len(visible)
    if driver == "vis":
        assert visible == list(range(len(vis)))
    else:
        assert len(set(infrared)) == len(infrared) == len(pairs)
    assert matcher.used["ir"] == len(set(infrared))
    assert matcher.used["vis"] == len(pairs)
    for p in pairs:
        if p.ir is not None:
            assert p.dt_ns == p.ir.t_capture + offset * MS - p.vis.t_capture
        if p.ir is not None and (driver == "ir" or p.reason == ""):
            assert abs(p.dt_ns) <= p.window_ns
        if driver == "vis" and p.ir is not None and p.reason == "":
            assert abs(p.dt_ns) == min(abs(t * MS + offset * MS - p.vis.t_capture) for t in ir)


@given(ir=stamps_ms, vis=stamps_ms, driver=drivers, seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=200)
def test_offline_result_does_not_depend_on_the_push_order(
    ir: list[int], vis: list[int], driver: Stream, seed: int
) -> None:
    rng = random.Random(seed)

    def run(order: list[Stream]) -> tuple[list[tuple[object, ...]], object, object]:
        matcher = Matcher(PairingOptions(driver=driver), live=False, default_driver="vis")
        left: dict[Stream, list[Frame]] = {"ir": frames("ir", ir), "vis": frames("vis", vis)}
        pairs: list[FramePair] = []
        for stream in order:
            if left[stream]:
                matcher.push(left[stream].pop(0))
            else:
                matcher.end(stream)
            if rng.random() < 0.7:
                pairs += matcher.poll()
        pairs += matcher.flush()
        assert_conserved(matcher, buffered=0)
        return summary(pairs), matcher.drops, matcher.used

    turns: list[Stream] = ["ir"] * (len(ir) + 1) + ["vis"] * (len(vis) + 1)
    reference = run(turns)
    assert run(turns[::-1]) == reference
    for _ in range(3):
        rng.shuffle(turns)
        assert run(turns) == reference


@given(
    ir=stamps_ms,
    vis=stamps_ms,
    driver=drivers,
    delays=st.tuples(st.integers(0, 250), st.integers(0, 250)),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None, max_examples=200)
def test_live_properties(
    ir: list[int], vis: list[int], driver: Stream, delays: tuple[int, int], seed: int
) -> None:
    rng = random.Random(seed)
    matcher = live(driver)
    streams = [
        [frame(s, t, seq=i, delay_ms=delay + rng.randrange(60)) for i, t in enumerate(stamps)]
        for s, stamps, delay in (("ir", ir, delays[0]), ("vis", vis, delays[1]))
    ]
    pairs, _ = play(matcher, *streams)
    times = [p.t_capture for p in pairs]
    assert all(a < b for a, b in pairwise(times))
    assert len({p.vis.seq for p in pairs}) == len(pairs) == matcher.used["vis"]
    for p in pairs:
        if p.ir is not None and (driver == "ir" or p.reason == ""):
            assert abs(p.dt_ns) <= p.window_ns
    if driver == "vis":
        assert len(pairs) + sum(matcher.drops["vis"].values()) == len(vis)
