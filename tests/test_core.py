"""The steppable core: what goes in comes out or is counted."""

import itertools
from typing import Any, ClassVar

import numpy as np
import pytest
from factories import fused_frame

from streamfuse.clock import NS_PER_MS, VirtualClock
from streamfuse.frame import DropCause, Frame, FramePair, FusedFrame, Stream
from streamfuse.pairing.matcher import Matcher
from streamfuse.pairing.options import PairingOptions
from streamfuse.pipeline.core import FusionCore
from streamfuse.pipeline.offline import run_offline
from streamfuse.pipeline.statistics import Report, Statistics


class PretendWorker:
    """Takes `cost_ns` of the clock for each pair and fuses nothing."""

    def __init__(self, clock: VirtualClock, cost_ns: int = 0) -> None:
        self._clock = clock
        self.cost_ns = cost_ns
        self.breaks_at: int | None = None

    def submit(self, pair: FramePair, *, seq: int, dropped: dict[str, int], **_: Any) -> list[FusedFrame]:
        if seq == self.breaks_at:
            raise RuntimeError("the model broke")
        self._clock.advance_ns(self.cost_ns)
        template = fused_frame(seq)
        fused = FusedFrame(
            image=pair.vis.image,
            seq=seq,
            t_capture=pair.t_capture,
            pair=pair,
            registered_ir=template.registered_ir,
            valid=template.valid,
            registration=template.registration,
            dropped=dropped,
        )
        return [fused]

    def drain(self) -> list[FusedFrame]:
        return []


def frame(stream: Stream, seq: int, t_ms: float) -> Frame:
    shape = (4, 4) if stream == "ir" else (4, 4, 3)
    t = round(t_ms * NS_PER_MS)
    return Frame(stream=stream, image=np.zeros(shape, np.uint8), seq=seq, t_capture=t, t_arrival=t)


def make_core(*, live: bool, cost_ms: float = 0, budget_ms: float = 100, **pairing: Any) -> FusionCore:
    clock = VirtualClock()
    core = FusionCore(
        Matcher(PairingOptions(**pairing), live=live, default_driver="vis"),
        PretendWorker(clock, round(cost_ms * NS_PER_MS)),  # type: ignore[arg-type]
        live=live,
        budget_ns=round(budget_ms * NS_PER_MS),
        clock=clock,
        statistics=Statistics(),
    )
    core.test_clock = clock  # type: ignore[attr-defined]
    return core


def report_of(core: FusionCore) -> Report:
    return core._statistics.report()


class ListReader:
    drops: ClassVar[dict[DropCause, int]] = {}

    def __init__(self, frames: list[Frame]) -> None:
        self._frames = iter(frames)

    def read(self) -> Frame | None:
        return next(self._frames, None)


@pytest.mark.parametrize(("ir_hz", "vis_hz"), [(25, 25), (9, 30), (30, 9), (8.7, 30)])
@pytest.mark.parametrize("driver", ["ir", "vis"])
def test_offline_conserves_every_frame(ir_hz: float, vis_hz: float, driver: str) -> None:
    core = make_core(live=False, driver=driver)
    readers: dict[Stream, Any] = {
        "ir": ListReader([frame("ir", i, i * 1000 / ir_hz) for i in range(int(4 * ir_hz))]),
        "vis": ListReader([frame("vis", i, i * 1000 / vis_hz) for i in range(int(4 * vis_hz))]),
    }
    out = list(run_offline(core, readers))
    core.finish()
    report = report_of(core)
    assert len(out) == report.frames_out > 20
    assert report.unaccounted() == {"ir": 0, "vis": 0}
    assert [f.seq for f in out] == list(range(len(out)))
    if driver == "vis":
        assert report.dropped["vis"] == {}


@pytest.mark.parametrize("count", [1, 3, 20])
def test_stopping_half_way_accounts_for_what_was_left(count: int) -> None:
    core = make_core(live=False)
    readers: dict[Stream, Any] = {
        s: ListReader([frame(s, i, i * 40) for i in range(50)]) for s in ("ir", "vis")
    }
    out = list(itertools.islice(run_offline(core, readers), count))
    core.finish()
    assert len(out) == count
    assert report_of(core).unaccounted() == {"ir": 0, "vis": 0}


def test_frames_lost_before_the_core_are_counted_once() -> None:
    core = make_core(live=False)
    for total in (1, 1, 3, 2, 3):
        core.lost_before("ir", {DropCause.CORRUPT: total})
    report = report_of(core)
    assert report.frames_in["ir"] == 3
    assert report.dropped["ir"] == {"corrupt": 3}


@pytest.mark.parametrize(
    ("driver", "ended", "exhausted"),
    [("vis", "ir", False), ("vis", "vis", True), ("ir", "ir", True), ("ir", "vis", True)],
)
def test_a_run_is_over_when_no_frame_can_come_out_any_more(
    driver: str, ended: Stream, exhausted: bool
) -> None:
    core = make_core(live=True, driver=driver)
    core.feed(frame("ir", 0, 0))
    core.feed(frame("vis", 0, 0))
    core.end(ended)
    list(core.step())
    assert core.exhausted is exhausted


def test_the_end_of_the_visible_waits_for_its_last_partner() -> None:
    core = make_core(live=True, budget_ms=10_000, driver="vis")
    for i in range(12):
        core.feed(frame("ir", i, i * 40))
        core.feed(frame("vis", i, i * 40))
    core.feed(frame("vis", 12, 12 * 40))
    core.end("vis")
    out = list(core.step())
    assert not core.exhausted
    core.feed(frame("ir", 12, 12 * 40))
    out += core.step()
    assert core.exhausted
    assert out[-1].pair.ir is not None
    assert out[-1].pair.ir.seq == 12


def feed_live(core: FusionCore, seconds: float) -> list[FusedFrame]:
    """25 Hz both, the clock running with the frames or ahead of them when the worker is slow."""
    clock: VirtualClock = core.test_clock  # type: ignore[attr-defined]
    waiting = [frame(s, i, i * 40) for i in range(int(25 * seconds)) for s in ("ir", "vis")]
    out: list[FusedFrame] = []
    while waiting:
        clock.advance_ns(max(0, waiting[0].t_arrival - clock.now_ns()))
        while waiting and waiting[0].t_arrival <= clock.now_ns():
            core.feed(waiting.pop(0))
        out += core.step()
    core.finish()
    return out


def test_fast_worker_drops_nothing_live() -> None:
    core = make_core(live=True, cost_ms=10)
    out = feed_live(core, 4)
    report = report_of(core)
    assert len(out) >= 98
    assert report.dropped["vis"].get(DropCause.LATE, 0) == 0
    assert report.unaccounted() == {"ir": 0, "vis": 0}


def test_slow_worker_drops_by_age_and_never_starves() -> None:
    core = make_core(live=True, cost_ms=100, budget_ms=100)
    clock: VirtualClock = core.test_clock  # type: ignore[attr-defined]
    out = feed_live(core, 8)
    report = report_of(core)
    assert report.dropped["vis"]["late"] > 80
    assert len(out) >= 70
    assert report.unaccounted() == {"ir": 0, "vis": 0}
    assert clock.now_ns() - out[-1].t_capture < 400 * NS_PER_MS


def test_worker_slower_than_the_budget_still_gives_the_newest() -> None:
    core = make_core(live=True, cost_ms=500, budget_ms=50)
    out = feed_live(core, 6)
    assert len(out) >= 10
    assert report_of(core).unaccounted() == {"ir": 0, "vis": 0}


def test_a_live_frame_tells_how_long_it_waited_for_its_partner_and_for_the_worker() -> None:
    core = make_core(live=True, cost_ms=30, budget_ms=10_000, driver="vis")
    clock = core.test_clock  # type: ignore[attr-defined]
    for i in range(3):
        core.feed(frame("ir", i, i * 40))
        core.feed(frame("vis", i, i * 40))
    clock.advance_ns(500 * NS_PER_MS)
    fused = list(core.step())
    waited = [f.latencies_ns["queue"] / NS_PER_MS for f in fused]
    assert waited == [30 * i for i in range(len(fused))]
    assert len(fused) >= 2
    for f in fused:
        assert f.latencies_ns["wait_pair"] == 500 * NS_PER_MS - f.pair.vis.t_arrival


@pytest.mark.parametrize("ir_every", [1, 3])
def test_the_frames_a_worker_breaks_at_are_accounted_for(ir_every: int) -> None:
    core = make_core(live=True, budget_ms=10_000, driver="vis")
    core._worker.breaks_at = 4  # type: ignore[attr-defined]
    for i in range(8):
        if i % ir_every == 0:
            core.feed(frame("ir", i // ir_every, i * 40))
        core.feed(frame("vis", i, i * 40))
    core.test_clock.advance_ns(500 * NS_PER_MS)  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="the model broke"):
        list(core.step())
    core.finish()
    report = report_of(core)
    assert report.frames_out == 4
    assert report.dropped["vis"] == {"shutdown": 4}
    assert report.unaccounted() == {"ir": 0, "vis": 0}
