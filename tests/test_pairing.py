"""The matcher on time lines drawn in comments, as message_filters does, and under random schedules.

In the drawings one character is 10 ms, `i` an infrared frame, `v` a visible one, `|` joins partners.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from factories import fused_frame
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from streamfuse.frame import STREAMS, DropCause, Frame, FramePair, Stream
from streamfuse.pairing.matcher import Matcher
from streamfuse.pairing.options import PairingOptions
from streamfuse.pairing.wait_budget import WaitBudget

MS = 1_000_000
PICTURE = np.zeros((1, 1), np.uint8)


def frame(
    stream: Stream, t_ms: float, *, seq: int = 0, delay_ms: float = 0, epoch: int = 0, **more: int
) -> Frame:
    t = round(t_ms * MS)
    return Frame(
        stream=stream,
        image=PICTURE,
        seq=seq,
        t_capture=t,
        t_arrival=t + round(delay_ms * MS),
        epoch=epoch,
        **more,  # type: ignore[arg-type]
    )


def frames(stream: Stream, stamps_ms: Iterable[float]) -> list[Frame]:
    return [frame(stream, t, seq=i) for i, t in enumerate(stamps_ms)]


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


def stamps(pairs: Iterable[FramePair]) -> list[tuple[float | None, float]]:
    return [(p.ir.t_capture / MS if p.ir else None, p.vis.t_capture / MS) for p in pairs]


def assert_conserved(matcher: Matcher, *, buffered: int | None = None) -> None:
    s = matcher.statistics()
    for stream in STREAMS:
        assert s.pushed[stream] == s.used[stream] + sum(s.drops[stream].values()) + s.buffered[stream]
        if buffered is not None:
            assert s.buffered[stream] == buffered


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


# -- live ------------------------------------------------------------------------------------------


def live(driver: Stream, **options: object) -> Matcher:
    return Matcher(PairingOptions(driver=driver, **options), live=True, default_driver="vis")  # type: ignore[arg-type]


def test_a_driver_frame_waits_for_proof() -> None:
    # i at 100 could still be closer to a visible frame than to the one at 90
    matcher = live("ir", window_ms=15, deadline_ms=50)
    matcher.push(frame("vis", 90))
    matcher.push(frame("ir", 100))
    assert matcher.poll(100 * MS) == []
    assert matcher.next_deadline_ns() == 150 * MS
    matcher.push(frame("vis", 105))
    assert stamps(matcher.poll(105 * MS)) == [(100, 105)]
    assert matcher.next_deadline_ns() is None


def test_the_deadline_counts_from_arrival_and_takes_what_is_there() -> None:
    matcher = live("ir", window_ms=15, deadline_ms=50)
    matcher.push(frame("vis", 90))
    matcher.push(frame("ir", 100, delay_ms=30))
    assert matcher.poll(179 * MS) == []
    assert stamps(matcher.poll(180 * MS)) == [(100, 90)]


def test_a_partner_that_misses_the_deadline_is_late() -> None:
    matcher = live("ir", window_ms=15, deadline_ms=20)
    matcher.push(frame("vis", 70))
    matcher.push(frame("ir", 100))
    assert matcher.poll(120 * MS) == []
    assert matcher.drops["ir"] == {DropCause.DEADLINE: 1}
    matcher.push(frame("vis", 100, delay_ms=25))
    assert matcher.flush() == []
    assert matcher.drops["vis"] == {DropCause.SUPERSEDED: 1, DropCause.LATE: 1}
    assert_conserved(matcher, buffered=0)


def test_the_shortest_period_proves_that_nothing_nearer_can_come() -> None:
    matcher = live("vis", window_ms=15, deadline_ms=1000)
    for i in range(10):
        matcher.push(frame("ir", i * 110))
    matcher.push(frame("vis", 1000))
    assert stamps(matcher.poll(1000 * MS)) == [(990, 1000)]  # the next infrared is due at 1100
    matcher.push(frame("vis", 1090))
    assert matcher.poll(1090 * MS) == []


def test_nobody_waits_for_a_stream_that_went_silent() -> None:
    matcher = live("vis")
    for i in range(40):
        matcher.push(frame("ir", i * 40))
        matcher.push(frame("vis", i * 40))
        matcher.poll(i * 40 * MS)
    matcher.push(frame("vis", 10_000))
    (pair,) = matcher.poll(10_000 * MS)
    assert pair.ir is None
    assert "8440 ms old" in pair.reason


def test_infrared_that_never_came_is_waited_for_only_at_the_start() -> None:
    matcher = live("vis")
    out = []
    for i in range(30):
        matcher.push(frame("vis", i * 40))
        out.append(len(matcher.poll(i * 40 * MS)))
    assert out[:8] == [0] * 8  # 300 ms
    assert sum(out) == 30
    assert out[9:] == [1] * 21


def test_the_deadline_is_learnt_from_the_delays_and_kept_within_the_budget() -> None:
    matcher = live("ir")
    for i in range(50):
        matcher.push(frame("ir", i * 40, delay_ms=50))
        matcher.push(frame("vis", i * 40 + 3, delay_ms=180))
        matcher.poll((i * 40 + 200) * MS)
    assert matcher.statistics().deadline_ns == (180 - 50 + 20 + 5) * MS
    matcher.wait_budget_ns = 100 * MS
    assert matcher.statistics().deadline_ns == 100 * MS
    matcher.wait_budget_ns = -5 * MS
    assert matcher.statistics().deadline_ns == 0


def test_the_wait_leaves_room_for_transport_and_work_but_never_vanishes() -> None:
    wait = WaitBudget(300 * MS)
    assert wait.wait_ns == 300 * MS
    vis = frame("vis", 0, delay_ms=40)
    fused = fused_frame(latencies_ns={"register_and_fuse": 35 * MS})
    fused = replace(fused, pair=FramePair(vis=vis, ir=None, driver="vis"))
    for _ in range(64):
        wait.observe(fused)
    assert wait.wait_ns == (0.85 * 300 - 40 - 35) * MS
    hiccup = replace(fused, latencies_ns={"register_and_fuse": 900 * MS})
    wait.observe(hiccup)
    assert wait.wait_ns == (0.85 * 300 - 40 - 35) * MS
    for _ in range(64):
        wait.observe(hiccup)
    assert wait.wait_ns == 150 * MS, "half stays: pairing nothing does not make the work faster"


def test_a_measured_offset_holds_for_the_frames_that_come_after_it() -> None:
    matcher = live("vis")
    pairs: list[FramePair] = []
    for i in range(60):
        if i == 30:
            matcher.set_offset(-5 * MS)
        matcher.push(frame("ir", i * 40, seq=i, delay_ms=20))
        matcher.push(frame("vis", i * 40, seq=i, delay_ms=20))
        pairs += matcher.poll((i * 40 + 30) * MS)
    before, after = [p for p in pairs if p.vis.seq < 29], [p for p in pairs if p.vis.seq >= 30]
    assert {(p.offset_ns, p.dt_ns) for p in before} == {(0, 0)}
    assert {(p.offset_ns, p.dt_ns, p.offset_source) for p in after} == {(-5 * MS, -5 * MS, "auto")}
    assert all(p.ir is not None and p.ir.seq == p.vis.seq for p in before + after)
    assert matcher.statistics().offset_ns == -5 * MS
    assert_conserved(matcher)


def test_the_deadline_knows_the_offset() -> None:
    matcher = live("vis", offset_ms=-60)
    for i in range(50):
        # Both arrive 50 ms after capture, but what belongs together is stamped 60 ms later in the infrared.
        matcher.push(frame("vis", i * 40, delay_ms=50))
        matcher.push(frame("ir", i * 40, delay_ms=50))
        matcher.poll((i * 40 + 60) * MS)
    assert matcher.statistics().deadline_ns == (60 + 20 + 5) * MS


def test_stamp_uncertainty_widens_the_window_within_reason() -> None:
    matcher = live("ir")
    for i in range(20):
        matcher.push(frame("ir", i * 40, stamp_uncertainty_ns=2 * MS))
        matcher.push(frame("vis", i * 40, stamp_uncertainty_ns=3 * MS))
    matcher.poll(800 * MS)
    assert matcher.statistics().window_ns == (22 + 5) * MS
    matcher.push(frame("vis", 800, stamp_uncertainty_ns=500 * MS))
    matcher.push(frame("ir", 800))
    matcher.poll(800 * MS)
    assert matcher.statistics().window_ns == (22 + 20) * MS


def test_rings_are_bounded_and_count_what_they_lose() -> None:
    matcher = Matcher(PairingOptions(deadline_ms=1e6), live=True, default_driver="vis", capacity=8)
    for i in range(20):
        matcher.push(frame("vis", i * 40))
    assert matcher.drops["vis"] == {DropCause.OVERRUN: 12}
    for i in range(20):
        matcher.push(frame("ir", 10_000 + i * 40))
    assert matcher.drops["ir"] == {DropCause.NO_PARTNER: 12}
    assert_conserved(matcher, buffered=8)
    assert len(matcher.flush()) == 8
    assert_conserved(matcher, buffered=0)


def test_frames_nobody_asks_for_are_let_go_after_a_second() -> None:
    matcher = live("ir")
    for i in range(60):
        matcher.push(frame("vis", i * 33))
        matcher.poll(i * 33 * MS)
    assert matcher.statistics().buffered["vis"] <= 32
    assert_conserved(matcher)


# -- simulated rigs --------------------------------------------------------------------------------


def rig_stream(
    stream: Stream,
    fps: float,
    *,
    delay_ms: float,
    jitter_ms: float,
    wobble_ms: float,
    seed: int,
    ppm: float = 0,
) -> list[Frame]:
    """60 s of frames: exposure wobbles, delivery jitters one-sidedly and keeps the order."""
    rng = np.random.default_rng(seed)
    out: list[Frame] = []
    arrival = 0
    for i in range(int(60 * fps)):
        t = i / fps * (1 + ppm * 1e-6) + rng.normal(0, wobble_ms / 1000)
        arrival = max(arrival + 1, round((t + (delay_ms + abs(rng.normal(0, jitter_ms))) / 1000) * 1e9))
        out.append(Frame(stream=stream, image=PICTURE, seq=i, t_capture=round(t * 1e9), t_arrival=arrival))
    return out


def play(matcher: Matcher, *streams: list[Frame]) -> tuple[list[FramePair], list[float]]:
    """Push in order of arrival, poll whenever the matcher asks; pairs and their ages in ms."""
    pairs: list[FramePair] = []
    ages: list[float] = []

    def poll(now_ns: int) -> None:
        for pair in matcher.poll(now_ns):
            pairs.append(pair)
            ages.append((now_ns - pair.t_capture) / MS)

    for arrived in sorted((f for s in streams for f in s), key=lambda f: f.t_arrival):
        while (due := matcher.next_deadline_ns()) is not None and due < arrived.t_arrival:
            poll(due)
        matcher.push(arrived)
        poll(arrived.t_arrival)
    pairs += matcher.flush()
    assert_conserved(matcher, buffered=0)
    return pairs, ages


def test_slow_jittery_infrared_driving_thirty_hertz() -> None:
    ir = rig_stream("ir", 8.7, delay_ms=30, jitter_ms=3, wobble_ms=4, seed=1, ppm=80)
    vis = rig_stream("vis", 30, delay_ms=25, jitter_ms=2, wobble_ms=1, seed=2)
    pairs, ages = play(live("ir"), ir, vis)
    assert len(pairs) >= 0.97 * len(ir)
    assert np.mean([abs(p.dt_ns) for p in pairs]) <= 9.5 * MS
    assert np.percentile(ages, 50) < 45


def test_slow_jittery_infrared_under_driving_visible() -> None:
    ir = rig_stream("ir", 8.7, delay_ms=30, jitter_ms=3, wobble_ms=4, seed=1)
    vis = rig_stream("vis", 30, delay_ms=25, jitter_ms=2, wobble_ms=1, seed=2)
    matcher = live("vis")
    pairs, _ = play(matcher, ir, vis)
    assert len(pairs) == len(vis)
    assert matcher.statistics().without_ir <= 2
    assert matcher.statistics().used["ir"] >= 0.97 * len(ir)


def test_transports_with_very_different_delays_still_pair() -> None:
    ir = rig_stream("ir", 30, delay_ms=50, jitter_ms=3, wobble_ms=1, seed=1)
    vis = rig_stream("vis", 29.97, delay_ms=180, jitter_ms=40, wobble_ms=1, seed=2)
    pairs, _ = play(live("ir"), ir, vis)
    assert len(pairs) >= 0.95 * len(ir)
    assert np.mean([abs(p.dt_ns) for p in pairs]) <= 9 * MS


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
