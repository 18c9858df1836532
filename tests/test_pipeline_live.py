"""Live runs in threads: every frame accounted for, cameras that go and come back, too much to do."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from faults import Camera, picture
from live_runs import ENDLESS, FRAMES, Kept, Machine, assert_in_order, assert_sound, camera, make
from rtsp import RtspServer

from streamfuse.clock import NS_PER_S, RealClock
from streamfuse.errors import SourceError
from streamfuse.frame import FusedFrame, Rung, Status
from streamfuse.pipeline import Pipeline

pytestmark = pytest.mark.usefixtures("faulty_kinds")


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
    # On a busy machine some may come too late, but none waits for an infrared frame in vain.
    assert report.dropped["vis"].keys() <= {"overrun", "late"}
    assert len(kept.frames) == 400 - sum(report.dropped["vis"].values())
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
