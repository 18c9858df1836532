"""Device stamps on the computer's clock: simulated cameras whose true capture times are known."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfuse.capture.clock_filter import ClockFilter, Stamp
from streamfuse.clock import NS_PER_MS, NS_PER_S

MS = NS_PER_MS


@dataclass(frozen=True)
class Camera:
    """Times in seconds. `skew_ppm`: how much faster the computer's clock runs than the device's."""

    fps: float = 30.0
    delay: float = 0.050
    jitter: float = 0.003
    skew_ppm: float = 0.0
    pts_origin: float = 4242.0
    start: float = 1000.0

    def frames(self, seconds: float, seed: int = 1) -> Iterator[tuple[int, int, int]]:
        """(true capture, pts, arrival) in ns; delays are one-sided, order is kept."""
        rng = np.random.default_rng(seed)
        last = 0.0
        for i in range(int(seconds * self.fps)):
            device = i / self.fps
            true = self.start + device * (1 + self.skew_ppm * 1e-6)
            last = max(last, true + self.delay + abs(rng.normal(0, self.jitter)))
            yield _ns(true), _ns(self.pts_origin + device), _ns(last)


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)


def errors_ms(stamps: list[Stamp], truth: list[int]) -> np.ndarray:
    return np.array([stamp.t_capture - true for stamp, true in zip(stamps, truth, strict=True)]) / MS


def run(camera: Camera, seconds: float, *, latency_ms: float = 50.0) -> tuple[ClockFilter, np.ndarray]:
    clock_filter = ClockFilter(latency_ns=round(latency_ms * MS))
    frames = list(camera.frames(seconds))
    stamps = [clock_filter.update(pts, arrival) for _, pts, arrival in frames]
    assert not any(stamp.reset for stamp in stamps)
    return clock_filter, errors_ms(stamps, [true for true, _, _ in frames])


# --- On the line --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [8.7, 25, 30, 60])
@pytest.mark.parametrize("skew_ppm", [-500, -50, 0, 50, 500])
def test_capture_times_of_a_camera_whose_clock_has_another_origin_and_rate(
    fps: float, skew_ppm: float
) -> None:
    clock_filter, errors = run(Camera(fps=fps, skew_ppm=skew_ppm), 40)
    settled = errors[int(10 * fps) :]
    assert np.abs(settled).max() < 3
    assert np.abs(settled).mean() < 1
    assert clock_filter.skew_ppm == pytest.approx(skew_ppm, abs=120)


def test_heavy_one_sided_jitter_is_taken_off() -> None:
    camera = Camera(jitter=0.040)
    _, errors = run(camera, 60)
    by_arrival = np.array([arrival - true for true, _, arrival in camera.frames(60)]) / MS - 50
    assert by_arrival.mean() > 25
    assert np.abs(errors[300:]).mean() < 6
    assert np.abs(np.diff(errors[300:])).max() < 3, "even stamps stay even"


def test_a_webcam_that_wobbles_keeps_its_even_stamps() -> None:
    # 32, 32, 36 ms between arrivals of a camera that films every 33.3 ms.
    clock_filter = ClockFilter(latency_ns=25 * MS)
    arrival, stamps = 1000 * NS_PER_S, []
    for i in range(900):
        stamps.append(clock_filter.update(round(i * NS_PER_S / 30), arrival))
        arrival += (32, 32, 36)[i % 3] * MS
    steps = np.diff([stamp.t_capture for stamp in stamps[90:]]) / MS
    assert steps.min() > 33.0
    assert steps.max() < 33.7
    assert abs(clock_filter.skew_ppm) < 50
    assert clock_filter.residual_p95_ns < 3 * MS


def test_residual_tells_how_late_packets_come() -> None:
    calm, _ = run(Camera(jitter=0.001), 20)
    rough, _ = run(Camera(jitter=0.020), 20)
    assert calm.residual_p95_ns < 4 * MS
    assert 25 * MS < rough.residual_p95_ns < 55 * MS


def test_the_latency_prior_is_taken_off() -> None:
    _, without = run(Camera(jitter=0), 5, latency_ms=0)
    _, with_prior = run(Camera(jitter=0), 5, latency_ms=25)
    assert without == pytest.approx(50, abs=0.01)
    assert with_prior == pytest.approx(25, abs=0.01)


# --- Bursts and stalls --------------------------------------------------------------------------------


def test_burst_delivery_keeps_the_true_spacing() -> None:
    # A congested link hands over what was taken in 200 ms at once.
    clock_filter = ClockFilter(latency_ns=0)
    stamps, truth = [], []
    for i in range(600):
        true = i * 40 * MS
        arrival = -(-true // (200 * MS)) * 200 * MS + (i % 5) * 10_000
        stamps.append(clock_filter.update(true, arrival))
        truth.append(true)
    assert not any(stamp.reset for stamp in stamps)
    assert np.abs(errors_ms(stamps, truth)[50:]).max() < 1


def test_a_queue_that_empties_after_a_stall_is_no_new_time_line() -> None:
    # The link stands still from 20.0 to 20.9 s, then everything comes at once.
    clock_filter = ClockFilter(latency_ns=50 * MS)
    stamps, truth = [], []
    for true, pts, arrival in Camera().frames(40):
        if 1020.0 <= arrival / NS_PER_S < 1020.9:
            arrival = _ns(1020.9) + (arrival - _ns(1020.0)) // 1000
        stamps.append(clock_filter.update(pts, arrival))
        truth.append(true)
    assert not any(stamp.reset for stamp in stamps)
    assert np.abs(errors_ms(stamps, truth)[300:]).max() < 4


def test_the_packets_a_server_has_saved_up_at_the_start_do_not_spoil_the_line() -> None:
    # The first second was filmed before the connection stood, and comes at once.
    clock_filter = ClockFilter(latency_ns=50 * MS)
    stamps, truth = [], []
    for true, pts, arrival in Camera().frames(20):
        stamps.append(clock_filter.update(pts, max(arrival, _ns(1001))))
        truth.append(true)
    assert not any(stamp.reset for stamp in stamps)
    assert np.abs(errors_ms(stamps, truth)[40:]).max() < 8


# --- Time lines that break ----------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [-3000.0, -10.0, -0.5, 0.5, 3.0, 30.0, 3000.0])
def test_a_stamp_reset_becomes_a_new_time_line_and_true_time_goes_on(jump_s: float) -> None:
    clock_filter = ClockFilter(latency_ns=50 * MS)
    stamps, truth, arrivals = [], [], []
    for i, (true, pts, arrival) in enumerate(Camera().frames(40)):
        stamps.append(clock_filter.update(pts + (_ns(jump_s) if i >= 600 else 0), arrival))
        truth.append(true)
        arrivals.append(arrival)
    resets = [i for i, stamp in enumerate(stamps) if stamp.reset]
    assert len(resets) == 1
    assert 600 <= resets[0] <= 602
    assert np.abs(errors_ms(stamps, truth)[300:]).max() < 15
    assert np.abs(errors_ms(stamps, truth)[900:]).max() < 4


def test_stamps_that_stood_still_while_the_camera_paused_become_a_new_time_line() -> None:
    # 5 s nothing, then the device goes on counting from where it was.
    clock_filter = ClockFilter(latency_ns=50 * MS)
    stamps, truth = [], []
    for i, (true, pts, arrival) in enumerate(Camera().frames(40)):
        pause = 5 * NS_PER_S if i >= 600 else 0
        stamps.append(clock_filter.update(pts, arrival + pause))
        truth.append(true + pause)
    resets = [i for i, stamp in enumerate(stamps) if stamp.reset]
    assert len(resets) == 1
    assert resets[0] <= 600 + 31, "within about a second"
    assert np.abs(errors_ms(stamps, truth)[resets[0] :]).max() < 15


@pytest.mark.parametrize("hiccup_ms", [-200, -40, -33, 400, 5000])
def test_one_odd_stamp_changes_nothing_for_the_others(hiccup_ms: int) -> None:
    clock_filter = ClockFilter(latency_ns=50 * MS)
    stamps, truth = [], []
    for i, (true, pts, arrival) in enumerate(Camera(jitter=0.001).frames(30)):
        stamps.append(clock_filter.update(pts + (hiccup_ms * MS if i == 450 else 0), arrival))
        truth.append(true)
    errors = errors_ms(stamps, truth)
    assert not any(stamp.reset for stamp in stamps)
    assert np.abs(np.delete(errors, 450)[300:]).max() < 2
    assert abs(errors[450]) < 34, "at worst taken for its neighbour"


@pytest.mark.parametrize("pts", [lambda i: 7, lambda i: -40 * i, lambda i: 7 + 3_600_000 * (i // 5 % 2)])
def test_a_clock_that_breaks_all_the_time_is_put_aside_for_a_minute(pts: Callable[[int], int]) -> None:
    clock_filter = ClockFilter(latency_ns=0)
    stamps = [clock_filter.update(pts(i) * MS, 40 * i * MS) for i in range(1000)]
    assert sum(stamp.reset for stamp in stamps) == 4
    settled = stamps[50:]
    assert all(stamp.by_arrival for stamp in settled)
    assert {b.t_capture - a.t_capture for a, b in pairwise(settled)} == {40 * MS}
    cured = [clock_filter.update(1_000_000 * MS + i * 40 * MS, (61_000 + 40 * i) * MS) for i in range(100)]
    assert not any(stamp.by_arrival or stamp.reset for stamp in cured)


def test_a_reset_by_the_caller_never_takes_time_back() -> None:
    clock_filter = ClockFilter(latency_ns=0)
    first = [clock_filter.update(i * 33 * MS, NS_PER_S + i * 33 * MS).t_capture for i in range(100)]
    clock_filter.reset()
    assert clock_filter.skew_ppm == 0
    assert clock_filter.update(0, NS_PER_S + 100 * 33 * MS).t_capture > first[-1]


# --- No device clock ----------------------------------------------------------------------------------


def without_stamps(arrivals: list[int]) -> list[Stamp]:
    clock_filter = ClockFilter(latency_ns=0)
    return [clock_filter.update(None, arrival) for arrival in arrivals]


def test_without_stamps_an_even_rate_is_seen_through_jitter() -> None:
    camera = Camera(delay=0, jitter=0.008)
    frames = list(camera.frames(30))
    stamps = without_stamps([arrival for _, _, arrival in frames])
    errors = errors_ms(stamps, [true for true, _, _ in frames])[64:]
    raw = np.array([arrival - true for true, _, arrival in frames])[64:] / MS
    assert np.abs(errors).mean() < raw.mean() / 2
    assert np.abs(errors).max() < 12
    assert all(stamp.uncertainty_ns > 0 for stamp in stamps[2:])


@pytest.mark.parametrize("gap_ms", [300, 1000, 5000])
def test_without_stamps_a_shutter_event_leaves_no_error_behind(gap_ms: int) -> None:
    rng = np.random.default_rng(3)
    truth = [i * 111 * MS + (gap_ms * MS if i >= 60 else 0) for i in range(120)]
    stamps = without_stamps([true + int(abs(rng.normal(0, 2)) * MS) for true in truth])
    assert np.abs(errors_ms(stamps, truth)[16:]).max() < 25
    assert np.abs(errors_ms(stamps, truth)[64:]).max() < 12
    assert not any(stamp.reset for stamp in stamps), "there is no time line that could break"


def test_without_stamps_a_lost_picture_misleads_for_half_a_second_at_most() -> None:
    truth = [i * 33 * MS for i in range(200) if i != 100]
    errors = errors_ms(without_stamps(truth), truth)
    assert np.abs(errors).max() <= 34
    assert np.abs(errors[100 + 17 :]).max() < 2


def test_a_single_frame_without_stamp_stands_between_its_neighbours() -> None:
    clock_filter = ClockFilter(latency_ns=50 * MS)
    stamps, truth = [], []
    for i, (true, pts, arrival) in enumerate(Camera(jitter=0.010).frames(20)):
        stamps.append(clock_filter.update(None if i % 50 == 49 else pts, arrival))
        truth.append(true)
    errors = errors_ms(stamps, truth)[300:]
    assert np.abs(errors).max() < 15
    assert not any(stamp.reset for stamp in stamps)


# --- Always -------------------------------------------------------------------------------------------

anything = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(-(10**10), 10**10), st.integers(0, 10**18)),
        st.integers(0, 3 * NS_PER_S),
    ),
    min_size=1,
    max_size=60,
)


@given(anything)
@settings(max_examples=150, deadline=None)
def test_capture_times_rise_and_are_never_after_the_arrival_whatever_comes(
    steps: list[tuple[int | None, int]],
) -> None:
    clock_filter = ClockFilter(latency_ns=0)
    now, pts = 10 * NS_PER_S, 0
    stamps, arrivals = [], []
    for step, wait in steps:
        now += wait + len(steps)
        if step is not None:
            pts += step
        arrivals.append(now)
        stamps.append(clock_filter.update(None if step is None else pts, now))
    assert all(a.t_capture < b.t_capture for a, b in pairwise(stamps))
    assert all(s.t_capture <= arrival for s, arrival in zip(stamps, arrivals, strict=True))
    assert all(stamp.uncertainty_ns >= 0 for stamp in stamps)


@given(
    st.floats(5, 120),
    st.floats(-400, 400),
    st.floats(0, 0.02),
    st.integers(0, 2**20),
    st.floats(-1e6, 1e9),
)
@settings(max_examples=25, deadline=None)
def test_any_camera_within_reason_is_followed(
    fps: float, skew_ppm: float, jitter: float, seed: int, origin: float
) -> None:
    camera = Camera(fps=fps, skew_ppm=skew_ppm, jitter=jitter, pts_origin=origin)
    clock_filter = ClockFilter(latency_ns=50 * MS)
    frames = list(camera.frames(15, seed))
    stamps = [clock_filter.update(pts, arrival) for _, pts, arrival in frames]
    errors = errors_ms(stamps, [true for true, _, _ in frames])
    assert not any(stamp.reset for stamp in stamps)
    assert np.abs(errors[int(10 * fps) :]).mean() < 2 + jitter * 250
