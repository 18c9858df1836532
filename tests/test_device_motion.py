"""The default configuration on the device: infrared moved in time, held against the CPU worker."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from device_rigs import CALIBRATIONS, Clip, assert_same, film, pairs, thinned_pairs, through

import streamfuse.device.worker as device_worker
import streamfuse.worker as cpu_worker
from streamfuse.config import Component, WorkerOptions, parse_config
from streamfuse.device.worker import DeviceWorker
from streamfuse.frame import FramePair, FusedFrame, Rung, Status
from streamfuse.fusion import FUSERS
from streamfuse.nn.mepma import MEPMA
from streamfuse.nn.models import own_state
from streamfuse.pairing.options import MotionMode
from streamfuse.registration import REGISTRARS
from streamfuse.worker import Worker, make_worker

MAX = Component("max", FUSERS.load("max").Options())
LAPLACIAN = Component("laplacian", FUSERS.load("laplacian").Options())
REGISTRATIONS = {
    "live": Component("live", REGISTRARS.load("live").Options(precision="float32")),
    "none": Component("none", REGISTRARS.load("none").Options()),
}


@pytest.fixture(scope="module")
def clip() -> Clip:
    return film(frames=9, interval_s=1 / 30)


def both(
    registration: Component,
    fusion: Component,
    mode: MotionMode,
    *,
    name: str | None = "lenses",
    **options: Any,
) -> tuple[Worker, DeviceWorker]:
    calibration = None if name is None else CALIBRATIONS[name](1)
    chosen = WorkerOptions(device="cpu", **options)
    return (
        Worker(registration, fusion, calibration=calibration, motion=mode, options=chosen),
        DeviceWorker(
            registration, fusion, device="cpu", calibration=calibration, motion=mode, options=chosen
        ),
    )


def assert_moved_alike(
    cpu: list[FusedFrame], device: list[FusedFrame], *, at_least: int, apart: float = 2e-3
) -> None:
    """The same frames over the same time; the field of a frame or two before decides for a few pixels.

    apart: how far the shares of the picture that move may be.
    """
    told = [
        (one.extra.get("motion"), other.extra.get("motion")) for one, other in zip(cpu, device, strict=True)
    ]
    assert sum(one is not None for one, _ in told) >= at_least
    for one, other in told:
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert (other["mode"], other["over_ns"]) == (one["mode"], one["over_ns"])
            assert other["share"] == pytest.approx(one["share"], abs=apart)


@pytest.mark.parametrize("mode", ["causal", "interpolate"])
@pytest.mark.parametrize("kind", REGISTRATIONS)
def test_what_moves_is_where_the_cpu_worker_shows_it(clip: Clip, kind: str, mode: MotionMode) -> None:
    some = thinned_pairs(clip, mode)
    cpu, device = (through(worker, some) for worker in both(REGISTRATIONS[kind], MAX, mode))
    assert_moved_alike(cpu, device, at_least=4)
    for one, other in zip(cpu, device, strict=True):
        assert_same(one, other, decided=kind == "live")
        assert other.pair.held == one.pair.held


def test_the_laplacian_fuser_fuses_what_was_moved(clip: Clip) -> None:
    """What goes into it is the same within 2 grey levels. Where the sources are equally active one of them
    decides which source is taken, so what comes out is not, for about a pixel in a hundred."""
    some = thinned_pairs(clip, "causal")
    cpu, device = (through(worker, some) for worker in both(REGISTRATIONS["live"], LAPLACIAN, "causal"))
    assert_moved_alike(cpu, device, at_least=4)
    for one, other in zip(cpu, device, strict=True):
        assert np.percentile(np.abs(one.registered_ir.astype(int) - other.registered_ir), 99.9) <= 2
        difference = np.abs(one.image.astype(int) - other.image)
        assert difference.mean() < 0.2
        assert np.percentile(difference, 99) <= 4


def test_a_registrar_and_fuser_in_one_network_fuse_the_moved_picture(clip: Clip, tmp_path: Path) -> None:
    torch.manual_seed(5)
    torch.save(own_state(MEPMA().eval()), tmp_path / "mepma.pth")
    component = Component("mepma", REGISTRARS.load("mepma").Options(weights=str(tmp_path / "mepma.pth")))
    some = [shrunk(pair) for pair in thinned_pairs(clip, "interpolate")[:3]]
    workers = both(component, component, "interpolate", name=None, min_confidence=0.0)
    cpu, device = (through(worker, some) for worker in workers)
    # Random weights find another field for each frame.
    assert_moved_alike(cpu[1:], device[1:], at_least=2, apart=1e-2)
    for one, other in zip(cpu[1:], device[1:], strict=True):
        assert_same(one, other, decided=True)


def shrunk(pair: FramePair) -> FramePair:
    def small(frame: Any) -> Any:
        return None if frame is None else replace(frame, image=cv2.resize(frame.image, (80, 64)))

    assert pair.ir is not None
    return replace(pair, vis=small(pair.vis), ir=small(pair.ir), ir_after=small(pair.ir_after))


def test_simultaneous_frames_take_the_way_without_motion(clip: Clip) -> None:
    on, off = (
        DeviceWorker(
            REGISTRATIONS["none"], MAX, device="cpu", motion=mode, options=WorkerOptions(device="cpu")
        )
        for mode in ("causal", "off")
    )
    for one, other in zip(through(on, pairs(clip)), through(off, pairs(clip)), strict=True):
        assert "motion" not in one.extra
        np.testing.assert_array_equal(one.image, other.image)


def test_only_after_a_start_does_a_pair_wait_for_the_field_before_it(clip: Clip) -> None:
    """Else two are under way, as ever."""
    worker = both(REGISTRATIONS["live"], MAX, "causal")[1]
    some = thinned_pairs(clip, "causal")
    some[5:] = [replace(pair, vis=replace(pair.vis, epoch=1)) for pair in some[5:]]
    seqs: list[int] = []
    under_way = []
    for seq, pair in enumerate(some):
        seqs += [frame.seq for frame in worker.submit(pair, seq=seq)]
        under_way.append(seq + 1 - len(seqs))
    # The first pair is simultaneous: motion wakes with the second. The epoch changes with the sixth.
    assert under_way == [1, 1, 2, 2, 2, 2, 1, 2, 2]


def test_without_a_field_nothing_is_said_to_be_moved(clip: Clip) -> None:
    """A covered lens without a calibration: the visible picture, as on the CPU."""
    some = [
        pair if i < 4 else replace(pair, ir=replace(pair.ir, image=np.full_like(pair.ir.image, 90)))  # type: ignore[union-attr,arg-type]
        for i, pair in enumerate(thinned_pairs(clip, "causal"))
    ]
    workers = both(REGISTRATIONS["live"], MAX, "causal", name=None, hold_s=0.01, min_confidence=0.4)
    cpu, device = (through(worker, some) for worker in workers)
    assert {frame.status for frame in device[5:]} == {Status.OFF}
    for one, other in zip(cpu[5:], device[5:], strict=True):
        assert other.status is one.status
        assert "motion" not in other.extra
        np.testing.assert_array_equal(other.image, other.visible)


@pytest.mark.parametrize("rung", [Rung.REUSE, Rung.CALIBRATION])
def test_rungs_that_save_time_move_nothing(clip: Clip, rung: Rung) -> None:
    some = thinned_pairs(clip, "causal")
    for frame in through(both(REGISTRATIONS["none"], MAX, "causal")[1], some, rung=rung):
        assert "motion" not in frame.extra


def test_the_default_configuration_takes_the_device_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the device: what counts is who is asked, and for what."""
    config = parse_config(
        {"sources": {stream: {"kind": "synthetic", "stream": stream} for stream in ("ir", "vis")}}
    )
    asked: list[Any] = []
    monkeypatch.setattr(cpu_worker, "resolve_device", lambda name: "cuda")
    monkeypatch.setattr(device_worker, "DeviceWorker", lambda *args, **how: asked.append((args, how)))
    make_worker(config.registration, config.fusion, motion=config.pairing.motion, options=config.worker)
    ((args, how),) = asked
    assert args == (config.registration, config.fusion)
    assert (how["device"], how["motion"]) == ("cuda", "causal")
