"""The device worker on a CUDA device: `pytest -m gpu tests/test_device_gpu.py`."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from device_rigs import CALIBRATIONS, VIS_SIZE, Clip, film, pairs, thinned_pairs

from streamfuse.bench.models import STREAM_FRAMES, bench_models
from streamfuse.clock import RealClock
from streamfuse.config import Component, WorkerOptions
from streamfuse.device.program import Pass
from streamfuse.device.share import DeviceShare
from streamfuse.device.worker import DeviceWorker
from streamfuse.frame import FramePair, FusedFrame, Rung
from streamfuse.fusion import FUSERS, colour
from streamfuse.pairing.options import MotionMode
from streamfuse.registration import REGISTRARS
from streamfuse.worker import Worker, make_worker

pytestmark = pytest.mark.gpu

STEADY_FRAMES = 300


@pytest.fixture(scope="module")
def clip() -> Clip:
    if not torch.cuda.is_available():
        pytest.fail("-m gpu asks for a CUDA device, and there is none")
    return film()


def live(precision: str = "float32") -> tuple[Component, Component]:
    return (
        Component("live", REGISTRARS.load("live").Options(precision=precision)),
        Component("max", FUSERS.load("max").Options()),
    )


def device_worker(name: str = "homography", *, precision: str = "float32") -> DeviceWorker:
    return DeviceWorker(
        *live(precision), device="cuda", calibration=CALIBRATIONS[name](1), options=WorkerOptions()
    )


def through(worker: DeviceWorker | Worker, some: Iterator[FramePair]) -> list[FusedFrame]:
    done: list[FusedFrame] = []
    for seq, pair in enumerate(some):
        done += worker.submit(pair, seq=seq, dropped={}, rung=Rung.FULL, rung_reason="")
    return done + worker.drain()


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """An operation that makes the host wait for the device is an error here."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CALIBRATIONS)
def test_pictures_are_those_of_the_cpu_within_two_grey_levels(clip: Clip, name: str, precision: str) -> None:
    cpu = Worker(*live(), calibration=CALIBRATIONS[name](1), options=WorkerOptions(device="cpu"))
    on_device = device_worker(name, precision=precision)
    for one, other in zip(through(cpu, pairs(clip)), through(on_device, pairs(clip)), strict=True):
        assert other.seq == one.seq
        assert other.status is one.status
        difference = np.abs(colour.luma(one.image).astype(int) - colour.luma(other.image))
        assert difference.mean() < 0.5
        assert np.percentile(difference, 99) <= 2
        assert one.registration.flow is not None
        assert other.registration.flow is not None
        error = np.linalg.norm(one.registration.flow - other.registration.flow, axis=-1)
        assert error.mean() < (0.05 if precision == "float32" else 0.15)


def test_a_replayed_graph_gives_what_the_same_work_gives_without_one(clip: Clip) -> None:
    graphs, plain = device_worker(), device_worker()
    for worker in (graphs, plain):
        worker.prepare(ir_size=(160, 120), vis_size=VIS_SIZE)
    assert graphs._seat is not None
    assert plain._seat is not None
    assert graphs._seat.chain.recordings.recorded == len(Pass)
    chain = plain._seat.chain
    for recording in chain.recordings:
        run = partial(chain.program.run, recording.work, *chain._ring.buffers(recording.size))
        chain.recordings[recording] = run
    for one, other in zip(through(graphs, pairs(clip)), through(plain, pairs(clip)), strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        assert one.confidence == other.confidence


def test_pictures_travel_through_pinned_memory(clip: Clip) -> None:
    worker = device_worker()
    through(worker, pairs(clip))
    assert worker._seat is not None
    slots = worker._seat.chain._ring._free
    assert all(slot.up.is_pinned() and slot.down.is_pinned() for slot in slots)


def test_in_the_steady_state_nothing_waits_and_memory_stays(clip: Clip) -> None:
    """But for the event of each frame, which no debug mode counts."""
    worker = device_worker()
    some = list(pairs(clip))
    through(worker, iter(some))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    with no_waiting():
        done = through(worker, (some[i % len(some)] for i in range(STEADY_FRAMES)))
    assert [frame.seq for frame in done] == list(range(STEADY_FRAMES))
    assert all(0 <= frame.latencies_ns["register"] < frame.latencies_ns["device"] for frame in done)
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before


@pytest.mark.parametrize("mode", ["causal", "interpolate"])
def test_the_default_configuration_moves_the_infrared_as_on_the_cpu(mode: MotionMode) -> None:
    some = thinned_pairs(film(frames=9, interval_s=1 / 30), mode)
    config = (live()[0], Component("people", FUSERS.load("people").Options()))
    rig: dict[str, Any] = {"calibration": CALIBRATIONS["lenses"](1), "motion": mode}
    cpu = Worker(*config, options=WorkerOptions(device="cpu"), **rig)
    on_device = DeviceWorker(*config, device="cuda", options=WorkerOptions(), **rig)
    done = through(cpu, iter(some)), through(on_device, iter(some))
    assert on_device._seat is not None
    assert on_device._seat.chain.recordings.recorded == 2 * len(Pass)
    moved = 0
    for one, other in zip(*done, strict=True):
        assert other.extra.keys() == one.extra.keys()
        moved += "motion" in other.extra
        difference = np.abs(colour.luma(one.image).astype(int) - colour.luma(other.image))
        assert difference.mean() < 0.5
        # On the device people are decided at every frame; see also test_device_motion on laplacian.
        assert np.percentile(difference, 99) <= 8
    assert moved >= 4


def test_rigs_that_go_together_get_what_they_get_alone(clip: Clip) -> None:
    """Two on threads of their own; whether a frame goes alone or not is a matter of the moment."""
    share = DeviceShare(2)
    rig = CALIBRATIONS["homography"](1)
    config: dict[str, Any] = {"device": "cuda", "options": WorkerOptions(), "calibration": rig}
    workers = [DeviceWorker(*live(), **config, share=share) for _ in range(2)]
    for worker in workers:
        worker.prepare(ir_size=(160, 120), vis_size=VIS_SIZE)
    some = list(pairs(clip)) * 20
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda worker: through(worker, iter(some)), workers))
    alone = through(DeviceWorker(*live(), **config), iter(some))
    assert workers[0]._seat is not None
    assert workers[0]._seat.chain.recordings.recorded == 2 * len(Pass)
    assert share.batches[2] > 0
    for done in together:
        assert [frame.seq for frame in done] == [frame.seq for frame in alone]
        for one, other in zip(alone, done, strict=True):
            assert other.status is one.status
            assert np.abs(one.image.astype(int) - other.image).mean() < 0.1


def test_a_run_with_a_device_takes_this_worker() -> None:
    worker = make_worker(*live(), motion="causal", options=WorkerOptions(device="auto"))
    assert isinstance(worker, DeviceWorker)


def test_bench_streams_frames_through_it(clip: Clip) -> None:
    rows = bench_models(
        (clip.ir[0], colour.luma(clip.vis[0])),
        models=["live"],
        sizes=[(640, 480)],
        repeats=3,
        device="cuda",
        clock=RealClock(),
    )
    found = {row.precision: row for row in rows if row.mode == f"{STREAM_FRAMES} frames"}
    assert set(found) == {"float32", "bfloat16"}
    difference = found["bfloat16"].difference
    assert difference is not None
    assert difference < 1
