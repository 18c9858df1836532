"""Pairing live: waiting, deadlines, bounded rings, simulated rigs."""

from dataclasses import replace

import numpy as np
from factories import fused_frame
from matching import MS, PICTURE, assert_conserved, frame, live, play, stamps

from streamfuse.frame import DropCause, Frame, FramePair, Stream
from streamfuse.pairing.matcher import Matcher
from streamfuse.pairing.options import PairingOptions
from streamfuse.pairing.wait_budget import WaitBudget


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
