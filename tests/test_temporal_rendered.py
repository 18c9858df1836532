"""Registration in time on rendered streets, through the worker, for every registrar that keeps time."""

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from streamfuse.clock import NS_PER_S, RealClock
from streamfuse.config import Component, WorkerOptions
from streamfuse.evaluation.warm import measure
from streamfuse.evaluation.warm_footage import Added, Footage, field_at, places, rendered_footage
from streamfuse.evaluation.warm_report import figures, reliability_lines
from streamfuse.flow import to_flow
from streamfuse.frame import Frame, FramePair, FusedFrame, Image8, Registration, Status
from streamfuse.fusion.maximum import MaximumFuser
from streamfuse.metrics.temporal import displacement_jitter
from streamfuse.pipeline.statistics import Statistics
from streamfuse.registration import REGISTRARS
from streamfuse.registration.blocks import BlocksOptions
from streamfuse.registration.options import TemporalOptions
from streamfuse.registration.registrar import search
from streamfuse.registration.temporal import TemporalRegistration, identity
from streamfuse.synth.options import MotionOptions, RigOptions, SceneOptions
from streamfuse.synth.scene import Scene
from streamfuse.worker import Worker

FRAMES = 8
RIG = RigOptions(vis_width=320, vis_height=240, ir_width=320, ir_height=240, film="luma", elastic_px=0.5)
STILL = MotionOptions(pan_deg=0, tilt_deg=0, roll_deg=0, sway_m=0)


@pytest.fixture(scope="module")
def cut() -> tuple[list[FramePair], np.ndarray]:
    """A street, then the same upside down, as another rig might see another scene, and its true field."""
    scene = Scene(SceneOptions(seed=61, people=3, cars=1, motion=STILL), RIG)
    pictures = [
        (scene.infrared_view(scene.render_infrared(n / 15)), scene.render_visible(n / 15))
        for n in range(FRAMES)
    ]
    pictures += [tuple(np.ascontiguousarray(image[::-1, ::-1]) for image in both) for both in pictures]
    found = []
    for number, (ir, vis) in enumerate(pictures):
        stamps = {"seq": number, "t_capture": number * NS_PER_S // 15, "t_arrival": 0}
        frames = {name: Frame(stream=name, image=im, **stamps) for name, im in (("ir", ir), ("vis", vis))}
        found.append(FramePair(**frames, driver="vis"))
    return found, -scene.displacement(0.0)[::-1, ::-1]


def run(kind: str, footage: list[FramePair], **options: object) -> Iterator[FusedFrame]:
    registrar = REGISTRARS.load(kind)
    worker = Worker(
        Component(kind, registrar.Options()),
        Component("max", MaximumFuser.Options()),
        options=WorkerOptions(device="cpu", **options),
        clock=RealClock(),
    )
    for pair in footage:
        yield worker.process(pair)


@pytest.mark.parametrize("kind", ["blocks", "ecc", pytest.param("live", marks=pytest.mark.slow)])
def test_warm_steady_and_cold_right_after_the_cut(kind: str, cut: tuple[list[FramePair], np.ndarray]) -> None:
    footage, truth = cut
    frames, statistics = list(run(kind, footage)), Statistics()
    for number, frame in enumerate(frames):
        statistics.frame_out(frame, now_ns=number)
        assert frame.status is Status.OK, (number, frame.reason)
    assert [frame.warm for frame in frames] == [n not in (0, FRAMES) for n in range(2 * FRAMES)]
    assert "scene cut" in frames[FRAMES].reason
    report = statistics.report().registration
    assert {name: report[name] for name in ("cold_first", "cold_scene_cut_vis")} == {
        "cold_first": 1,
        "cold_scene_cut_vis": 1,
    }
    fields = [to_flow(frame.registration, (240, 320)) for frame in frames]
    cold = [to_flow(frame.registration, (240, 320)) for frame in run(kind, footage[:FRAMES], temporal=False)]
    assert displacement_jitter(fields[3:FRAMES]) <= 0.5 * displacement_jitter(cold[3:])
    error = np.linalg.norm(fields[-1] - truth, axis=-1)[20:-20, 20:-20].mean()
    unregistered = np.linalg.norm(truth, axis=-1)[20:-20, 20:-20].mean()
    assert error < 0.4 * unregistered


def test_a_growing_deformation_is_undone_exactly() -> None:
    """The measuring stick itself: undoing a deformed picture gives the picture back."""
    rng = np.random.default_rng(4)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (240, 320)).astype(np.uint8), (0, 0), 4)
    added = Added((240, 320), seed=2, drifting=True, frames=50)
    for number in (0, 13, 49):
        moved, _ = added.deformed(picture, number)
        undone = added.undone(number)
        grid = np.stack(np.meshgrid(np.arange(320), np.arange(240)), axis=-1).astype(np.float32)
        back = cv2.remap(moved, grid + undone, None, cv2.INTER_LINEAR)
        inner = np.s_[30:-30, 30:-30]
        assert np.abs(back.astype(float) - picture)[inner].mean() < 1.0
        assert np.abs(moved.astype(float) - picture)[inner].mean() > 4.0


class Blind:
    """A registrar that is sure there is nothing to do."""

    def register(self, ir: Image8, vis: Image8, **_: object) -> Registration:
        return identity(Status.OK, "", confidence=0.9)


@pytest.mark.parametrize("kind", ["blocks", "blind"])
def test_obscured_frames_are_judged_by_what_was_added(kind: str) -> None:
    """A clip whose second half is fog: the field found before holds there, unless there was none."""
    rng = np.random.default_rng(8)
    scene = cv2.GaussianBlur(rng.integers(0, 256, (240, 320)).astype(np.uint8), (0, 0), 3)
    scene = np.asarray(cv2.normalize(scene, None, 0, 255, cv2.NORM_MINMAX), np.uint8)
    fogs = [np.clip(rng.normal(150, 2, scene.shape), 0, 255).astype(np.uint8) for _ in range(5)]
    footage = Footage(name="fog", pairs=[(scene, scene)] * 5 + [(scene, fog) for fog in fogs])
    registrar = REGISTRARS.load(kind)(BlocksOptions(), device="cpu") if kind == "blocks" else Blind()
    report = measure(footage, registrar, seed=1)
    if kind == "blind":
        assert np.allclose(report.same_frame, report.unregistered, atol=1e-3)
        return
    assert report.obscured.tolist() == [False] * 5 + [True] * 5
    shown = {figure.name.strip(): figure for figure in figures(report)}
    assert shown["the worst frame of that, px"].passed
    assert shown["the worst frame of that, px"].value == max(report.same_frame[5:])
    assert min(report.cold.errors[5:]) > 5


@pytest.mark.slow
def test_bounds_on_rendered_truth() -> None:
    """Minutes; the same on clips: `streamfuse warm IR VIS`."""
    kind = REGISTRARS.load("blocks")
    footage: list[Footage] = [rendered_footage(seed, frames=45) for seed in (41, 42)]
    reports = [
        measure(clip, kind(kind.Options()), seed=1, drifting=drifting)
        for clip in footage
        for drifting in (False, True)
    ]
    missed = [str(figure) for report in reports for figure in figures(report) if not figure.passed]
    lines, _ = reliability_lines(reports)
    print("\n".join(lines))
    assert not missed


def test_what_was_seen_is_kept_while_smoke_hides_it() -> None:
    """Smoke drifts in and at last hides the whole street: the field stays that of a clear day."""
    street = rendered_footage(43, frames=1)
    (ir, vis), (truth, holds) = street.pairs[0], street.truth[0]
    rng = np.random.default_rng(5)
    kind = REGISTRARS.load("live")
    registrar = kind(kind.Options(), device="cpu")
    state = TemporalRegistration(TemporalOptions(), calibrated=False)
    errors, statuses = [], []
    for number, hidden in enumerate([0] * 4 + list(range(0, 641, 40)) + [640] * 6):
        seen = vis.copy()
        cloud = cv2.resize(rng.normal(150, 20, (6, 8)), (640, 480), interpolation=cv2.INTER_CUBIC)
        cloud = np.clip(cloud + rng.normal(0, 1, vis.shape), 0, 255)
        seen[:, :hidden] = cloud[:, :hidden]
        t_ns = number * NS_PER_S // 25
        state.look(ir, seen, t_ns=t_ns, epochs=(0, 0))
        used = state.register(
            ir,
            seen,
            lambda prior, v=seen: registrar.register(ir, v, prior=prior),
            lambda v=seen: search(registrar, ir, v),
            t_ns=t_ns,
        )
        apart = np.linalg.norm(field_at(used, places(street.shape)) - truth, axis=-1)
        errors.append(float(apart[holds].mean()))
        statuses.append(used.status)
    assert (statuses[3], statuses[-1]) == (Status.OK, Status.HELD)
    assert max(errors[4:]) < errors[3] + 0.3
