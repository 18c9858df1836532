"""The device worker without a device: its program runs on the CPU and is held against the CPU worker."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from device_rigs import CALIBRATIONS, Clip, assert_same, film, pairs, soft, through
from device_streams import Events, pretend_cuda
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from streamfuse.calibration.calibration import Intrinsics, RigCalibration
from streamfuse.clock import NS_PER_MS, VirtualClock
from streamfuse.config import Component, WorkerOptions
from streamfuse.device.build import lives_on_device
from streamfuse.device.estimator import Stateless
from streamfuse.device.graph import Replay
from streamfuse.device.layout import Field, Layout
from streamfuse.device.live import LiveEstimator, LiveFuser, PeopleFuser
from streamfuse.device.memory import Rows
from streamfuse.device.mepma import MepmaEstimator
from streamfuse.device.program import Pass, Program, Rules
from streamfuse.device.rig import Rigs
from streamfuse.device.schedule import Schedule
from streamfuse.device.transfer import IN_FLIGHT, Ring
from streamfuse.device.worker import DeviceWorker
from streamfuse.errors import CalibrationError
from streamfuse.frame import FramePair, Rung, Status
from streamfuse.fusion import FUSERS
from streamfuse.nn.live_fusion import LiveFusion
from streamfuse.nn.live_registration import LiveRegistration
from streamfuse.nn.mepma import MEPMA
from streamfuse.nn.models import build_model, own_state
from streamfuse.pairing.matcher import Matcher
from streamfuse.pairing.options import PairingOptions
from streamfuse.pipeline.core import FusionCore
from streamfuse.pipeline.statistics import Statistics
from streamfuse.registration import REGISTRARS
from streamfuse.registration.options import TemporalOptions
from streamfuse.registration.temporal import Event
from streamfuse.worker import Worker

RULES = Rules(min_confidence=0.2, regain_confidence=0.4, hold_ns=10**9, smooth=True, calibrated=True)
LIVE = Component("live", REGISTRARS.load("live").Options(precision="float32"))
MAX = Component("max", FUSERS.load("max").Options())
OPTIONS = WorkerOptions(device="cpu")


@pytest.fixture(scope="module")
def clip() -> Clip:
    return film()


# -- the whole of it against the CPU worker --------------------------------------------------------


def both(calibration: RigCalibration | None, **options: Any) -> tuple[Worker, DeviceWorker]:
    chosen = WorkerOptions(device="cpu", **options)
    return (
        Worker(LIVE, MAX, calibration=calibration, options=chosen),
        DeviceWorker(LIVE, MAX, device="cpu", calibration=calibration, options=chosen),
    )


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_pictures_and_fields_are_those_of_the_cpu_worker(clip: Clip, name: str) -> None:
    """Among them a cold start and a key frame."""
    cpu, device = (through(worker, pairs(clip)) for worker in both(CALIBRATIONS[name](1), key_interval=3))
    assert [frame.status for frame in cpu] == [Status.OK] * len(cpu)
    assert [frame.warm for frame in cpu] == [False, True, True, True, True]
    assert cpu[3].registration.events == (Event.KEY_FRAME,)
    assert [frame.registration.events for frame in device] == [frame.registration.events for frame in cpu]
    for one, other in zip(cpu, device, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("rung", Rung)
def test_every_rung_gives_what_the_cpu_worker_gives(clip: Clip, rung: Rung) -> None:
    """Two frames with all the work first, so that there is a field."""
    frames = list(pairs(clip))
    results = []
    for worker in both(CALIBRATIONS["homography"](1)):
        done = through(worker, iter(frames[:2]))
        done += through(worker, iter(frames[2:]), rung=rung)
        results.append(done)
    for one, other in zip(*results, strict=True):
        assert_same(one, other)
        assert other.rung is one.rung
        assert other.reason == one.reason


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_field_not_to_be_trusted_is_not_used(clip: Clip, calibrated: bool) -> None:
    """A covered lens for four frames: held, until that is too long ago, then calibration or nothing."""
    frames = [pair if i == 0 else pairs_blank(pair) for i, pair in enumerate(pairs(clip, interval_ms=400))]
    calibration = CALIBRATIONS["homography"](1) if calibrated else None
    options = {"hold_s": 0.5, "min_confidence": 0.4}
    cpu, device = (through(worker, iter(frames)) for worker in both(calibration, **options))
    last = Status.CALIBRATION if calibrated else Status.OFF
    assert [frame.status for frame in device] == [Status.OK, Status.HELD] + [last] * (len(frames) - 2)
    for one, other in zip(cpu, device, strict=True):
        assert other.status is one.status
        assert np.abs(one.image.astype(int) - other.image).mean() < 0.1
        if last is other.status is Status.OFF:
            np.testing.assert_array_equal(other.image, other.visible)


def pairs_blank(pair: FramePair) -> FramePair:
    assert pair.ir is not None
    return replace(pair, ir=replace(pair.ir, image=np.full_like(pair.ir.image, 90)))


def test_a_registrar_and_fuser_in_one_network(clip: Clip, tmp_path: Path) -> None:
    """ME-PMA with random weights: the features it warped are the ones it fuses, as on the CPU."""
    torch.manual_seed(5)
    network = MEPMA().eval()
    torch.save(own_state(network), tmp_path / "mepma.pth")
    options = REGISTRARS.load("mepma").Options(weights=str(tmp_path / "mepma.pth"))
    component = Component("mepma", options)
    small = [shrunk(pair) for pair in list(pairs(clip))[:2]]
    chosen = WorkerOptions(device="cpu", min_confidence=0.0)
    cpu = through(Worker(component, component, options=chosen), iter(small))
    device = through(DeviceWorker(component, component, device="cpu", options=chosen), iter(small))
    for one, other in zip(cpu, device, strict=True):
        assert_same(one, other)


def shrunk(pair: FramePair) -> FramePair:
    assert pair.ir is not None
    return replace(
        pair,
        vis=replace(pair.vis, image=cv2.resize(pair.vis.image, (80, 64))),
        ir=replace(pair.ir, image=cv2.resize(pair.ir.image, (80, 64))),
    )


# -- frames under way ------------------------------------------------------------------------------


def test_two_frames_are_under_way_and_none_is_lost_or_overtaken(clip: Clip) -> None:
    """Among them one without infrared and one of another size."""
    none = Component("none", REGISTRARS.load("none").Options())
    worker = DeviceWorker(none, MAX, device="cpu", options=OPTIONS)
    some = list(pairs(clip))
    stream = [*some[:3], replace(some[3], ir=None, reason="shutter"), shrunk(some[0]), *some[:2]]
    counts, seqs = [], []
    for seq, pair in enumerate(stream):
        done = worker.submit(pair, seq=seq)
        seqs += [frame.seq for frame in done]
        counts.append(seq + 1 - len(seqs))
    assert counts == [1, 2, 2, 3, 1, 1, 2]
    seqs += [frame.seq for frame in worker.drain()]
    assert seqs == list(range(len(stream)))
    assert worker.drain() == []


def test_a_slot_is_not_used_again_before_its_result_is_collected() -> None:
    ring = Ring(Layout(x=Field(torch.int64, (3,))), Layout(y=Field(torch.int64, (3,))), torch.device("cpu"))

    inputs, outputs = ring.buffers(1)

    def work() -> None:
        outputs["y"].copy_(10 * inputs["x"])

    taken = []
    for i in range(7):
        assert ring.full == (i >= IN_FLIGHT)
        if ring.full:
            taken += ring.take()
        ring.submit([{"x": np.full(3, i)}], work)
    while ring.oldest is not None:
        taken += ring.take()
    np.testing.assert_array_equal([arrays["y"][0] for arrays in taken], 10 * np.arange(7))


@pytest.mark.parametrize("seed", range(6))
def test_streams_may_run_in_any_order_that_events_allow(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """The ring's events on streams that run late: results are their own frames', whatever overtakes what, in
    batches of one to three."""
    world = Events(np.random.default_rng(seed))
    pretend_cuda(monkeypatch, world)
    layouts = [Layout(**{name: Field(torch.int64, (3,))}) for name in ("x", "y")]
    ring = Ring(layouts[0], layouts[1], SimpleNamespace(type="cuda"), rows=3)  # type: ignore[arg-type]

    def work(size: int) -> None:
        inputs, outputs = ring.buffers(size)
        into, out = inputs["x"].numpy(), outputs["y"].numpy()
        world.later(lambda: np.copyto(out, 10 * into))

    taken, given = [], 0
    for size in (1, 2, 3, 1, 3, 2, 2, 1, 3):
        if ring.full:
            taken += ring.take()
        ring.submit([{"x": np.full(3, given + i)} for i in range(size)], partial(work, size))
        given += size
    while ring.oldest is not None:
        taken += ring.take()
    found = np.array([arrays["y"] for arrays in taken])
    np.testing.assert_array_equal(found, 10 * np.arange(given)[:, None].repeat(3, 1))


@pytest.mark.parametrize("live", [False, True])
def test_a_run_counts_and_orders_frames_as_ever(clip: Clip, live: bool) -> None:
    none = Component("none", REGISTRARS.load("none").Options())
    clock = VirtualClock()
    statistics = Statistics()
    core = FusionCore(
        Matcher(PairingOptions(), live=live, default_driver="vis"),
        DeviceWorker(none, MAX, device="cpu", options=OPTIONS, clock=clock),
        live=live,
        budget_ns=10**9,
        clock=clock,
        statistics=statistics,
    )
    out: list[int] = []
    for pair in pairs(clip):
        assert pair.ir is not None
        core.feed(pair.ir)
        core.feed(pair.vis)
        clock.advance_ns(5 * NS_PER_MS)
        out += [frame.seq for frame in core.step()]
    for stream in ("ir", "vis"):
        core.end(stream)  # type: ignore[arg-type]
    stepped = [frame.seq for frame in core.step()]
    if not live:
        # The run is stopped with frames under way, one of them just about to be given out.
        out += [next(core.drain()).seq]
        core.finish()
        report = statistics.report()
        total = report.frames_in["vis"]
        assert sorted(out + stepped) == list(range(total - 1))
        for one in ("ir", "vis"):
            assert report.dropped[one] == {"shutdown": 1}
            assert report.frames_used[one] == total - 1
    else:
        assert out + stepped == list(range(statistics.report().frames_in["vis"]))


def test_pictures_that_do_not_fit_the_rig_are_refused(clip: Clip) -> None:
    worker = DeviceWorker(LIVE, MAX, device="cpu", calibration=CALIBRATIONS["homography"](4), options=OPTIONS)
    with pytest.raises(CalibrationError, match="640x480, this one is 160x120"):
        worker.submit(next(pairs(clip)))


# -- policy ----------------------------------------------------------------------------------------


def test_a_search_follows_a_field_not_trusted_and_a_past_that_ended(rng: np.random.Generator) -> None:
    """Answers come two frames late: the third frame's is known when the fifth goes in."""
    schedule, picture = Schedule(TemporalOptions(key_interval=12)), soft(rng, (120, 160))
    used = [True, True, False, True, True, True, True, True]
    choices, under_way = [], []
    for i, good in enumerate(used):
        if len(under_way) == IN_FLIGHT:
            schedule.learn(*under_way.pop(0))
        schedule.look(picture, picture, t_ns=i * 10**7, epochs=(int(i >= 5), 0))
        choices.append(schedule.choose(Rung.FULL, tuple(Pass)))
        under_way.append((choices[-1].which, good))
    passes = [choice.which for choice in choices]
    cold, warm, again = Pass.COLD, Pass.WARM, Pass.AGAIN
    assert passes == [cold, again, warm, warm, again, cold, again, warm]
    assert [choice.forget for choice in choices] == [i in (0, 5) for i in range(len(used))]
    assert choices[0].events == (Event.FIRST,)
    assert choices[5].events == (Event.EPOCH,)


def test_while_nothing_is_found_searches_become_rare(rng: np.random.Generator) -> None:
    schedule, picture = Schedule(TemporalOptions(key_interval=100)), soft(rng, (120, 160))
    passes = []
    for i in range(40):
        schedule.look(picture, picture, t_ns=i * 10**7, epochs=(0, 0))
        passes.append(schedule.choose(Rung.FULL, tuple(Pass)).which)
        schedule.learn(passes[-1], used=False)
    tries = [i for i, which in enumerate(passes) if which is Pass.AGAIN]
    assert tries == [1, 3, 7, 15, 31]


def test_another_scene_is_searched_for_from_scratch(rng: np.random.Generator) -> None:
    schedule, pictures = Schedule(TemporalOptions()), [soft(rng, (120, 160)) for _ in range(2)]
    for i, picture in enumerate((pictures[0], pictures[0], pictures[1])):
        schedule.look(picture, picture, t_ns=i * 10**7, epochs=(0, 0))
        choice = schedule.choose(Rung.FULL, tuple(Pass))
    assert choice == (Pass.COLD, True, (Event.SCENE_CUT_VIS,))


def test_only_what_lives_on_a_device_goes_there() -> None:
    blocks = Component("blocks", REGISTRARS.load("blocks").Options())
    assert lives_on_device(LIVE, MAX)
    assert not lives_on_device(blocks, MAX)


# -- what a CUDA graph can hold --------------------------------------------------------------------


class HostWork(TorchDispatchMode):
    """Collects the operations that need the host, and tensors that are not where they should be."""

    HOST = ("_local_scalar_dense", "lift_fresh", "nonzero", "linalg_solve", "linalg_cholesky", "linalg_lu")

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.found, self.operations = device, set[str](), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        if any(name in str(func) for name in self.HOST):
            self.found.add(str(func))
        for leaf in tree_leaves((args, kwargs, out)):
            if isinstance(leaf, torch.Tensor) and leaf.device.type != self.device:
                self.found.add(f"{func} on {leaf.device}")
        return out


def moved(thing: Any, device: str, seen: set[int]) -> None:
    """Every tensor that a program can reach, to another device."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, torch.nn.Module):
        thing.to(device)
    elif isinstance(thing, Rows):
        for field in fields(thing):
            setattr(thing, field.name, getattr(thing, field.name).to(device))
    elif hasattr(thing, "__dict__") or isinstance(thing, dict):
        members = thing if isinstance(thing, dict) else vars(thing)
        for name, value in members.items():
            if isinstance(value, torch.Tensor | tuple | list):
                members[name] = tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), value)
                value = [leaf for leaf in tree_leaves(value) if not isinstance(leaf, torch.Tensor)]
            for one in value if isinstance(value, list) else [value]:
                moved(one, device, seen)


@pytest.mark.parametrize("kind", ["live", "people", "mepma"])
def test_no_pass_asks_the_host_for_anything(kind: str) -> None:
    """Values cannot be read from device `meta`, nor tensors of the host be mixed in. What is found here in a
    network would end the recording of its graph: `.item()`, `torch.tensor(...)`, a list as an index.
    """
    shape, cpu = (96, 128), torch.device("cpu")
    lens = Intrinsics(fx=100, fy=100, cx=32, cy=24, distortion=(-0.1, 0.0, 0.0, 0.0))
    plain = RigCalibration.identity(ir_size=(64, 48), vis_size=(128, 96))
    rig = Rigs(plain.model_copy(update={"ir_intrinsics": lens}), count=3, device=cpu)
    if kind != "mepma":
        network = build_model("live-registration")
        assert isinstance(network, LiveRegistration)
        estimator = LiveEstimator(network, shape, passes=2, precision="float32", device=cpu)
        fusion = build_model("live-fusion")
        assert isinstance(fusion, LiveFusion)
        made = LiveFuser if kind == "live" else PeopleFuser
        program = Program(rig, estimator, made(fusion, shape, device=cpu), rules=RULES, device=cpu)
    else:
        joint = MepmaEstimator(MEPMA().eval(), shape, dtype=torch.float32, device=cpu)
        program = Program(rig, joint, None, rules=RULES, device=cpu)
    moved(program, "meta", set())
    buffers = [
        layout.views(layout.block(rows=2, device="meta")) for layout in (program.inputs, program.outputs)
    ]
    for work in program.works:
        with torch.inference_mode(), HostWork("meta") as watch:
            program.run(work, *buffers)
        assert watch.found == set()
        assert watch.operations > 100


def test_work_that_cannot_be_recorded_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a stand-in for graphs: recording runs the work once more and keeps it, or fails."""

    class Graph:
        def replay(self) -> None:
            self.work()

    @contextmanager
    def recording(graph: Graph, **_: Any) -> Iterator[None]:
        done.clear()
        capturing.append(True)
        try:
            yield
        finally:
            capturing.clear()
        graph.work = lambda names=tuple(done): done.extend(f"replayed {name}" for name in names)

    def fails() -> None:
        if capturing:
            raise RuntimeError("operation not permitted when stream is capturing\nsee the manual")
        done.append("plain")

    done: list[str] = []
    capturing: list[bool] = []
    world = Events(np.random.default_rng(0))
    pretend_cuda(monkeypatch, world)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    replay = Replay({"good": lambda: done.append("good"), "bad": fails}, stream=torch.cuda.Stream())
    assert replay.recorded == 1
    assert "bad is not recorded as a CUDA graph, only slower: operation not permitted" in caplog.text
    assert "manual" not in caplog.text
    done[:] = ["something"]
    replay["good"]()
    replay["bad"]()
    assert done == ["something", "replayed good", "plain"]


def test_a_program_says_which_passes_it_has() -> None:
    rig = Rigs(RigCalibration.identity(ir_size=(64, 48), vis_size=(64, 48)), device="cpu")
    program = Program(
        rig, None, Stateless(lambda ir, vis, valid: ir), rules=RULES, device=torch.device("cpu")
    )
    assert program.passes == (Pass.CALIBRATION,)
