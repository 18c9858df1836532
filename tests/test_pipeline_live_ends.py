"""Live runs in threads: sinks that go wrong, ways to end a run, recordings beside cameras."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import media
import numpy as np
import pytest
from faults import HEIGHT, WIDTH, picture
from live_runs import ENDLESS, FRAMES, Kept, Machine, WindowSink, assert_sound, camera, make, sink_drops

from streamfuse.clock import RealClock
from streamfuse.errors import ConfigError, SinkError
from streamfuse.frame import FusedFrame
from streamfuse.pairing.matcher import Matcher
from streamfuse.pipeline import Pipeline, live

pytestmark = pytest.mark.usefixtures("faulty_kinds")


# --- Sinks --------------------------------------------------------------------------------------------


def test_a_slow_sink_drops_only_its_own_frames() -> None:
    kept, written = Kept(), []

    def stuck(frame: FusedFrame) -> None:
        assert kept.full.wait(30)
        written.append(frame.seq)

    sinks = [{"kind": "python", "call": kept}, {"kind": "python", "call": stuck}]
    report = make(camera(), camera(), sinks=sinks, pipeline={"sink_queue": 24}).run()
    assert kept.numbers == list(range(FRAMES))
    assert sink_drops(report) == {"python2": {"sink_full": FRAMES - 1 - 24}}
    assert written == [0, *range(FRAMES - 24, FRAMES)], "the newest are kept"
    assert_sound(report)


@pytest.mark.parametrize(
    ("kind", "says"), [("failing", "RuntimeError: encoder broke"), ("no-space", "No space left on device")]
)
def test_a_sink_that_fails_ends_alone(kind: str, says: str, expects_errors: None) -> None:
    kept = Kept()
    pipeline = make(camera(), camera(), sinks=[{"kind": kind, "at": 5}], keep=kept)
    report = pipeline.run()
    assert kept.numbers == list(range(FRAMES))
    assert sink_drops(report) == {kind: {"sink_failed": FRAMES - 5}}
    assert says in str(pipeline.failed_sinks[kind])
    assert any(says in note for note in report.notes)
    assert_sound(report)


def test_the_run_ends_when_no_sink_is_left(expects_errors: None) -> None:
    endless = camera(frames=ENDLESS), camera(frames=ENDLESS)
    pipeline = make(*endless, sinks=[{"kind": "failing", "at": 5}, {"kind": "no-space", "at": 9}])
    report = pipeline.run()
    assert set(pipeline.failed_sinks) == {"failing", "no-space"}
    assert_sound(report)


def test_a_sink_that_cannot_open_is_an_error_before_the_first_frame(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file, not a folder")
    cameras = camera(), camera()
    pipeline = make(*cameras, sinks=[{"kind": "slow"}, {"kind": "file", "path": str(taken / "out.mkv")}])
    with pytest.raises(SinkError, match="taken"):
        pipeline.run()
    assert all(c["camera"].closed for c in cameras)


def test_no_window_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    cameras = camera(), camera()
    with pytest.raises(SinkError, match=r"screen: .*DISPLAY"):
        make(*cameras, sinks=[{"kind": "screen"}]).run()
    assert all(c["camera"].closed for c in cameras)


def test_a_window_lives_on_the_thread_that_iterates_and_its_user_ends_the_run() -> None:
    endless = camera(frames=ENDLESS), camera(frames=ENDLESS)
    report = make(*endless, sinks=[{"kind": "window", "at": 5}]).run()
    assert WindowSink.threads.keys() == {f"{do} on MainThread" for do in ("open", "write", "pump", "close")}
    assert report.frames_out >= 6
    assert_sound(report)


# --- Ending it ----------------------------------------------------------------------------------------


def test_stop_from_another_thread_writes_what_is_under_way() -> None:
    kept = Kept()
    pipeline = make(camera(frames=ENDLESS), camera(frames=ENDLESS), keep=kept)
    stopper = threading.Thread(target=lambda: (kept.full.wait(30), pipeline.stop()))
    stopper.start()
    report = pipeline.run()
    stopper.join()
    assert pipeline.stopping
    assert kept.numbers == list(range(report.frames_out)), "all that was fused is written"
    assert kept.closed.is_set()
    assert_sound(report)


def test_leaving_the_loop_ends_the_run() -> None:
    cameras = camera(frames=ENDLESS), camera(frames=ENDLESS)
    kept = Kept()
    with make(*cameras, keep=kept) as pipeline:
        frames = iter(pipeline)
        assert [frame.seq for frame in islice(frames, 5)] == list(range(5))
        frames.close()  # type: ignore[attr-defined]
    assert kept.closed.is_set()
    assert all(c["camera"].closed for c in cameras)
    assert_sound(pipeline.report())


def test_leaving_the_with_block_ends_the_run_though_its_iterator_is_kept() -> None:
    kept = Kept()
    with make(camera(frames=ENDLESS), camera(frames=ENDLESS), keep=kept) as pipeline:
        frames = iter(pipeline)
        next(frames)
    assert kept.closed.is_set()
    assert not [t for t in threading.enumerate() if t.name.startswith("streamfuse-")]
    assert_sound(pipeline.report())
    assert list(frames) == []


def test_stop_ends_the_cameras_though_nobody_iterates() -> None:
    cameras = camera(frames=ENDLESS), camera(frames=ENDLESS)
    pipeline = make(*cameras)
    frames = iter(pipeline)
    next(frames)
    pipeline.stop()
    deadline = time.monotonic() + 10
    while not all(options["camera"].closed for options in cameras) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert all(options["camera"].closed for options in cameras)
    assert len(list(frames)) > 0
    assert_sound(pipeline.report())


def test_a_slow_reader_of_the_pipeline_gets_the_newest_and_slows_nobody() -> None:
    kept, clock = Kept(), RealClock()
    pipeline = make(camera(), camera(), keep=kept)
    seen = []
    for frame in pipeline:
        seen.append(frame.seq)
        clock.sleep_ns(100_000_000)
    report = pipeline.report()
    assert kept.numbers == list(range(FRAMES))
    assert all(a < b for a, b in pairwise(seen))
    assert len(seen) + report.sink_dropped["iterator"]["sink_full"] == FRAMES


def test_a_pipeline_runs_once() -> None:
    pipeline = make(camera(frames=12), camera(frames=12))
    pipeline.run()
    with pytest.raises(RuntimeError, match="runs once"):
        pipeline.run()


def test_the_end_waits_for_a_slow_frame_and_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "END_S", 0.0)
    monkeypatch.setattr(live, "DRAIN_S", 0.0)
    machine, cameras = Machine(load_s=0.5), (camera(frames=ENDLESS), camera(frames=ENDLESS))
    pipeline = make(*cameras, registration={"model": "heavy", "machine": machine}, pipeline={"ladder": False})
    for frame in pipeline:
        if frame.seq == 2:
            machine.busy.clear()
            machine.busy.wait()
            pipeline.stop()
    report = pipeline.report()
    assert report.notes == []
    assert report.frames_out > 3
    assert report.dropped["vis"]["shutdown"] > 0, "no time to fuse all that waited"
    assert_sound(report)


def test_a_model_that_never_answers_does_not_hold_up_the_end_and_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "END_S", 0.1)
    machine, cameras = Machine(hangs=True), (camera(frames=ENDLESS), camera(frames=ENDLESS))
    pipeline = make(*cameras, registration={"model": "heavy", "machine": machine})
    stopper = threading.Thread(target=lambda: (machine.busy.wait(30), pipeline.stop()))
    stopper.start()
    report = pipeline.run()
    stopper.join()
    assert any("did not end and was left behind" in note for note in report.notes)
    machine.release.set()


# --- Recordings and cameras ---------------------------------------------------------------------------


def clip(path: Path) -> dict[str, Any]:
    return {"kind": "file", "path": str(media.write_clip(path))}


def test_a_recording_beside_a_camera_is_refused_with_the_reason(tmp_path: Path) -> None:
    recording = clip(tmp_path / "vis.mkv")
    reason = r"sources\.ir is live and sources\.vis is not.*pipeline\.mode=live"
    with pytest.raises(ConfigError, match=reason):
        make(camera(), recording)
    with pytest.raises(ConfigError, match=r"mode=offline.*live source cannot wait"):
        make(camera(), recording, pipeline={"mode": "offline"})


def test_a_recording_beside_a_camera_is_played_in_real_time_when_asked_for(tmp_path: Path) -> None:
    kept = Kept()
    recording = clip(tmp_path / "vis.mkv")
    report = make(camera(frames=ENDLESS), recording, keep=kept, pipeline={"mode": "live"}).run()
    assert_sound(report)
    assert [media.frame_number(frame.visible) for frame in kept.frames] == list(range(24))
    steps_ms = np.diff([frame.t_capture for frame in kept.frames]) / 1e6
    assert steps_ms == pytest.approx(40, abs=1.1)
    assert sum(frame.pair.ir is not None for frame in kept.frames) > 12


def test_two_recordings_played_in_real_time_keep_their_common_time(tmp_path: Path) -> None:
    kept = Kept()
    late = media.write_clip(tmp_path / "ir.mkv", pts=[5 + i for i in range(24)])
    report = make(
        {"kind": "file", "path": str(late)}, clip(tmp_path / "vis.mkv"), keep=kept, pipeline={"mode": "live"}
    ).run()
    assert_sound(report)
    numbers = [
        (media.frame_number(f.visible), media.frame_number(f.pair.ir.image)) for f in kept.frames if f.pair.ir
    ]
    assert len(numbers) > 15
    assert {vis - ir for vis, ir in numbers} == {5}


def test_python_code_as_cameras_and_sink() -> None:
    def pictures(fps: float, count: int) -> Callable[[], Iterator[Any]]:
        def frames() -> Iterator[Any]:
            for i in range(count):
                RealClock().sleep_ns(round(1e9 / fps))
                yield picture(i)

        return frames

    kept = Kept()
    pipeline = Pipeline.from_config(
        {
            "sources": {"ir": {"kind": "python", "live": True}, "vis": {"kind": "python", "live": True}},
            "registration": {"model": "none"},
            "fusion": {"model": "max"},
            "worker": {"device": "cpu"},
        },
        ir=pictures(25, 20),
        vis=pictures(50, 40),
        sinks=[kept],
    )
    assert pipeline.live
    report = pipeline.run()
    assert_sound(report)
    assert len(kept.frames) == 40
    assert kept.frames[0].image.shape == (HEIGHT, WIDTH, 3)


def test_the_wait_for_a_partner_is_bounded_by_the_latency_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Matcher] = []

    def keep(*args: Any, **more: Any) -> Matcher:
        made.append(Matcher(*args, **more))
        return made[-1]

    monkeypatch.setattr("streamfuse.pipeline.pipeline.Matcher", keep)
    camera = {"kind": "python", "live": True, "fps": 25}
    tree = {
        "sources": {"ir": camera, "vis": camera},
        "registration": {"model": "none"},
        "fusion": {"model": "max"},
        "worker": {"device": "cpu"},
        "pairing": {"driver": "vis"},
        "pipeline": {"latency_budget_ms": 80},
    }

    def pictures() -> Iterator[Any]:
        for i in range(30):
            RealClock().sleep_ns(20_000_000)
            yield picture(i)

    # Until delays are known a live run is patient for 300 ms, more than this budget.
    report = Pipeline.from_config(tree, ir=pictures, vis=pictures).run()
    assert_sound(report)
    assert made[0].wait_budget_ns is not None
    assert 40_000_000 <= made[0].wait_budget_ns < 80_000_000
    deadline = made[0].statistics().deadline_ns
    assert deadline is not None
    assert deadline <= made[0].wait_budget_ns
