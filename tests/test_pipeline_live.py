"""Live runs in threads: cameras and sinks that go wrong, and every frame accounted for."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any, ClassVar

import media
import numpy as np
import pytest
from faults import HEIGHT, WIDTH, Camera, FaultySinkOptions, SlowSink, SoundSource, picture
from pydantic import Field
from rtsp import RtspServer

from streamfuse.capture import SOURCES
from streamfuse.clock import NS_PER_S, Clock, RealClock
from streamfuse.errors import ConfigError, SinkError, SourceError
from streamfuse.frame import FusedFrame, Registration, Rung, Status
from streamfuse.pairing.matcher import Matcher
from streamfuse.pipeline import Pipeline, live
from streamfuse.pipeline.statistics import Report
from streamfuse.registration import REGISTRARS
from streamfuse.registry import Options
from streamfuse.sinks import SINKS

FPS = 200
FRAMES = 60
ENDLESS = 10**9
PATIENT = {"ring": 512, "sink_queue": 512, "latency_budget_ms": 10_000}
"""Nothing is dropped because the machine that runs the tests is busy."""

FAULTY_SOURCES = {
    "sound": "faults:SoundSource",
    "stalling": "faults:StallingSource",
    "disconnecting": "faults:DisconnectingSource",
    "broken": "faults:BrokenSource",
    "jumping": "faults:PtsJumpSource",
    "repeating": "faults:RepeatingSource",
    "changing": "faults:ResolutionChangeSource",
    "corrupt": "faults:CorruptSource",
    "deaf": "test_pipeline_live:DeafSource",
}
FAULTY_SINKS = {
    "slow": "faults:SlowSink",
    "failing": "faults:FailingSink",
    "no-space": "faults:NoSpaceSink",
    "window": "test_pipeline_live:WindowSink",
}


class DeafSource(SoundSource):
    """Its `close` hangs, as that of some drivers does."""

    def close(self) -> None:
        self._camera.hanging.set()
        self._camera.release.wait()


class WindowSink(SlowSink):
    """Belongs on the thread that iterates; its user closes it after frame `at`."""

    main_thread = True
    threads: ClassVar[Counter[str]] = Counter()

    def __init__(self, options: FaultySinkOptions, *, clock: Clock) -> None:
        super().__init__(options, clock=clock)
        self.threads.clear()

    def open(self) -> None:
        self._note("open")

    def write(self, frame: FusedFrame) -> None:
        self._note("write")
        super().write(frame)

    def pump(self, timeout_ms: int) -> bool:
        self._note("pump")
        return len(self.written) <= self._options.at

    def close(self) -> None:
        self._note("close")

    def _note(self, what: str) -> None:
        self.threads[f"{what} on {threading.current_thread().name}"] += 1


@dataclass
class Machine:
    """What the registrar `heavy` runs on: how long a frame takes, and whether it ever ends."""

    load_s: float = 0.0
    busy: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    hangs: bool = False


class HeavyOptions(Options):
    machine: Any = Field(default_factory=Machine)


class HeavyRegistrar:
    """Finds nothing to move, in as much time as its machine takes for it."""

    Options = HeavyOptions

    def __init__(self, options: HeavyOptions, *, device: str = "cpu") -> None:
        self._machine: Machine = options.machine

    def register(self, ir: Any, vis: Any, *, valid: Any = None, prior: Any = None) -> Registration:
        self._machine.busy.set()
        if self._machine.hangs:
            self._machine.release.wait()
        RealClock().sleep_ns(round(self._machine.load_s * NS_PER_S))
        return Registration(status=Status.OK, confidence=0.9, matrix=np.eye(3), warm=prior is not None)


@pytest.fixture(autouse=True)
def _faulty_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    heavy = {"heavy": "test_pipeline_live:HeavyRegistrar"}
    for registry, kinds in ((SOURCES, FAULTY_SOURCES), (SINKS, FAULTY_SINKS), (REGISTRARS, heavy)):
        for kind, target in kinds.items():
            monkeypatch.setitem(registry._builtin, kind, target)


def camera(kind: str = "sound", **options: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "fps": FPS,
        "frames": FRAMES,
        "camera": Camera(),
        "reconnect": {"stall_s": 0.2, "first_delay_s": 0.02, "max_delay_s": 0.05},
        **options,
    }


class Kept:
    """A sink that keeps what it is given. `full`: it has `FRAMES` frames."""

    def __init__(self) -> None:
        self.frames: list[FusedFrame] = []
        self.full = threading.Event()
        self.closed = threading.Event()

    def __call__(self, frame: FusedFrame) -> None:
        self.frames.append(frame)
        if len(self.frames) == FRAMES:
            self.full.set()

    def close(self) -> None:
        self.closed.set()

    @property
    def numbers(self) -> list[int]:
        return [frame.seq for frame in self.frames]


def make(
    ir: dict[str, Any], vis: dict[str, Any], *, sinks: Any = (), keep: Kept | None = None, **sections: Any
) -> Pipeline:
    tree = {
        "sources": {"ir": ir, "vis": vis},
        "registration": {"model": "none"},
        "fusion": {"model": "average"},
        "worker": {"device": "cpu"},
        "sinks": list(sinks),
        **sections,
        "pipeline": PATIENT | sections.get("pipeline", {}),
    }
    return Pipeline.from_config(tree, sinks=[] if keep is None else [keep])


def assert_sound(report: Report) -> None:
    assert report.unaccounted() == {"ir": 0, "vis": 0}
    assert report.frames_used["vis"] == report.frames_out


def sink_drops(report: Report) -> dict[str, dict[str, int]]:
    """Without those of whoever iterates, whom a busy machine may hold up."""
    return {name: causes for name, causes in report.sink_dropped.items() if name != "iterator"}


def assert_in_order(frames: list[FusedFrame]) -> None:
    assert all(a.t_capture < b.t_capture for a, b in pairwise(frames))
    assert all(a.pair.vis.seq < b.pair.vis.seq for a, b in pairwise(frames))


# --- Conservation -------------------------------------------------------------------------------------

TROUBLES: dict[str, dict[str, Any]] = {
    "none": camera(),
    "stalls": camera("stalling", at=20, frames=40),
    "disconnects": camera("disconnecting", at=20, times=2, refusals=2, frames=40),
    "clock goes back": camera("jumping", at=30, jump=-3000),
    "clock jumps ahead": camera("jumping", at=30, jump=3000),
    "repeats": camera("repeating"),
    "changes size": camera("changing", at=30),
    "corrupt": camera("corrupt", at=5),
    "another rate": camera(fps=60, frames=20),
}


@pytest.mark.parametrize(("stream", "driver"), [("ir", "vis"), ("vis", "vis"), ("ir", "ir")])
@pytest.mark.parametrize("trouble", TROUBLES)
def test_every_frame_comes_out_or_is_counted_whatever_happens(trouble: str, stream: str, driver: str) -> None:
    cameras = {"ir": camera(), "vis": camera()}
    cameras[stream] = TROUBLES[trouble] | {"camera": Camera()}
    kept = Kept()
    pipeline = make(cameras["ir"], cameras["vis"], keep=kept, pairing={"driver": driver})
    report = pipeline.run()
    assert_sound(report)
    assert_in_order(kept.frames)
    assert kept.numbers == list(range(report.frames_out))
    assert kept.closed.is_set()
    assert report.frames_out >= 10
    if driver == "vis":
        lost = Counter(report.dropped["vis"]) - Counter(
            {cause: ENDLESS for cause in ("corrupt", "epoch_reset")}
        )
        assert not lost, "a visible frame comes out unless it is unfit"


def test_drops_before_the_pairing_are_in_the_report() -> None:
    corrupt, repeating = camera("corrupt", at=5), camera("repeating")
    report = make(repeating, corrupt).run()
    assert report.dropped["vis"]["corrupt"] == FRAMES // 5
    assert report.dropped["ir"]["duplicate"] == pytest.approx(FRAMES * 2 / 3, abs=15)
    assert_sound(report)


def test_pairs_know_how_far_apart_they_are_and_how_long_they_took() -> None:
    kept = Kept()
    report = make(camera(), camera(), keep=kept).run()
    paired = [frame.pair for frame in kept.frames if frame.pair.ir is not None]
    assert len(paired) > FRAMES / 2
    assert all(abs(pair.dt_ns) <= pair.window_ns for pair in paired if not pair.held)
    assert report.latency_ms["capture_to_sink.python"]["p50"] > 0
    assert {"calibrate", "register", "warp", "fuse"} < report.latency_ms.keys()


# --- Sources lost and found ---------------------------------------------------------------------------


def test_visible_goes_on_alone_while_the_infrared_is_away() -> None:
    away = camera(
        "disconnecting",
        at=30,
        frames=ENDLESS,
        refusals=1,
        reconnect={"first_delay_s": 0.2, "max_delay_s": 0.2, "stall_s": 5},
    )
    kept = Kept()
    # long enough that the infrared is back well before the end on a busy machine, too
    report = make(away, camera(frames=400), keep=kept).run()
    assert_sound(report)
    assert report.dropped["vis"] == {}
    assert len(kept.frames) == 400
    status = [frame.status for frame in kept.frames]
    first, last = status.index(Status.CALIBRATION), len(status) - status[::-1].index(Status.CALIBRATION)
    outage = [i for i in range(first, last) if status[i] is Status.OFF]
    assert len(outage) > 10
    assert all("infrared frame" in kept.frames[i].reason for i in outage)
    assert max(frame.pair.ir.epoch for frame in kept.frames if frame.pair.ir) == 1
    assert [note.split(":")[:2] for note in report.notes] == [["ir", " lost"], ["ir", " back"]]


def test_nothing_comes_while_the_visible_is_away_and_then_it_goes_on() -> None:
    away = camera(
        "disconnecting", at=30, frames=60, reconnect={"first_delay_s": 0.2, "max_delay_s": 0.2, "stall_s": 5}
    )
    kept = Kept()
    report = make(camera(frames=ENDLESS), away, keep=kept).run()
    assert_sound(report)
    assert len(kept.frames) == 90
    assert report.dropped["ir"]["no_partner"] > 5
    assert [frame.pair.vis.epoch for frame in kept.frames] == [0] * 30 + [1] * 60


def test_visible_goes_on_after_the_infrared_has_ended() -> None:
    kept = Kept()
    report = make(camera(frames=20), camera(frames=60), keep=kept).run()
    assert_sound(report)
    assert len(kept.frames) == 60
    assert kept.frames[-1].status is Status.OFF


@pytest.mark.parametrize("driver", ["ir", "vis"])
def test_the_run_ends_with_the_visible(driver: str) -> None:
    report = make(camera(frames=ENDLESS), camera(frames=30), pairing={"driver": driver}).run()
    assert_sound(report)
    assert report.frames_out >= 20


@pytest.mark.parametrize("stream", ["ir", "vis"])
def test_a_source_that_fails_for_good_ends_the_run_in_order_and_says_why(stream: str) -> None:
    cameras = {"ir": camera(frames=ENDLESS), "vis": camera(frames=ENDLESS)}
    cameras[stream] = camera("broken", at=30)
    kept = Kept()
    pipeline = make(cameras["ir"], cameras["vis"], keep=kept)
    with pytest.raises(SourceError, match=f"{stream}: RuntimeError: driver bug"):
        pipeline.run()
    assert len(kept.frames) > 10
    assert kept.closed.is_set()
    assert_sound(pipeline.report())
    assert all(cameras[s]["camera"].closed for s in cameras)


def test_a_camera_that_never_comes_back_ends_the_run_after_the_last_attempt() -> None:
    lost = camera(
        "disconnecting",
        at=10,
        refusals=100,
        reconnect={"first_delay_s": 0.01, "max_delay_s": 0.01, "max_attempts": 3},
    )
    pipeline = make(lost, camera(frames=ENDLESS))
    with pytest.raises(SourceError, match=r"404.*gave up after 3 attempts"):
        pipeline.run()
    assert_sound(pipeline.report())


def test_a_camera_whose_close_hangs_does_not_hold_up_the_end() -> None:
    deaf = camera("deaf", frames=ENDLESS)
    report = make(deaf, camera(frames=30)).run()
    assert_sound(report)
    assert deaf["camera"].hanging.is_set()
    deaf["camera"].release.set()


def test_a_source_that_cannot_be_opened_is_an_error_before_the_first_frame() -> None:
    kept, infrared = Kept(), camera()
    gone = {"kind": "network", "url": "rtsp://127.0.0.1:9/cam", "open_timeout_s": 2}
    with pytest.raises(SourceError, match="nothing listens on port 9"):
        make(infrared, gone, keep=kept).run()
    assert kept.frames == []
    assert infrared["camera"].closed, "the other one is let go"


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


# --- Too much to do -----------------------------------------------------------------------------------


def steady(fps: float, until: threading.Event) -> Callable[[], Iterator[Any]]:
    """A camera that keeps its rate however busy the machine is."""

    def frames() -> Iterator[Any]:
        clock = RealClock()
        start_ns = clock.now_ns()
        for index in count():
            due_ns = start_ns + round(index / fps * NS_PER_S)
            if clock.sleep_ns(due_ns - clock.now_ns(), until):
                return
            yield picture(index)

    return frames


def test_a_worker_made_slow_walks_down_the_ladder_and_comes_back() -> None:
    machine, clock, kept, over = Machine(), RealClock(), Kept(), threading.Event()
    pipeline = Pipeline.from_config(
        {
            "sources": {"ir": {"kind": "python", "live": True}, "vis": {"kind": "python", "live": True}},
            "registration": {"model": "heavy", "machine": machine},
            "fusion": {"model": "average"},
            "worker": {"device": "cpu"},
            "pipeline": {"latency_budget_ms": 400.0, "ring": 128},
        },
        ir=steady(20, over),
        vis=steady(20, over),
        sinks=[kept],
    )
    give_up_ns = clock.now_ns() + 60 * NS_PER_S
    easy = cheap = 0
    for frame in pipeline:
        easy += frame.rung is Rung.FULL and not machine.load_s
        cheap += frame.rung not in (Rung.FULL, Rung.REFINE)
        if easy == 20 and not cheap:
            machine.load_s = 0.3
        if cheap == 30:
            machine.load_s = 0.0
        if (cheap > 30 and frame.rung is Rung.FULL) or clock.now_ns() > give_up_ns:
            pipeline.stop()
            over.set()
    report = pipeline.report()
    assert_sound(report)
    assert Rung.FULL in [f.rung for f in kept.frames[-3:]], "back at the top"
    assert report.rung_changes >= 3, "down at once, up one rung at a time"
    assert report.rungs.keys() >= {"full", "refine", "reuse"}
    assert report.frames_out > 0.5 * report.frames_in["vis"]
    assert all(f.extra["rung_reason"] for f in kept.frames if f.rung is Rung.REUSE)


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


# --- A real camera ------------------------------------------------------------------------------------


class Switch:
    """Turns a camera off once there are pairs, and on again once the run says that it is lost."""

    def __init__(self, server: RtspServer, stream: str) -> None:
        self.paired = threading.Event()
        self.came_back = threading.Event()
        self._server = server
        self._stream = stream

    def __call__(self, frame: FusedFrame) -> None:
        if frame.pair.ir is not None:
            self.paired.set()
            if getattr(frame.pair, self._stream).epoch > 0:
                self.came_back.set()

    def run(self, pipeline: Pipeline) -> None:
        try:
            assert self.paired.wait(30)
            self._server.stop()
            while not any(note.startswith(f"{self._stream}: lost") for note in pipeline.report().notes):
                assert not pipeline.stopping
                time.sleep(0.02)
            self._server.start()
            assert self.came_back.wait(30)
        finally:
            pipeline.stop()


@pytest.mark.rtsp
@pytest.mark.parametrize(("stream", "other"), [("ir", "vis"), ("vis", "ir")])
def test_a_camera_that_is_switched_off_and_on_comes_back_by_itself(stream: str, other: str) -> None:
    with RtspServer({"cam": "smpte"}, width=160, height=120) as server:
        network = {
            "kind": "network",
            "url": server.url("cam"),
            "open_timeout_s": 5,
            "duplicates": "keep",
            "reconnect": {"stall_s": 1, "first_delay_s": 0.2, "max_delay_s": 0.5},
        }
        cameras = {stream: network, other: camera(frames=ENDLESS, fps=30)}
        switch = Switch(server, stream)
        pipeline = make(cameras["ir"], cameras["vis"], sinks=[{"kind": "python", "call": switch}])
        switcher = threading.Thread(target=switch.run, args=(pipeline,))
        switcher.start()
        try:
            report = pipeline.run()
        finally:
            pipeline.stop()
            switcher.join()
    assert switch.came_back.is_set()
    assert_sound(report)
    assert report.dropped["vis"] == {}
    assert cameras[other]["camera"].opened == 1, "the other stream never stopped"
    assert report.dropped[other].keys() <= {"no_partner", "superseded", "late"}
    assert [note.split(":")[0] for note in report.notes] == [stream, stream]
    assert report.notes[1] == f"{stream}: back"
