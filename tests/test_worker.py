"""One pair after the other: what is used when a field is not trusted, and what the result looks like."""

from typing import Any

import numpy as np
import pytest

from streamfuse.calibration.calibration import RigCalibration
from streamfuse.clock import NS_PER_MS, VirtualClock
from streamfuse.config import Component, WorkerOptions
from streamfuse.errors import ConfigError
from streamfuse.frame import Frame, FramePair, Image8, Registration, Rung, Status
from streamfuse.fusion.maximum import MaximumFuser
from streamfuse.registration.none import NoneRegistrar
from streamfuse.worker import Worker

GOOD = Registration(status=Status.OK, confidence=0.9, matrix=np.array([[1, 0, 2.0], [0, 1, 0], [0, 0, 1]]))
BAD = Registration(status=Status.OK, confidence=0.05, matrix=np.eye(3) * [[9], [9], [1]])
OFF = Registration(status=Status.OFF, confidence=0.0, matrix=np.eye(3), reason="blank")


class Script:
    """A registrar that says what it is told to at each visible picture, and remembers the priors."""

    def __init__(self, *answers: Registration) -> None:
        self.answers = list(answers)
        self.priors: list[Registration | None] = []
        self._vis: Image8 | None = None
        self._answer = -1

    def register(self, ir: Image8, vis: Image8, *, valid: Any = None, prior: Any = None) -> Registration:
        self.priors.append(prior)
        if vis is not self._vis:
            self._vis, self._answer = vis, self._answer + 1
        return self.answers[self._answer]


class Prepared(Script):
    """Gets ready when asked to."""

    def __init__(self, *answers: Registration) -> None:
        super().__init__(*answers)
        self.prepared: list[tuple[tuple[int, int], str]] = []

    def prepare(self, shape: tuple[int, int], *, backend: str) -> str:
        self.prepared.append((shape, backend))
        return "openvino"


def make_worker(script: Script | None = None, **options: Any) -> Worker:
    calibration = options.pop("calibration", None)
    worker = Worker(
        Component("none", NoneRegistrar.Options()),
        Component("max", MaximumFuser.Options()),
        calibration=calibration,
        options=WorkerOptions(device="cpu", **options),
        clock=VirtualClock(),
    )
    if script is not None:
        worker._registrar = script
    return worker


def pair(
    t_ms: float = 0, *, ir: bool = True, epoch: int = 0, ir_size: tuple[int, int] = (64, 48)
) -> FramePair:
    rng = np.random.default_rng(2)
    stamps = {"seq": round(t_ms), "t_capture": round(t_ms * NS_PER_MS), "t_arrival": 0}
    vis = Frame(stream="vis", image=rng.integers(0, 120, (48, 64, 3)).astype(np.uint8), **stamps)
    heat = rng.integers(0, 255, (ir_size[1], ir_size[0])).astype(np.uint8)
    infrared = Frame(stream="ir", image=heat, epoch=epoch, **stamps)
    return FramePair(
        vis=vis, ir=infrared if ir else None, driver="vis", reason="" if ir else "no infrared yet"
    )


def test_without_infrared_the_visible_picture_comes_out() -> None:
    frame = make_worker().process(pair(ir=False))
    assert frame.status is Status.OFF
    assert frame.reason == "no infrared yet"
    np.testing.assert_array_equal(frame.image, frame.visible)
    assert not frame.valid.any()


def test_outside_the_overlap_the_result_is_the_visible_picture() -> None:
    frame = make_worker(Script(GOOD)).process(pair())
    uncovered = frame.valid == 0
    assert uncovered[:, -2:].all()
    np.testing.assert_array_equal(frame.image[uncovered], frame.visible[uncovered])
    assert (frame.image[~uncovered] != frame.visible[~uncovered]).any()


def test_smaller_infrared_is_brought_to_the_visible_size() -> None:
    frame = make_worker().process(pair(ir_size=(32, 24)))
    assert frame.registered_ir.shape == (48, 64)
    assert frame.image.shape == (48, 64, 3)


def test_ladder_of_trust() -> None:
    worker = make_worker(Script(GOOD, BAD, OFF, OFF), hold_s=0.1)
    statuses = [worker.process(pair(t)) for t in (0, 50, 90, 200)]
    assert [frame.status for frame in statuses] == [Status.OK, Status.HELD, Status.HELD, Status.OFF]
    assert "confidence 0.05" in statuses[1].reason
    np.testing.assert_array_equal(statuses[1].registration.matrix, GOOD.matrix)
    np.testing.assert_array_equal(statuses[3].image, statuses[3].visible)


def test_with_a_rig_calibration_it_stands_in() -> None:
    rig = RigCalibration.identity(ir_size=(64, 48), vis_size=(64, 48))
    frame = make_worker(Script(OFF), calibration=rig).process(pair())
    assert frame.status is Status.CALIBRATION
    assert frame.reason == "blank"
    assert frame.extra["calibration"]["vis_size"] == [64, 48]
    assert (frame.image != frame.visible).any()


def test_the_prior_is_the_last_good_field_and_not_beyond_a_break() -> None:
    script = Script(GOOD, GOOD, BAD, GOOD, GOOD, GOOD)
    worker = make_worker(script)
    for t, epoch in ((0, 0), (40, 0), (80, 0), (120, 0), (160, 1), (5000, 1)):
        worker.process(pair(t, epoch=epoch))
    starts = [None if prior is None else prior.matrix[0, 2] for prior in script.priors]
    assert starts == [None, 2, 2, None, 2, None, None]  # the third frame: warm, then cold


def test_a_rung_is_told_and_kept_to() -> None:
    rig = RigCalibration.identity(ir_size=(64, 48), vis_size=(64, 48))
    worker = make_worker(Script(GOOD, GOOD), calibration=rig)
    worker.process(pair(0))
    expected = {
        Rung.REUSE: (Status.HELD, GOOD.matrix),
        Rung.CALIBRATION: (Status.CALIBRATION, np.eye(3)),
        Rung.PASS_THROUGH: (Status.OFF, np.eye(3)),
        Rung.REFINE: (Status.OK, GOOD.matrix),
    }
    for index, (rung, (status, matrix)) in enumerate(expected.items()):
        frame = worker.process(pair(40 * (index + 1)), rung=rung, rung_reason="slow")
        assert (frame.rung, frame.status, frame.extra["rung_reason"]) == (rung, status, "slow")
        np.testing.assert_array_equal(frame.registration.matrix, matrix)
        assert (frame.image == frame.visible).all() == (rung is Rung.PASS_THROUGH)
        assert frame.reason or status is Status.OK
        assert ("register" in frame.latencies_ns) == (rung is Rung.REFINE)
        assert ("fuse" in frame.latencies_ns) == (rung is not Rung.PASS_THROUGH)


def test_with_no_field_to_reuse_the_calibration_stands_in_and_without_one_nothing() -> None:
    rig = RigCalibration.identity(ir_size=(64, 48), vis_size=(64, 48))
    assert make_worker(calibration=rig).process(pair(), rung=Rung.REUSE).status is Status.CALIBRATION
    bare = make_worker(Script()).process(pair(), rung=Rung.REUSE)
    assert (bare.rung, bare.status) == (Rung.REUSE, Status.OFF)
    np.testing.assert_array_equal(bare.image, bare.visible)


def test_independent_pictures_have_no_past() -> None:
    script = Script(GOOD, GOOD, OFF)
    worker = make_worker(script, temporal=False)
    frames = [worker.process(pair(t)) for t in (0, 40, 80)]
    assert script.priors == [None, None, None]
    assert frames[2].status is Status.OFF


def test_a_cuda_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="cuda:63"):
        Worker(
            Component("none", NoneRegistrar.Options()),
            Component("max", MaximumFuser.Options()),
            options=WorkerOptions(device="cuda:63"),
        )


def test_what_a_model_does_beforehand_is_done_for_the_visible_size() -> None:
    script = Prepared(GOOD)
    worker = make_worker(script)
    assert worker.prepare(ir_size=(32, 24), vis_size=(64, 48)) == "openvino"
    assert script.prepared == [((48, 64), "auto")]
    assert script.priors == []
