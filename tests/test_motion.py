"""Infrared brought to the visible time: a disc whose motion is known, rendered streets, a real clip."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from streamfuse.calibration.calibration import Intrinsics, RigCalibration
from streamfuse.cli import main
from streamfuse.clock import NS_PER_MS, VirtualClock
from streamfuse.config import Component, WorkerOptions
from streamfuse.evaluation.motion import compare_motion
from streamfuse.flow import compose, matrix_flow, resample
from streamfuse.frame import Frame, FramePair, FusedFrame, Image8, Registration, Status
from streamfuse.fusion.average import AverageFuser
from streamfuse.pairing.matcher import Matcher
from streamfuse.pairing.options import MotionMode, PairingOptions
from streamfuse.pipeline import Pipeline
from streamfuse.registration.none import NoneRegistrar
from streamfuse.synth.clip import ClipOptions
from streamfuse.synth.writer import write_clip
from streamfuse.warp import warp_infrared
from streamfuse.worker import Worker

SHAPE = (240, 320)
PERIOD_MS = 100 / 3
SPEED = 3.0
"""Pixels a visible frame."""


def backdrop(seed: int, low: int, high: int) -> Image8:
    """Smooth texture, the same every time."""
    coarse = np.random.default_rng(seed).integers(low, high, (30, 40)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, SHAPE[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


def with_disc(ground: Image8, x: float, *, seed: int, low: int, high: int) -> Image8:
    """A textured disc of 28 px radius at column x, to a fraction of a pixel."""
    texture = np.random.default_rng(seed).integers(low, high, (14, 14)).astype(np.uint8)
    patch = cv2.resize(texture, (80, 80), interpolation=cv2.INTER_CUBIC)
    mask = np.zeros((80, 80), np.float32)
    cv2.circle(mask, (40, 40), 28, 1.0, -1, cv2.LINE_AA)
    move = np.array([[1, 0, x - 40], [0, 1, 80.0]])
    over = cv2.warpAffine(patch, move, SHAPE[::-1]).astype(np.float32)
    alpha = cv2.warpAffine(mask, move, SHAPE[::-1])
    return np.asarray(ground * (1 - alpha) + over * alpha, np.uint8)


def heat(x: float) -> Image8:
    return with_disc(backdrop(1, 40, 70), x, seed=2, low=150, high=250)


def light(x: float) -> Image8:
    return with_disc(backdrop(3, 90, 220), x, seed=4, low=0, high=160)


def film(stream: Any, index: int, image: Image8, *, t_ms: float | None = None, epoch: int = 0) -> Frame:
    t = round((index * PERIOD_MS if t_ms is None else t_ms) * NS_PER_MS)
    colour = np.repeat(image[..., None], 3, axis=2) if stream == "vis" else image
    return Frame(stream=stream, image=colour, seq=index, t_capture=t, t_arrival=t, epoch=epoch)


def worker(motion: MotionMode, **options: Any) -> Worker:
    return Worker(
        Component("none", NoneRegistrar.Options()),
        Component("average", AverageFuser.Options()),
        motion=motion,
        options=WorkerOptions(device="cpu", **options),
        clock=VirtualClock(),
    )


def at(index: int) -> float:
    """Column of the disc."""
    return 60 + SPEED * index


def play(
    motion: MotionMode,
    *,
    frames: int = 12,
    every: int = 3,
    where: Any = at,
    seen: Any = None,
    ir_late_ms: float = 0,
    epoch_at: int = 10**6,
    **options: Any,
) -> list[FusedFrame]:
    """Visible frames at 30 Hz, each with the last infrared frame, one in `every`, offline."""
    fuse = worker(motion, **options)
    matcher = Matcher(PairingOptions(driver="vis", motion=motion), live=False, default_driver="vis")
    made = []
    for index in range(frames):
        epoch = int(index >= epoch_at)
        if index % every == 0:
            t_ms = index * PERIOD_MS + ir_late_ms
            matcher.push(film("ir", index, heat(where(t_ms / PERIOD_MS)), t_ms=t_ms, epoch=epoch))
        visible = light(where(index)) if seen is None else seen(index)
        matcher.push(film("vis", index, visible))
    for pair in matcher.flush():
        made.append(fuse.process(pair))
    return made


def error(frame: FusedFrame, index: int, *, where: Any = at) -> float:
    """Against the true infrared, mean grey levels around the disc."""
    column = round(where(index))
    around = np.s_[80:160, max(0, column - 60) : column + 60]
    return float(np.abs(frame.registered_ir[around].astype(int) - heat(where(index))[around]).mean())


@pytest.mark.parametrize("mode", ["causal", "interpolate"])
def test_a_mover_is_shown_where_it_is_not_where_it_was(mode: MotionMode) -> None:
    held, moved = play("off"), play(mode)
    for index in (7, 8, 10, 11)[: 4 if mode == "causal" else 2]:
        assert error(held[index], index) > 8
        assert error(moved[index], index) < 0.35 * error(held[index], index)
        motion = moved[index].extra["motion"]
        assert motion["mode"] == mode
        assert 0 < motion["share"] < 0.5
        assert moved[index].pair.held, "the frame still says that its infrared was used before"
    if mode == "causal":
        assert moved[8].extra["motion"]["over_ns"] == abs(moved[8].pair.dt_ns)


def test_what_stands_still_is_not_touched() -> None:
    held, moved = play("off"), play("causal")
    for index in (7, 8, 10, 11):
        still = np.ones(SHAPE, bool)
        still[60:180, : round(at(index)) + 80] = False
        np.testing.assert_array_equal(moved[index].registered_ir[still], held[index].registered_ir[still])


def test_simultaneous_frames_are_left_alone() -> None:
    for frame in play("causal", every=1):
        assert "motion" not in frame.extra
        assert frame.registered_ir is frame.pair.ir.image  # type: ignore[union-attr]


@pytest.mark.parametrize("late_ms", [-12.0, 12.0])
def test_a_part_of_a_frame_is_bridged_both_ways(late_ms: float) -> None:
    held, moved = (play(mode, every=1, ir_late_ms=late_ms) for mode in ("off", "causal"))
    for index in (6, 7, 8, 9):
        assert np.sign(moved[index].pair.dt_ns) == np.sign(late_ms)
        assert error(moved[index], index) < 0.7 * error(held[index], index)


def flicker(index: int) -> Image8:
    """Smoke: a visible picture that moves by itself and says nothing."""
    return np.roll(backdrop(5, 150, 220), 5 * index, axis=1)


def test_a_visible_picture_that_says_nothing_does_no_harm() -> None:
    held, moved = play("off", seen=flicker), play("causal", seen=flicker)
    for index in (7, 8, 10, 11):
        assert error(moved[index], index) < 0.5 * error(held[index], index), (
            "the infrared's own motion serves"
        )
        far = np.s_[:60]
        np.testing.assert_array_equal(moved[index].registered_ir[far], held[index].registered_ir[far])


def test_where_nothing_moves_smoke_moves_nothing() -> None:
    for frame in play("causal", where=lambda index: 60.0, seen=flicker):
        assert "motion" not in frame.extra


def test_motion_that_the_last_interval_refutes_is_not_used() -> None:
    # The infrared disc stands, the visible one walks: what was seen is no prediction of the infrared.
    for frame in play("causal", where=lambda index: 60.0, seen=lambda index: light(at(index))):
        assert "motion" not in frame.extra


def test_after_a_break_nothing_is_carried_over() -> None:
    frames = play("causal", frames=18, epoch_at=9)
    assert "motion" in frames[8].extra
    assert not any("motion" in frame.extra for frame in frames[9:12])
    assert "motion" in frames[17].extra


def test_pairs_that_stand_alone_are_not_moved() -> None:
    assert not any("motion" in frame.extra for frame in play("causal", temporal=False))


def test_beyond_the_limit_the_infrared_is_only_held() -> None:
    fuse = worker("causal")
    made = [fuse.process(pair_of(index, index - index % 3)) for index in range(15)]
    assert "motion" in made[14].extra
    assert "motion" not in fuse.process(pair_of(20, 12)).extra, "267 ms"


def pair_of(vis: int, ir: int) -> FramePair:
    frames = film("vis", vis, light(at(vis))), film("ir", ir, heat(at(ir)))
    return FramePair(
        vis=frames[0], ir=frames[1], driver="vis", dt_ns=frames[1].t_capture - frames[0].t_capture
    )


# -- the warp --------------------------------------------------------------------------------------

SMOOTH = cv2.GaussianBlur(np.random.default_rng(5).normal(0, 60, (*SHAPE, 2)).astype(np.float32), (0, 0), 12)
LENS = Intrinsics(fx=300, fy=300, cx=159, cy=121, distortion=(-0.2, 0.05, 0.0, 0.0))


@pytest.mark.parametrize("lens", [None, LENS])
@pytest.mark.parametrize("kind", ["identity", "matrix", "flow"])
def test_motion_joins_the_one_warp(kind: str, lens: Intrinsics | None) -> None:
    rig = RigCalibration(
        ir_size=(160, 120),
        vis_size=(320, 240),
        homography=((0.5, 0.01, 2.0), (0.0, 0.5, -1.0), (0.0, 0.0, 1.0)),
        ir_intrinsics=lens,
    )
    ir = cv2.resize(heat(100), (160, 120), interpolation=cv2.INTER_AREA)
    matrix = {"identity": np.eye(3), "matrix": np.array([[1.01, 0.02, 3.0], [-0.01, 1, -2], [0, 0, 1]])}.get(
        kind
    )
    flow = SMOOTH if matrix is None else None
    found = Registration(status=Status.OK, confidence=1.0, matrix=matrix, flow=flow)
    motion = resample(SMOOTH[::-1].copy(), (120, 160))
    residual = SMOOTH if matrix is None else matrix_flow(matrix, SHAPE)
    whole = Registration(status=Status.OK, confidence=1.0, flow=compose(residual, resample(motion, SHAPE)))
    expected, valid = warp_infrared(ir, whole, rig, SHAPE)
    got, got_valid = warp_infrared(ir, found, rig, SHAPE, motion=motion)
    # (A residual pulled beyond the picture's edge is replicated by `compose`, a matrix goes on.)
    inner = np.s_[16:-16, 16:-16]
    difference = np.abs(got[inner].astype(int) - expected[inner])
    assert difference.max() <= 3
    assert np.mean(difference > 1) < 0.001
    assert np.mean(got_valid[inner] != valid[inner]) < 0.001


# -- pairing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("budget_ms", "after"), [(None, 3), (10, None)])
def test_live_interpolation_waits_for_the_later_neighbour_within_the_budget(
    budget_ms: float | None, after: int | None
) -> None:
    matcher = Matcher(PairingOptions(driver="vis", motion="interpolate"), live=True, default_driver="vis")
    matcher.wait_budget_ns = None if budget_ms is None else round(budget_ms * NS_PER_MS)
    blank = np.zeros((8, 8), np.uint8)
    pairs: list[FramePair] = []
    for index in range(60):
        now = round(index * PERIOD_MS * NS_PER_MS)
        if index % 3 == 0:
            matcher.push(film("ir", index, blank))
        matcher.push(film("vis", index, blank))
        pairs += matcher.poll(now)
        pairs += matcher.poll(now + 20 * NS_PER_MS)
    late = [pair for pair in pairs if pair.vis.seq % 3 == 1 and pair.vis.seq > 30]
    assert late
    for pair in late:
        assert pair.ir is not None
        assert pair.ir.seq == pair.vis.seq - 1
        assert (pair.ir_after and pair.ir_after.seq - pair.ir.seq) == after


# -- rendered and real clips -----------------------------------------------------------------------


def street(folder: Path, **scene: Any) -> tuple[str, str]:
    """A street at 30 fps from a tripod, both cameras seeing the same, lossless; people walk by."""
    still = {"pan_deg": 0, "tilt_deg": 0, "roll_deg": 0, "sway_m": 0}
    options = ClipOptions.model_validate(
        {
            "duration_s": 1.6,
            "start_s": 10.4,
            "vis_codec": "ffv1",
            "ir_codec": "ffv1",
            "truth": False,
            "scene": {"people": 12, "motion": still, **scene},
            "rig": {
                "shift_px": (0, 0),
                "roll_deg": 0,
                "elastic_px": 0,
                "baseline_m": (0, 0),
                "fov_ratio": 1,
            },
            "timing": {"vis_fps": 30, "ir_fps": 30},
            "code": {"enabled": False},
        }
    )
    vis, ir, _ = write_clip(folder, options)
    return str(ir), str(vis)


@pytest.mark.parametrize(
    ("scene", "causal"),
    [
        ({"seed": 4, "light": "night"}, 0.6),
        pytest.param({"seed": 7, "smoke": {"density": 0.9, "ramp_s": 0.1}}, 0.7, marks=pytest.mark.slow),
        pytest.param({"seed": 3}, 0.7, marks=pytest.mark.slow),
    ],
)
def test_rendered_street_at_10_hz(tmp_path: Path, scene: dict[str, Any], causal: float) -> None:
    result = compare_motion(*street(tmp_path, **scene))
    assert result.frames >= 30
    assert result.methods["causal"].inside_ratio < causal
    assert result.methods["causal"].outside_ratio < 1.005
    assert result.methods["interpolate"].inside_ratio < 0.45
    assert result.methods["hold"].compensated == 0


def test_real_clip_at_10_hz_by_the_command(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = [shared_data / "data" / "m2vd" / kind / "0111_1716.mp4" for kind in ("infrared", "visible")]
    report = tmp_path / "motion.json"
    words = ["eval", "motion", *clips, "--end", "2.5", "--json", report]
    assert main([str(word) for word in words]) == 0
    assert "50 frames judged" in capsys.readouterr().out
    methods = json.loads(report.read_text())["methods"]
    assert methods["causal"]["inside_ratio"] < 0.7
    assert methods["causal"]["outside_ratio"] < 1.01
    assert methods["interpolate"]["inside_ratio"] < 0.5


def test_an_infrared_that_is_not_thinned_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "motion", "a.mkv", "b.mkv", "--every", "1"]) == 2
    assert "--every 1: must be 2 or more" in capsys.readouterr().err


def test_a_10_hz_core_under_30_hz_video_through_the_pipeline(tmp_path: Path) -> None:
    still = {"pan_deg": 0, "tilt_deg": 0, "roll_deg": 0, "sway_m": 0}
    common: dict[str, Any] = {
        "kind": "synthetic",
        "duration_s": 1.0,
        "start_s": 10.4,
        "scene": {"seed": 4, "light": "night", "people": 12, "motion": still},
        "rig": {"vis_width": 320, "vis_height": 240, "ir_width": 160, "ir_height": 120},
        "timing": {"vis_fps": 30, "ir_fps": 10},
    }
    log = tmp_path / "frames.jsonl"
    tree = {
        "sources": {"ir": {**common, "stream": "ir"}, "vis": {**common, "stream": "vis"}},
        "pairing": {"driver": "vis"},
        "worker": {"device": "cpu"},
        "sinks": [{"kind": "frame-log", "path": str(log)}],
    }
    pipeline = Pipeline.from_config(tree)
    with pipeline:
        frames = list(pipeline)
    report = pipeline.report()
    assert report.frames_out == report.frames_in["vis"] == 30, "the output has the visible rate"
    assert report.held == 20
    moved = [frame for frame in frames if "motion" in frame.extra]
    assert report.compensated == len(moved) >= 8
    assert all(frame.pair.held for frame in moved)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["motion"] for line in lines] == [frame.extra.get("motion") for frame in frames]
    spans = {Fraction(frame.extra["motion"]["over_ns"], NS_PER_MS) for frame in moved}
    assert {round(span) for span in spans} <= {33, 67}
