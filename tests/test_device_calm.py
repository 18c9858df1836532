"""What fusers on the device remember of each rig, held against the CPU's on device `cpu`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from device_rigs import CALIBRATIONS, Clip, film, in_turns, pairs, soft, tensor, through
from torch import Tensor

from streamfuse.clock import NS_PER_S
from streamfuse.config import Component, WorkerOptions
from streamfuse.device.build import Parts
from streamfuse.device.calm import FusedBefore
from streamfuse.device.live import LiveFuser, PeopleFuser
from streamfuse.device.memory import Rows
from streamfuse.device.share import DeviceShare
from streamfuse.device.worker import DeviceWorker
from streamfuse.frame import FramePair, FusedFrame, Image8, Mask, Rung, Status
from streamfuse.fusion import FUSERS, colour, live, people
from streamfuse.fusion.calm import Calm
from streamfuse.fusion.decisions import DecisionOptions, Decisions
from streamfuse.nn.live_fusion import LiveFusion, shares
from streamfuse.nn.models import load_model
from streamfuse.registration import REGISTRARS
from streamfuse.registration.temporal import Event
from streamfuse.worker import FrameWorker, Worker

LIVE = Component("live", REGISTRARS.load("live").Options(precision="float32"))
NONE = Component("none", REGISTRARS.load("none").Options())
FUSIONS = {
    kind: Component(kind, FUSERS.load(kind).Options(precision="float32")) for kind in ("live", "people")
}
OPTIONS = WorkerOptions(device="cpu")
CUT = 5
"""The frame at which `cut_film` shows another scene."""


@pytest.fixture(scope="module")
def cut_film() -> Clip:
    """Some frames, and the same upside down."""
    clip = film(frames=CUT)
    ir, vis = (
        [*shown, *(np.ascontiguousarray(image[::-1]) for image in shown)] for shown in (clip.ir, clip.vis)
    )
    return Clip(ir, vis)


def on_device(fusion: Component, share: DeviceShare | None = None, **how: Any) -> DeviceWorker:
    chosen = {"registration": NONE, "calibration": CALIBRATIONS["homography"](1), "options": OPTIONS, **how}
    return DeviceWorker(fusion=fusion, device="cpu", share=share, **chosen)


def lumas(frames: list[FusedFrame]) -> list[Any]:
    return [colour.luma(frame.image).astype(int) for frame in frames]


# -- the parts -------------------------------------------------------------------------------------


def test_pictures_are_calmed_to_the_grey_level() -> None:
    """All pairs of levels, one after the other, and back; a rig begins anew meanwhile, another does not."""
    levels = np.arange(256, dtype=np.uint8)
    now, before = (np.ascontiguousarray(grid) for grid in np.meshgrid(levels, levels))
    cpu, past = [Calm(), Calm()], FusedBefore.fresh(2, now.shape, device="cpu")
    for i, picture in enumerate((before, now, now, before, now)):
        if i == 3:
            cpu[1].reset()
            past = past.where(torch.tensor([True, False]), FusedBefore.fresh(2, now.shape, device="cpu"))
        found = past.calm(tensor(picture).repeat(2, 1, 1, 1))
        for one, other in zip(cpu, found, strict=True):
            np.testing.assert_array_equal(other[0].numpy(), one(picture.copy()))


@pytest.mark.parametrize(("kind", "follow"), [(LiveFuser, live.FOLLOW), (PeopleFuser, people.FOLLOW)])
def test_decisions_are_followed_as_slowly_as_on_the_cpu(
    rng: np.random.Generator, kind: type[LiveFuser], follow: float
) -> None:
    """Another scene from the fourth frame on, which the CPU decides on, and uses from the fifth one on."""
    shape = (123, 157)
    scenes = [[soft(rng, (124, 160))[:123, :157] for _ in range(2)] for _ in range(2)]
    network = load_model(LiveFusion.NAME)
    assert isinstance(network, LiveFusion)
    device = kind(network, shape, device=torch.device("cpu"))
    cpu, past = Decisions(DecisionOptions(precision="float32"), follow=follow, device="cpu"), device.fresh(1)
    everywhere = torch.ones(1, 1, *shape, dtype=torch.bool)
    wanted, found = [], []
    for i in range(9):
        ir, vis = scenes[i >= 3]
        wanted.append(cpu.look(np.ascontiguousarray(ir), np.ascontiguousarray(vis)))
        with torch.inference_mode():
            device(tensor(ir), tensor(vis), everywhere, past)
        found.append(shares(past.followed)[0].numpy())
    assert np.abs(wanted[-1] - wanted[0]).max() > 0.5
    for one, other in zip(wanted[1:], found[:-1], strict=True):
        np.testing.assert_allclose(other, one, atol=2e-3)


# -- the pictures ----------------------------------------------------------------------------------


def at_once(follow: Callable[..., Any]) -> Callable[..., Any]:
    """The CPU's way to follow, of decisions made for each frame before it is shown, as on the device."""

    def decided_now(self: Decisions, means: Any, gradients: Any) -> Any:
        self._decided = self._under_way = None
        return follow(self, means, gradients)

    return decided_now


@pytest.mark.parametrize("registration", [LIVE, NONE], ids=["live", "none"])
@pytest.mark.parametrize("kind", FUSIONS)
def test_a_film_is_that_of_the_cpu_worker(
    monkeypatch: pytest.MonkeyPatch, cut_film: Clip, kind: str, registration: Component
) -> None:
    """As near as `laplacian` alone comes (see test_device_motion): equally bright or active sources decide
    about single pixels. From a cut on nothing of the past is left."""
    monkeypatch.setattr(Decisions, "_follow", at_once(Decisions._follow))
    how: dict[str, Any] = {"registration": registration}
    calibration = CALIBRATIONS["homography"](1)
    some = list(pairs(cut_film))
    cpu = through(Worker(registration, FUSIONS[kind], calibration=calibration, options=OPTIONS), some)
    device = through(on_device(FUSIONS[kind], **how), some)
    for one, other in zip(cpu, device, strict=True):
        assert other.status is one.status
        difference = np.abs(one.image.astype(int) - other.image)
        assert difference.mean() < 0.2
        assert np.percentile(difference, 99) <= 4
    if registration is LIVE:
        assert device[CUT].registration.events == (Event.SCENE_CUT_VIS,)
    for one, other in zip(device[CUT:], through(on_device(FUSIONS[kind], **how), some[CUT:]), strict=True):
        np.testing.assert_array_equal(other.image, one.image)


@pytest.mark.parametrize("kind", FUSIONS)
def test_a_film_flickers_no_more_than_on_the_cpu(kind: str) -> None:
    """With the CPU's decisions at every second frame, as it makes them. Uncalmed the film would change by a
    tenth or more, `people`, or by a fifth, `live`, from frame to frame."""
    some = list(pairs(film(frames=9)))
    calibration = CALIBRATIONS["homography"](1)
    cpu = lumas(through(Worker(NONE, FUSIONS[kind], calibration=calibration, options=OPTIONS), some))
    device = lumas(through(on_device(FUSIONS[kind]), some))
    changes = [np.mean(np.abs(np.diff(done, axis=0))) for done in (cpu, device)]
    assert changes[1] == pytest.approx(changes[0], rel=0.03)
    for one, other in zip(cpu, device, strict=True):
        assert np.abs(one - other).mean() < 0.5


@pytest.mark.parametrize("kind", FUSIONS)
def test_rigs_that_go_together_do_not_mix_their_pasts(cut_film: Clip, kind: str) -> None:
    """The second rig sees what the first one does two frames later, the cut as well."""
    films = [list(pairs(Clip(cut_film.ir[i : i + 8], cut_film.vis[i : i + 8]))) for i in (0, 2)]
    share = DeviceShare(2)
    together = in_turns([on_device(FUSIONS[kind], share) for _ in films], films)
    assert share.batches[2] >= 3
    for batched, film_of_it in zip(together, films, strict=True):
        for one, other in zip(through(on_device(FUSIONS[kind]), film_of_it), batched, strict=True):
            assert (one.image != other.image).mean() < 1e-2


# -- whose it is, and for how long -----------------------------------------------------------------


class Counting:
    """A fuser on the CPU whose picture tells how many it made since it was reset."""

    def __init__(self) -> None:
        self._made = 0

    def reset(self) -> None:
        self._made = 0

    def fuse(self, ir: Image8, vis: Image8, *, valid: Mask | None = None) -> Image8:
        self._made += 1
        return np.full_like(vis, 10 * self._made)


@dataclass(slots=True)
class Made(Rows):
    """Pictures of each rig, (B,)."""

    count: Tensor


class DeviceCounting:
    """The same for the device."""

    def fresh(self, count: int) -> Made:
        return Made(torch.zeros(count))

    def __call__(self, ir: Tensor, vis: Tensor, valid: Tensor, past: Made) -> Tensor:
        past.count = past.count + 1
        return torch.zeros_like(vis) + 10 * past.count.view(-1, 1, 1, 1)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Parts, "_device_fuser", lambda self, shape: DeviceCounting())


def counts(frames: list[FusedFrame]) -> list[int]:
    """How many pictures each frame says were made; 0: it shows the visible one."""
    told = []
    for frame in frames:
        inside = colour.luma(frame.image)[frame.valid > 0]
        shown = frame.status is not Status.OFF and inside.size > 0
        told.append(round(float(np.median(inside)) / 10) if shown else 0)
    return told


class Script:
    """Frames one after the other, each with its rung."""

    def __init__(self) -> None:
        self.frames: list[tuple[FramePair, Rung]] = []

    def add(
        self,
        *some: FramePair,
        rung: Rung = Rung.FULL,
        epoch: int = 0,
        seen: bool = True,
        after_s: float = 0.4,
    ) -> None:
        """seen: by the infrared camera. after_s: after the frame before."""
        for pair in some:
            before_ns = self.frames[-1][0].t_capture if self.frames else 0
            stamps: dict[str, Any] = {"t_capture": before_ns + round(after_s * NS_PER_S)}
            assert pair.ir is not None
            ir = replace(pair.ir, **stamps) if seen else None
            vis = replace(pair.vis, epoch=epoch, **stamps)
            self.frames.append((replace(pair, vis=vis, ir=ir, reason="" if seen else "shutter"), rung))

    def through(self, worker: FrameWorker) -> list[FusedFrame]:
        done: list[FusedFrame] = []
        for seq, (pair, rung) in enumerate(self.frames):
            done += worker.submit(pair, seq=seq, dropped={}, rung=rung, rung_reason="")
        return done + worker.drain()


def trouble(cut_film: Clip) -> tuple[Script, list[int]]:
    """A covered lens without a calibration to fall back on: what is not shown is not remembered."""
    script, (first, second, third, *_) = Script(), pairs(cut_film)
    assert first.ir is not None
    covered = replace(first, ir=replace(first.ir, image=np.full_like(first.ir.image, 90)))
    script.add(covered, first, second, covered)
    script.add(covered)  # the last field is too old by now
    script.add(third)
    script.add(first, rung=Rung.REUSE)
    script.add(second, rung=Rung.REFINE)  # too old again
    script.add(third, rung=Rung.CALIBRATION)  # of which there is none
    return script, [0, 1, 2, 3, 0, 1, 2, 1, 0]


def breaks(cut_film: Clip) -> tuple[Script, list[int]]:
    """What is passed through is not remembered, and ends nothing; whatever else happens here does."""
    script, some = Script(), list(pairs(cut_film))
    script.add(*some[:2])
    script.add(some[2], rung=Rung.PASS_THROUGH, after_s=0.1)
    script.add(some[2], seen=False, after_s=0.1)
    script.add(some[2], after_s=0.1)
    script.add(*some[CUT : CUT + 2])
    script.add(*(replace(some[CUT + 2 + i], vis=some[i].vis) for i in range(2)))  # a cut in the visible alone
    script.add(*some[3:5])
    script.add(*some[3:5], epoch=1)
    script.add(some[3], epoch=1, after_s=1.5)
    return script, [1, 2, 0, 0, 3, 1, 2, 1, 2, 1, 2, 1, 2, 1]


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize(("registration", "played"), [(LIVE, trouble), (NONE, breaks)])
def test_a_fuser_forgets_when_that_of_the_cpu_does(
    cut_film: Clip, registration: Component, played: Callable[[Clip], tuple[Script, list[int]]]
) -> None:
    script, wanted = played(cut_film)
    options = WorkerOptions(device="cpu", hold_s=0.5, min_confidence=0.4)
    cpu = Worker(registration, FUSIONS["people"], options=options)
    cpu._fuser = Counting()
    device = on_device(FUSIONS["people"], registration=registration, calibration=None, options=options)
    done = [script.through(worker) for worker in (cpu, device)]
    assert [frame.status for frame in done[1]] == [frame.status for frame in done[0]]
    assert [counts(frames) for frames in done] == [wanted, wanted]


@pytest.mark.usefixtures("counting")
def test_nothing_is_remembered_of_single_pictures_and_other_sizes(cut_film: Clip) -> None:
    some = list(pairs(cut_film))[:CUT]
    small = [replace(pair, vis=replace(pair.vis, image=pair.vis.image[::2, ::2].copy())) for pair in some]
    for temporal, wanted in ((True, [1, 2, 1, 2, 1]), (False, [1] * 5)):
        options = WorkerOptions(device="cpu", temporal=temporal)
        worker = on_device(FUSIONS["people"], calibration=None, options=options)
        assert counts(through(worker, [*some[:2], *small[2:4], some[4]])) == wanted
