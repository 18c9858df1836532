"""Registration in time: guards, filter, trust. Invented sequences, no pictures that need matching."""

from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from streamfuse.clock import NS_PER_MS
from streamfuse.flow import matrix_flow
from streamfuse.frame import Image8, Registration, Rung, Status
from streamfuse.metrics.temporal import displacement_jitter
from streamfuse.registration.comparison import explains_better, likeness
from streamfuse.registration.field_filter import FieldFilter, displacements, mixed
from streamfuse.registration.options import TemporalOptions
from streamfuse.registration.scene_watch import SceneWatch
from streamfuse.registration.temporal import Event, TemporalRegistration

SHAPE = (480, 640)


def field(dx: float, dy: float = 0.0, *, confidence: float = 0.9, flow: bool = False) -> Registration:
    matrix = np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1.0]])
    if flow:
        return Registration(status=Status.OK, confidence=confidence, flow=matrix_flow(matrix, SHAPE))
    return Registration(status=Status.OK, confidence=confidence, matrix=matrix)


def shift(registration: Registration) -> float:
    return float(displacements(registration, SHAPE)[:, 0].mean())


def texture(seed: int, size: tuple[int, int] = SHAPE) -> Image8:
    """A picture with structure of several sizes; another seed, another scene."""
    rng = np.random.default_rng(seed)
    image = np.zeros(size, np.float32)
    for sigma in (4, 12):
        noise = cv2.GaussianBlur(rng.standard_normal(size).astype(np.float32), (0, 0), sigma)
        image += 30 * noise / noise.std()
    return np.clip(image + 128, 0, 255).astype(np.uint8)


class Rig:
    """A temporal registration whose frames are told what the registrar finds, cold and warm.

    pieces: that a key frame's search takes. warms: the registrar can start from a prior.
    """

    def __init__(
        self, *, calibrated: bool = False, pieces: int = 1, warms: bool = True, **options: object
    ) -> None:
        self.state = TemporalRegistration(TemporalOptions(**options), calibrated=calibrated)
        self.t_ms = 0.0
        self.pieces, self.warms = pieces, warms
        self.runs: list[str] = []
        self.ir, self.vis = texture(1), texture(2)

    def frame(
        self,
        cold: Registration,
        warm: Registration | None = None,
        *,
        step_ms: float = 40,
        epochs: tuple[int, int] = (0, 0),
        rung: Rung = Rung.FULL,
        vis: Image8 | None = None,
        ir: Image8 | None = None,
    ) -> Registration:
        def run(prior: Registration | None) -> Registration:
            self.runs.append("cold" if prior is None else "warm")
            return cold if prior is None else replace(warm or cold, warm=self.warms)

        def search() -> Iterator[Registration | None]:
            for _ in range(self.pieces - 1):
                self.runs.append("piece")
                yield None
            self.runs.append("piece")
            yield cold

        self.runs.clear()
        self.t_ms += step_ms
        t_ns = round(self.t_ms * NS_PER_MS)
        ir, vis = self.ir if ir is None else ir, self.vis if vis is None else vis
        self.state.look(ir, vis, t_ns=t_ns, epochs=epochs)
        return self.state.register(ir, vis, run, search, t_ns=t_ns, rung=rung)


# --- the filter -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", [False, True], ids=["matrix", "flow"])
def test_jitter_of_a_still_rig_goes_and_a_step_is_followed(rng: np.random.Generator, flow: bool) -> None:
    noise = rng.normal(0, 0.4, (60, 2))
    steps = np.where(np.arange(60) < 40, 0.0, 4.0)
    held, kept = FieldFilter(), []
    raw = [field(dx + s, dy, flow=flow) for (dx, dy), s in zip(noise, steps, strict=True)]
    for found in raw:
        held.update(found, SHAPE)
        kept.append(displacements(held.field, SHAPE)[None])
    before = displacement_jitter([displacements(found, SHAPE)[None] for found in raw[:40]])
    assert displacement_jitter(kept[:40]) < 0.25 * before
    followed = [float(points[0, :, 0].mean()) for points in kept[40:]]
    assert followed[4] > 0.9 * 4


def test_a_slow_drift_is_followed_closely(rng: np.random.Generator) -> None:
    held = FieldFilter()
    for frame in range(100):
        held.update(field(0.05 * frame + rng.normal(0, 0.2)), SHAPE)
    assert shift(held.field) == pytest.approx(0.05 * 99, abs=0.5)


def test_one_wild_field_changes_nothing_two_alike_do() -> None:
    held = FieldFilter()
    held.update(field(0), SHAPE)
    assert held.update(field(30), SHAPE) == "withheld"
    assert held.update(field(0.1), SHAPE) == "followed"
    assert shift(held.field) < 0.2
    assert held.update(field(30), SHAPE) == "withheld"
    assert held.update(field(-20), SHAPE) == "withheld"
    assert held.update(field(-20.3), SHAPE) == "jumped"
    assert shift(held.field) == pytest.approx(-20.3, abs=0.1)


def test_what_moves_faster_than_it_is_seen_twice_is_believed_in_the_end() -> None:
    held = FieldFilter()
    verdicts = [held.update(field(30.0 * frame * (-1) ** frame), SHAPE) for frame in range(8)]
    assert "jumped" in verdicts


def test_doubtful_fields_weigh_less() -> None:
    sure, unsure = FieldFilter(), FieldFilter()
    for held, confidence in ((sure, 1.0), (unsure, 0.2)):
        for _ in range(20):
            held.update(field(0), SHAPE)
        held.update(field(0.9, confidence=confidence), SHAPE)
    assert shift(unsure.field) < 0.5 * shift(sure.field)


def test_mixing_keeps_the_form() -> None:
    turn = np.vstack([cv2.getRotationMatrix2D((320, 240), 2, 1.02), [0, 0, 1]])
    a, b = field(3), Registration(status=Status.OK, confidence=0.5, matrix=turn)
    as_flows = [replace(r, matrix=None, flow=matrix_flow(r.matrix, SHAPE)) for r in (a, b)]
    half, half_flow = mixed(a, b, 0.5), mixed(*as_flows, 0.5)
    assert half.matrix is not None
    np.testing.assert_allclose(matrix_flow(half.matrix, SHAPE), half_flow.flow, atol=1e-3)


# --- the guards -------------------------------------------------------------------------------------------


def test_a_scene_goes_on_under_gain_noise_and_somebody_walking(rng: np.random.Generator) -> None:
    scene, watch = texture(5), SceneWatch()
    assert not watch.cut(scene)
    for frame in range(40):
        gain, offset = (1, 0) if frame % 10 else (0.4, 90)  # the gain control jumps
        picture = scene * gain + offset + rng.normal(0, 8, SHAPE)
        picture[100:, 15 * frame : 15 * frame + 120] = 220
        assert not watch.cut(np.clip(picture, 0, 255).astype(np.uint8)), frame
    assert not watch.cut(np.clip(255 - scene, 0, 255))  # polarity


def test_another_scene_is_a_cut_also_behind_a_covered_lens() -> None:
    dark = np.full(SHAPE, 7, np.uint8)
    for between in ([], [dark, dark]):
        watch = SceneWatch()
        assert not any(watch.cut(picture) for picture in (texture(5), *between, texture(5)))
        assert [watch.cut(picture) for picture in (*between, texture(6))][-1]
        assert not watch.cut(texture(6))


@pytest.mark.parametrize(
    ("what", "event"),
    [
        ({"step_ms": 1500}, Event.TIME_GAP),
        ({"epochs": (1, 0)}, Event.EPOCH),
        ({"epochs": (0, 1)}, Event.EPOCH),
        ({"ir": texture(7)}, Event.SCENE_CUT_IR),
        ({"vis": texture(7), "ir": texture(8)}, Event.SCENE_CUT_VIS),
    ],
)
def test_after_a_break_the_very_next_frame_is_cold(what: dict, event: Event) -> None:
    rig = Rig()
    first = rig.frame(field(5))
    assert (rig.runs, first.events) == (["cold"], (Event.FIRST,))
    for _ in range(5):
        assert rig.frame(field(5)).events == ()
        assert rig.runs == ["warm"]
    broken = rig.frame(field(-9), **what)
    assert rig.runs == ["cold"]
    assert broken.events == (event,)
    assert "cold start" in broken.reason
    assert shift(broken) == pytest.approx(-9)


def test_a_cut_in_the_visible_alone_is_looked_into_and_costs_no_field() -> None:
    """The infrared goes on: smoke, or a knock at the visible camera. A search may overrule."""
    rig = Rig()
    for _ in range(3):
        rig.frame(field(5))
    covered = rig.frame(field(-30), field(5, confidence=0.2), vis=texture(7))
    assert rig.runs == ["cold", "warm"]
    assert (covered.status, covered.events) == (Status.HELD, (Event.SCENE_CUT_VIS,))
    assert shift(covered) == pytest.approx(5)
    again = rig.frame(field(-30), field(5, confidence=0.2), vis=texture(8))
    assert (rig.runs, again.status) == (["warm"], Status.HELD)  # tried again later, not in every frame
    knocked = cv2.warpAffine(rig.ir, field(20).matrix[:2], (640, 480), borderMode=cv2.BORDER_REFLECT_101)
    for _ in range(2):
        rig.frame(field(5), field(5), vis=texture(9))
    found = rig.frame(field(-20), field(5), vis=knocked)
    assert found.events == (Event.SCENE_CUT_VIS, Event.OVERRULED)
    assert shift(found) == pytest.approx(-20)


def test_chance_does_not_overrule(rng: np.random.Generator) -> None:
    """Pictures with nothing in common: no field explains them clearly better than another."""
    fields = [field(dx) for dx in (-9, 0, 9)]
    for seed in range(6):
        ir, vis = texture(20 + seed), texture(40 + seed)
        assert not any(explains_better(ir, vis, one, other) for one in fields for other in fields)
    scene = texture(3)
    ir = cv2.warpAffine(scene, field(6).matrix[:2], (640, 480), borderMode=cv2.BORDER_REFLECT_101)
    assert explains_better(ir, scene, field(6), field(3))
    assert not explains_better(ir, scene, field(3), field(6))


def test_a_key_frame_is_searched_beside_the_frames_after_it_and_agreement_changes_nothing() -> None:
    rig = Rig(key_interval=5, pieces=3)
    frames = [(rig.frame(field(5.5), field(5)), tuple(rig.runs)) for _ in range(13)]
    warm, piece = ("warm",), ("warm", "piece")
    period = [piece, piece, piece, warm, warm]
    assert [runs for _, runs in frames] == [("cold",), *[warm] * 4, *period, *period[:3]]
    assert [n for n, (found, _) in enumerate(frames) if Event.KEY_FRAME in found.events] == [5, 10]
    assert not any(Event.OVERRULED in found.events for found, _ in frames)
    assert [shift(found) for found, _ in frames[6:]] == pytest.approx([5.0] * 7, abs=0.1)


def shifted(scene: Image8, right: Registration) -> Image8:
    """The picture that pulling by `right` gives `scene` back from."""
    return cv2.warpAffine(scene, right.matrix[:2], (640, 480), borderMode=cv2.BORDER_REFLECT_101)


@pytest.mark.parametrize("pieces", [1, 4])
def test_a_key_frame_overrules_a_wrong_field_and_only_a_wrong_one(pieces: int) -> None:
    scene, right, wrong = texture(3), field(6), field(-6)
    ir = shifted(scene, right)
    for locked, searched in ((wrong, right), (right, wrong)):
        rig = Rig(key_interval=3, pieces=pieces)
        rig.frame(locked, ir=ir, vis=scene)
        for _ in range(2 + pieces):
            before = rig.frame(searched, locked, ir=ir, vis=scene)
            assert shift(before) == pytest.approx(shift(locked))
        # A narrow search refines whatever it is given.
        found = rig.frame(searched, searched if locked is wrong else locked, ir=ir, vis=scene)
        assert shift(found) == pytest.approx(6)
        assert (Event.OVERRULED in found.events) == (locked is wrong)
        assert found.status is Status.OK
        assert found.warm


def test_what_was_searched_before_a_break_overrules_nothing_after_it() -> None:
    scene, right = texture(3), field(6)
    ir = shifted(scene, right)
    rig = Rig(key_interval=2, pieces=3)
    for _ in range(5):
        rig.frame(right, field(-6), ir=ir, vis=scene)
    rig.frame(field(-6), ir=ir, vis=scene, epochs=(1, 0))
    assert rig.runs == ["cold"]
    after = rig.frame(right, field(-6), ir=ir, vis=scene, epochs=(1, 0))
    assert rig.runs == ["warm"]
    assert after.events == ()


def test_a_registrar_that_always_searches_is_not_asked_to_search_again() -> None:
    rig = Rig(key_interval=2, warms=False)
    for _ in range(6):
        assert Event.KEY_FRAME not in rig.frame(field(5)).events
        assert "piece" not in rig.runs


def test_the_better_field_explains_the_pictures_better() -> None:
    scene, right = texture(3), field(6)
    ir = 255 - cv2.warpAffine(scene, right.matrix[:2], (640, 480), borderMode=cv2.BORDER_REFLECT_101)
    candidates = [right, field(4), field(0), field(-8)]
    flows = [replace(c, matrix=None, flow=matrix_flow(c.matrix, SHAPE)) for c in candidates]
    for kind in (candidates, flows):
        scores = likeness(ir, scene, kind)
        assert scores == sorted(scores, reverse=True)
    assert likeness(ir, scene, candidates) == pytest.approx(likeness(ir, scene, flows), abs=0.02)
    blank = np.full(SHAPE, 90, np.uint8)
    assert likeness(blank, scene, candidates) == [0.0] * 4


# --- trust ------------------------------------------------------------------------------------------------


def test_held_then_calibration_or_off_with_a_reason() -> None:
    low = field(50, confidence=0.05)
    for calibrated, last in ((True, Status.CALIBRATION), (False, Status.OFF)):
        rig = Rig(hold_s=0.2, calibrated=calibrated)
        rig.frame(field(5))
        statuses, shifts = [], []
        for _ in range(8):
            found = rig.frame(low)
            statuses.append(found.status)
            shifts.append(shift(found))
            assert found.reason
            assert found.confidence == pytest.approx(0.05)
        assert statuses == [Status.HELD] * 5 + [last] * 3
        assert shifts == pytest.approx([5.0] * 5 + [0.0] * 3)


def test_trust_is_lost_below_one_threshold_and_regained_above_another() -> None:
    rig = Rig(min_confidence=0.3, regain_confidence=0.6)
    confidences = (0.9, 0.4, 0.25, 0.4, 0.5, 0.7, 0.4)
    statuses = [rig.frame(field(5, confidence=c)).status for c in confidences]
    ok, held = Status.OK, Status.HELD
    assert statuses == [ok, ok, held, held, held, ok, ok]


def test_a_lost_warm_field_is_sought_cold_ever_more_rarely() -> None:
    rig = Rig()
    rig.frame(field(5))
    low = field(5, confidence=0.05)
    tries = []
    for frame in range(20):
        rig.frame(low)
        if "cold" in rig.runs:
            tries.append(frame)
    assert tries == [0, 2, 6, 14]
    found = rig.frame(field(5.2), field(5.2))
    assert found.status is Status.OK
    rig.frame(low)
    assert rig.runs == ["warm", "cold"]


def test_a_knock_is_found_cold_and_followed_within_five_frames() -> None:
    rig = Rig()
    for _ in range(10):
        rig.frame(field(5))
    lost = field(9, confidence=0.05)
    found = [rig.frame(field(25), lost if frame < 3 else field(25)) for frame in range(5)]
    assert shift(found[4]) == pytest.approx(25, abs=2)
    assert {f.status for f in found[3:]} == {Status.OK}
    assert any(Event.JUMPED in f.events for f in found)


def test_rungs_spend_no_more_than_they_say() -> None:
    rig = Rig(key_interval=2, calibrated=True)
    assert rig.frame(field(5), rung=Rung.REUSE).status is Status.CALIBRATION
    assert rig.runs == []
    rig.frame(field(5))
    for _ in range(4):
        assert rig.frame(field(5), field(5, confidence=0.1), rung=Rung.REFINE).status is Status.HELD
        assert rig.runs == ["warm"]
    for rung, status, where in (
        (Rung.REUSE, Status.HELD, 5.0),
        (Rung.CALIBRATION, Status.CALIBRATION, 0.0),
        (Rung.PASS_THROUGH, Status.OFF, 0.0),
    ):
        found = rig.frame(field(7), rung=rung)
        assert (rig.runs, found.status, shift(found)) == ([], status, where)
        assert found.reason


def test_without_time_every_frame_is_cold_and_nothing_is_held() -> None:
    rig = Rig(temporal=False)
    for found in (field(5), field(-5), field(5, confidence=0.0)):
        used = rig.frame(found)
        assert rig.runs == ["cold"]
        assert shift(used) == (shift(found) if found.confidence else 0.0)


def test_thresholds_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ValidationError, match="regain_confidence"):
        TemporalOptions(min_confidence=0.7, regain_confidence=0.5)
