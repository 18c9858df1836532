"""The degradation ladder on simulated loads, driven through the core on a virtual clock."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from factories import fused_frame, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfuse.calibration.calibration import RigCalibration
from streamfuse.clock import NS_PER_MS, NS_PER_S, VirtualClock
from streamfuse.config import Component, WorkerOptions
from streamfuse.frame import Frame, FramePair, FusedFrame, Registration, Rung, Status, Stream
from streamfuse.fusion.maximum import MaximumFuser
from streamfuse.ladder import LONGEST_WAIT_NS, Ladder
from streamfuse.pairing.matcher import Matcher
from streamfuse.pairing.options import PairingOptions
from streamfuse.pipeline.core import FusionCore
from streamfuse.pipeline.statistics import Report, Statistics
from streamfuse.registration import REGISTRARS
from streamfuse.registry import Options
from streamfuse.worker import Worker

FPS = 30
BUDGET_MS = 250.0
DELAY_MS = 60.0
REUSE_FRAMES = 4
Load = Callable[[float], float]
"""Milliseconds that registration takes at a time in seconds."""

TEMPLATE = fused_frame()
VISIBLE = picture(width=32, height=24)
INFRARED = np.ascontiguousarray(255 - VISIBLE[..., 0])
SHIFT = np.array([[1, 0, 2.0], [0, 1, 0], [0, 0, 1]])


class LoadedWorker:
    """Takes as long as a worker would whose registration costs `load` and the rest `rest` milliseconds."""

    def __init__(self, clock: VirtualClock, load: Load, rest: Load, extra: dict[int, float]) -> None:
        self._clock, self._load, self._rest, self._extra = clock, load, rest, extra

    def submit(
        self, pair: FramePair, *, seq: int, dropped: dict[str, int], rung: Rung, rung_reason: str
    ) -> list[FusedFrame]:
        seconds = self._clock.now_ns() / NS_PER_S
        registers = rung in (Rung.FULL, Rung.REFINE)
        cold = self._extra.get(pair.vis.seq, 0.0) if rung is Rung.FULL else 0.0
        register = round((self._load(seconds) + cold) * NS_PER_MS) if registers else 0
        rest = 0 if rung is Rung.PASS_THROUGH else round(self._rest(seconds) * NS_PER_MS)
        self._clock.advance_ns(register + rest + 200_000)
        fused = FusedFrame(
            image=pair.vis.image,
            seq=seq,
            t_capture=pair.t_capture,
            pair=pair,
            registered_ir=TEMPLATE.registered_ir,
            valid=TEMPLATE.valid,
            registration=TEMPLATE.registration,
            rung=rung,
            latencies_ns={"register": register} if registers else {},
            dropped=dropped,
            extra={"rung_reason": rung_reason},
        )
        return [fused]

    def drain(self) -> list[FusedFrame]:
        return []


class SleepingRegistrar:
    """On a slow machine: it knows the answer, and takes `load` milliseconds of the clock for it."""

    class Options(Options):
        clock: Any = None
        load: Any = None

    def __init__(self, options: Any, *, device: str = "cpu") -> None:
        self._clock, self._load = options.clock, options.load

    def register(self, ir: Any, vis: Any, *, valid: Any = None, prior: Any = None) -> Registration:
        self._clock.sleep_ns(round(self._load(self._clock.now_ns() / NS_PER_S) * NS_PER_MS))
        return Registration(status=Status.OK, confidence=0.9, matrix=SHIFT, warm=prior is not None)


class Run:
    """Two cameras of one rate in front of a core, until `seconds` of pictures have been taken."""

    def __init__(
        self,
        load: Load = lambda t: 12,
        *,
        seconds: float = 60,
        rest: Load = lambda t: 5,
        extra: dict[int, float] | None = None,
        sink_lag_ms: float = 5,
        delay_ms: float = DELAY_MS,
        budget_ms: float = BUDGET_MS,
        fps: float = FPS,
        live: bool = True,
        worker: Worker | None = None,
        clock: VirtualClock | None = None,
    ) -> None:
        self.clock = clock or VirtualClock(start_ns=NS_PER_S)
        self.statistics = Statistics()
        self.ladder = Ladder(budget_ns=round(budget_ms * NS_PER_MS), reuse_frames=REUSE_FRAMES)
        core = FusionCore(
            Matcher(PairingOptions(), live=live, default_driver="vis"),
            worker or LoadedWorker(self.clock, load, rest, extra or {}),  # type: ignore[arg-type]
            live=live,
            budget_ns=round(budget_ms * NS_PER_MS),
            clock=self.clock,
            statistics=self.statistics,
            ladder=self.ladder,
            sink_lag_ns=lambda: round(sink_lag_ms * NS_PER_MS),
        )
        self.frames: list[FusedFrame] = []
        self.late_ms: list[float] = []
        self.moves_at: list[float] = []
        waiting = [self._frame(s, i, i / fps, delay_ms) for i in range(int(seconds * fps)) for s in STREAMS]
        while waiting:
            self.clock.advance_ns(max(0, waiting[0].t_arrival - self.clock.now_ns()))
            while waiting and waiting[0].t_arrival <= self.clock.now_ns():
                core.feed(waiting.pop(0))
            if not waiting:
                for stream in STREAMS:
                    core.end(stream)
            for frame in core.step():
                self.frames.append(frame)
                late = (self.clock.now_ns() - frame.t_capture) / NS_PER_MS + sink_lag_ms
                self.late_ms.append(late)
                if len(self.moves_at) < self.ladder.moves:
                    self.moves_at.append(self.clock.now_ns() / NS_PER_S)
        core.finish()
        self.report: Report = self.statistics.report()
        assert self.report.unaccounted() == {"ir": 0, "vis": 0}
        assert sum(self.report.rungs.values()) == self.report.frames_out == len(self.frames)
        assert all(a.pair.vis.seq < b.pair.vis.seq for a, b in pairwise(self.frames))

    @staticmethod
    def _frame(stream: Stream, seq: int, seconds: float, delay_ms: float) -> Frame:
        image = INFRARED if stream == "ir" else VISIBLE
        t = round((1 + seconds) * NS_PER_S)
        return Frame(
            stream=stream, image=image, seq=seq, t_capture=t, t_arrival=t + round(delay_ms * NS_PER_MS)
        )

    def rungs(self, start_s: float, end_s: float) -> Counter[Rung]:
        """Frames by rung, of those captured in a span of time."""
        return Counter(f.rung for f in self.frames if start_s <= f.t_capture / NS_PER_S < end_s)

    def over_budget(self, budget_ms: float = BUDGET_MS) -> list[FusedFrame]:
        return [frame for frame, ms in zip(self.frames, self.late_ms, strict=True) if ms > budget_ms]


STREAMS: tuple[Stream, Stream] = ("ir", "vis")
REGISTERING = {Rung.FULL, Rung.REFINE}


def during(start: float, end: float, high: float, low: float = 12) -> Load:
    return lambda t: high if start <= t < end else low


@pytest.mark.parametrize(
    ("load_ms", "rung"),
    [(60, Rung.REUSE), (100, Rung.REUSE), (200, Rung.CALIBRATION), (1000, Rung.CALIBRATION)],
)
def test_a_worker_made_slow_walks_down_keeps_its_budget_and_comes_back(load_ms: float, rung: Rung) -> None:
    run = Run(during(10, 20, load_ms), seconds=50)
    late = [f.t_capture / NS_PER_S for f in run.over_budget()]
    assert sum(t < 12 for t in late) <= 4, "those that showed the load, and those that waited behind them"
    assert sum(t >= 12 for t in late) <= run.ladder.moves, "one for each try to climb that failed"
    assert run.rungs(3, 10).keys() == {Rung.FULL}
    assert run.rungs(10 + 3 * load_ms / 1000, 20).most_common(1)[0][0] is rung
    assert run.rungs(45, 52).keys() == {Rung.FULL}
    lost_s = (2 + run.ladder.moves) * load_ms / 1000
    assert run.report.dropped["vis"].get("late", 0) <= lost_s * FPS
    assert run.report.frames_out >= run.report.frames_in["vis"] - lost_s * FPS
    assert run.report.rung_changes == run.ladder.moves >= 3
    for frame in run.frames:
        reason = frame.extra["rung_reason"]
        assert bool(reason) == (frame.pair.vis.seq > 0 and frame.rung is not Rung.FULL), reason


@pytest.mark.parametrize(("load_ms", "rung"), [(80, Rung.REUSE), (300, Rung.CALIBRATION)])
def test_a_registrar_made_slow_in_the_real_worker(
    load_ms: float, rung: Rung, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REGISTRARS._builtin, "sleeping", "test_ladder:SleepingRegistrar")
    clock = VirtualClock(start_ns=NS_PER_S)
    options = SleepingRegistrar.Options(clock=clock, load=during(10, 20, load_ms))
    worker = Worker(
        Component("sleeping", options),
        Component("max", MaximumFuser.Options()),
        calibration=RigCalibration.identity(ir_size=(32, 24), vis_size=(32, 24)),
        options=WorkerOptions(device="cpu"),
        clock=clock,
    )
    run = Run(worker=worker, clock=clock, seconds=45)
    status = {Rung.FULL: {"ok"}, Rung.REFINE: {"ok"}, Rung.REUSE: {"held"}, Rung.CALIBRATION: {"calibration"}}
    for frame in run.frames:
        assert {frame.status.value} == status[frame.rung]
        moved = frame.registration.matrix
        assert moved is not None
        np.testing.assert_allclose(moved, np.eye(3) if frame.rung is Rung.CALIBRATION else SHIFT, atol=1e-6)
        assert (frame.image != frame.visible).any(), (
            "the infrared is in the picture on every rung but the last"
        )
    slow = [f for f in run.over_budget() if 10 <= f.t_capture / NS_PER_S < 12]
    assert len(slow) <= 4
    assert len(run.over_budget()) - len(slow) <= run.ladder.moves
    assert run.rungs(12, 20).most_common(1)[0][0] is rung
    assert run.rungs(1, 10).keys() == run.rungs(35, 46).keys() == {Rung.FULL}
    assert run.report.frames_out >= 0.97 * run.report.frames_in["vis"]
    print(
        f"\n{load_ms:.0f} ms a frame for 10 s, budget {BUDGET_MS:.0f} ms: {run.report.frames_out} of "
        f"{run.report.frames_in['vis']} frames out, {len(run.over_budget())} over the budget (worst "
        f"{max(run.late_ms):.0f} ms), rungs {run.report.rungs}, {run.report.rung_changes} changes"
    )


def test_on_the_rung_reuse_every_fifth_field_is_new() -> None:
    run = Run(during(10, 20, 60))
    rungs = [frame.rung for frame in run.frames if 12 <= frame.t_capture / NS_PER_S < 20]
    first = rungs.index(Rung.REFINE)
    cycle = [Rung.REFINE, *[Rung.REUSE] * REUSE_FRAMES]
    assert all(rung is cycle[i % len(cycle)] for i, rung in enumerate(rungs[first:]))


def test_a_load_that_grows_slowly_is_met_before_a_frame_is_late() -> None:
    run = Run(lambda t: max(5.0, min(5 + 2 * t, 120 - 2 * (t - 60))), seconds=140)
    assert run.over_budget() == []
    assert run.report.frames_out == run.report.frames_in["vis"]
    assert run.ladder.moves <= 4
    assert run.rungs(130, 141).keys() == {Rung.FULL}


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param({i: 60.0 for i in range(20, 1800, 25)}, id="cold frames"),
        pytest.param({i: 170.0 for i in range(20, 1800, 40)}, id="as long as the budget"),
        pytest.param({900: 1500.0}, id="a hiccup of a second and a half"),
    ],
)
def test_single_slow_frames_move_nothing(extra: dict[int, float]) -> None:
    run = Run(extra=extra)
    assert run.ladder.moves == 0
    assert run.report.rungs == {"full": run.report.frames_out}
    assert len(run.over_budget()) <= len(extra)


def test_two_slow_frames_in_a_row_do() -> None:
    run = Run(extra={900: 150.0, 901: 150.0})
    assert run.ladder.moves >= 2
    assert run.rungs(55, 61).keys() == {Rung.FULL}


@pytest.mark.parametrize("load_ms", [27.5, 29.0, 35.0, 100.0, 140.0])
def test_a_load_at_the_edge_of_a_rung_does_not_make_it_swing(load_ms: float) -> None:
    run = Run(lambda t: load_ms, seconds=180)
    assert run.ladder.moves <= 3
    assert all(frame.seq < 5 for frame in run.over_budget())


@pytest.mark.parametrize("load_ms", [200, 500])
def test_tries_under_lasting_overload_get_rare_and_cost_little(load_ms: float) -> None:
    run = Run(lambda t: load_ms, seconds=300)
    gaps = [b - a for a, b in pairwise(run.moves_at[::2])]
    assert gaps[-1] >= LONGEST_WAIT_NS / NS_PER_S
    assert len(run.moves_at) < 50
    assert len(run.over_budget()) <= 4 + len(run.moves_at)
    assert run.report.rungs["calibration"] > 0.97 * run.report.frames_out


def test_when_fusion_is_the_load_the_visible_picture_comes_out_alone() -> None:
    run = Run(rest=during(10, 20, 100, low=5), seconds=50)
    assert run.rungs(11, 20).most_common(1)[0][0] is Rung.PASS_THROUGH
    assert len(run.over_budget()) <= 3
    assert run.rungs(45, 52).keys() == {Rung.FULL}


def test_capture_work_and_sink_are_one_number() -> None:
    slow = {"load": lambda t: 60.0, "fps": 10, "budget_ms": 120.0, "delay_ms": 20}
    assert Run(**slow, sink_lag_ms=5).ladder.moves == 0
    with_sink = Run(**slow, sink_lag_ms=45)
    assert with_sink.rungs(10, 61)[Rung.CALIBRATION] > 0.9 * 50 * 10
    with_camera = Run(**{**slow, "delay_ms": 60}, sink_lag_ms=5)
    assert with_camera.rungs(10, 61)[Rung.CALIBRATION] > 0.9 * 50 * 10


@pytest.mark.parametrize("lag", [{"sink_lag_ms": 400.0}, {"delay_ms": 300.0}])
def test_what_no_rung_can_change_moves_nothing(lag: dict[str, float]) -> None:
    run = Run(**lag)  # type: ignore[arg-type]
    assert run.ladder.moves == 0
    assert run.report.frames_out == run.report.frames_in["vis"]


def test_a_camera_late_by_itself_still_has_its_rate_kept() -> None:
    run = Run(during(10, 20, 100), delay_ms=300)
    assert run.rungs(12, 20).most_common(1)[0][0] is Rung.REUSE
    assert run.rungs(50, 61).keys() == {Rung.FULL}


def test_offline_never_degrades() -> None:
    run = Run(lambda t: 1000, live=False, seconds=5)
    assert run.report.rungs == {"full": 5 * FPS}
    assert run.report.dropped["vis"] == {}


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.3, 6), st.floats(1, 400)), max_size=6),
    st.sampled_from([9.0, 30.0, 60.0]),
    st.floats(80, 400),
)
def test_whatever_the_load_was_it_ends_on_full(
    loads: list[tuple[float, float]], fps: float, budget_ms: float
) -> None:
    ends = np.cumsum([1.0, *(length for length, _ in loads)])

    def load(t: float) -> float:
        index = int(np.searchsorted(ends, t, side="right")) - 1
        return loads[index][1] if 0 <= index < len(loads) else 1.0

    run = Run(load, rest=lambda t: 1.0, fps=fps, budget_ms=budget_ms, delay_ms=15, seconds=ends[-1] + 120)
    assert run.ladder.rung is Rung.FULL
    causes: dict[str, Any] = run.report.dropped["vis"]
    assert causes.keys() <= {"late", "overrun"}
