"""What a run counts."""

import numpy as np
import pytest
from factories import fused_frame
from hypothesis import given
from hypothesis import strategies as st

from streamfuse.frame import DropCause, Status
from streamfuse.pipeline.statistics import NOTES_KEPT, LatencyHistogram, Statistics


@given(st.lists(st.integers(2_000, 10_000_000_000), min_size=1, max_size=200), st.sampled_from([50, 95, 99]))
def test_percentiles_are_within_a_bin_of_the_exact_ones(durations: list[int], percent: int) -> None:
    histogram = LatencyHistogram()
    for duration in durations:
        histogram.add(duration)
    exact = np.percentile(durations, percent, method="inverted_cdf") / 1e6
    assert histogram.percentile_ms(percent) == pytest.approx(exact, rel=0.03)
    assert histogram.summary()["max"] == pytest.approx(max(durations) / 1e6, abs=1e-3)


def test_histogram_takes_anything_and_keeps_its_size() -> None:
    histogram = LatencyHistogram()
    assert histogram.percentile_ms(50) == 0
    for duration in (-5, 0, 1, 10**15):
        histogram.add(duration)
    assert histogram.count == 4
    assert histogram.percentile_ms(100) > 100_000


def test_infrared_used_by_several_visible_frames_counts_once() -> None:
    statistics = Statistics()
    for index in range(3):
        statistics.frame_in("vis")
        frame = fused_frame(index)
        object.__setattr__(frame.pair.ir, "seq", 0)
        statistics.frame_out(frame, now_ns=index * 40_000_000)
    statistics.frame_in("ir", 2)
    statistics.drop("ir", DropCause.NO_PARTNER)
    report = statistics.report()
    assert report.frames_used == {"ir": 1, "vis": 3}
    assert report.unaccounted() == {"ir": 0, "vis": 0}
    assert report.fps == pytest.approx(25)


def test_statuses_drops_and_notes_are_told() -> None:
    statistics = Statistics()
    statistics.frame_out(fused_frame(0, status=Status.OK, latencies_ns={"fuse": 2_000_000}), now_ns=0)
    statistics.frame_out(fused_frame(1, status=Status.HELD), now_ns=1)
    statistics.drop("vis", DropCause.LATE, 2)
    statistics.drop("ir", DropCause.LATE, 1)
    statistics.note("visible: reconnected")
    report = statistics.report()
    assert report.status == {"ok": 1, "held": 1}
    assert statistics.dropped_totals() == {"late": 3}
    assert report.latency_ms["fuse"]["p50"] == pytest.approx(2, rel=0.03)
    assert report.notes == ["visible: reconnected"]


def test_notes_do_not_grow_with_the_length_of_a_run() -> None:
    statistics = Statistics()
    for index in range(NOTES_KEPT + 5):
        statistics.note(f"ir: lost {index}")
    notes = statistics.report().notes
    assert len(notes) == NOTES_KEPT + 1
    assert notes[:2] == ["5 earlier notes are not kept", "ir: lost 5"]
