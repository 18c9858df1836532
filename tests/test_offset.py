"""The time offset between two streams, on worlds whose every moment is known, and on real clips."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from heapq import merge
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from streamfuse.batch import clip_config
from streamfuse.capture import SOURCES
from streamfuse.capture.reader import FrameReader
from streamfuse.cli import main
from streamfuse.clock import NS_PER_MS, NS_PER_S, RealClock
from streamfuse.config import parse_config
from streamfuse.errors import ConfigError
from streamfuse.frame import Frame, Image8, Stream
from streamfuse.inputs import Job
from streamfuse.pairing.correlation import Block, LagCorrelator, lag_axis
from streamfuse.pairing.offset import OffsetMeasurement, OffsetStatus, measure_offset
from streamfuse.pairing.offset_tracker import CONFIRM, CONFIRM_FAR, SLEW, OffsetTracker
from streamfuse.pipeline import Pipeline
from streamfuse.pipeline.offset import LiveOffset, measure_recording

WIDTH, HEIGHT = 128, 96
CLIPS = {"0111_1716": 30.0, "1230_1202": 22.0}


class World:
    """Warm blobs that walk to and fro before a wall; seen in the infrared bright, in the visible light or
    dark.

    Positions are analytic, so a picture of any moment can be made.
    """

    def __init__(self, seed: int = 1, *, movers: int = 7) -> None:
        rng = np.random.default_rng(seed)
        self._start = rng.uniform((10, 10), (WIDTH - 10, HEIGHT - 10), (movers, 2))
        self._reach = rng.uniform(8, 30, (movers, 2))
        self._hz = rng.uniform(0.15, 0.6, (movers, 2))
        self._phase = rng.uniform(0, 6.28, (movers, 2))
        self._size = rng.uniform(3, 6, movers)
        self._light = rng.choice([-70.0, 70.0], movers)
        self._wall = {s: cv2.GaussianBlur(rng.normal(0, 90, (HEIGHT, WIDTH)), (0, 0), 2) + 120 for s in "iv"}
        self._noise = np.random.default_rng(seed + 100)

    def picture(self, stream: Stream, t_s: float) -> Image8:
        x, y = np.arange(WIDTH), np.arange(HEIGHT)
        image = self._wall[stream[0]].copy()
        places = self._start + self._reach * np.sin(2 * np.pi * self._hz * t_s + self._phase)
        for (px, py), size, light in zip(places, self._size, self._light, strict=True):
            across, down = np.exp(-0.5 * ((x - px) / size) ** 2), np.exp(-0.5 * ((y - py) / size) ** 2)
            image += np.outer(down, across * (90.0 if stream == "ir" else light))
        image += self._noise.normal(0, 1.5, image.shape)
        grey = np.clip(image, 0, 255).astype(np.uint8)
        return grey if stream == "ir" else np.repeat(grey[..., None], 3, axis=2)

    def frames(
        self,
        stream: Stream,
        *,
        fps: float,
        seconds: float,
        late_s: float = 0.0,
        drift: float = 0.0,
        jitter_s: float = 0.0,
        phase_s: float = 0.0,
        repeats: int = 1,
        epoch: int = 0,
    ) -> Iterator[Frame]:
        """Frames whose stamps are `late_s + drift * t` later than the moments they show."""
        for i in range(int(seconds * fps)):
            t = i / fps + phase_s
            image = self.picture(stream, t)
            stamp = t * (1 + drift) + late_s + self._noise.normal(0, jitter_s)
            for again in range(repeats):
                yield frame(stream, i, image, stamp + again / fps / repeats, epoch=epoch, duplicate=again > 0)


def frame(stream: Stream, seq: int, image: Image8, t_s: float, **more: Any) -> Frame:
    t = round(t_s * NS_PER_S)
    return Frame(stream=stream, image=image, seq=seq, t_capture=t, t_arrival=t, **more)


def measure(ir: Iterable[Frame], vis: Iterable[Frame], *, max_lag_s: float = 1.5) -> OffsetMeasurement:
    correlator = LagCorrelator(max_lag_s=max_lag_s)
    blocks = []
    for each in merge(ir, vis, key=lambda f: f.t_capture):
        correlator.add(each)
        blocks += correlator.blocks()
    return measure_offset(blocks + correlator.blocks(ended=True), correlator.lags)


def offset_of(measured: OffsetMeasurement) -> float:
    assert measured.overall.status is OffsetStatus.OK, measured.overall.reason
    assert measured.overall.offset_s is not None
    return measured.overall.offset_s


# --- Worlds with truth --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ir_fps", "vis_fps", "late_ms"),
    [(30, 30, 0), (30, 30, -16.7), (30, 30, 10), (8.7, 30, 50), (8.7, 30, -233), (25, 30, 7), (25, 30, 700)],
)
def test_a_known_offset_is_found_at_any_rate_and_fraction(
    ir_fps: float, vis_fps: float, late_ms: float
) -> None:
    world = World()
    measured = measure(
        world.frames("ir", fps=ir_fps, seconds=8, phase_s=0.013),
        world.frames("vis", fps=vis_fps, seconds=8, late_s=late_ms / 1000),
    )
    error = abs(offset_of(measured) - late_ms / 1000)
    assert error < 0.1 / ir_fps
    assert measured.overall.uncertainty_s is not None
    assert error < 4 * measured.overall.uncertainty_s < 1 / ir_fps


def test_jitter_and_repeated_pictures_do_not_move_it() -> None:
    world = World(2)
    measured = measure(
        world.frames("ir", fps=9, seconds=8, repeats=3, jitter_s=0.003),
        world.frames("vis", fps=30, seconds=8, late_s=0.045, jitter_s=0.004),
    )
    assert offset_of(measured) == pytest.approx(0.045, abs=0.006)


def test_drift_is_followed_over_a_long_recording_and_not_told_of_a_short_one() -> None:
    world = World(3)
    long = measure(
        world.frames("ir", fps=12, seconds=64),
        world.frames("vis", fps=12, seconds=64, late_s=0.1, drift=1e-3),
    )
    assert long.drift == pytest.approx(1e-3, abs=2e-4)
    assert long.drift_uncertainty is not None
    assert abs(long.drift - 1e-3) < 4 * long.drift_uncertainty
    for t_s in (5, 32, 60):
        found = long.at(t_s * NS_PER_S)
        assert found is not None
        assert found / NS_PER_S == pytest.approx(0.1 + 1e-3 * np.clip(t_s, 12, 52), abs=0.01)
    short = measure(world.frames("ir", fps=12, seconds=6), world.frames("vis", fps=12, seconds=6, late_s=0.1))
    assert short.drift is None
    assert "too short" in short.drift_reason


def test_a_search_that_is_too_narrow_gives_no_number() -> None:
    world = World()
    streams = (
        list(world.frames("ir", fps=15, seconds=10)),
        list(world.frames("vis", fps=15, seconds=10, late_s=2.2)),
    )
    assert measure(*streams).overall.offset_s is None
    assert offset_of(measure(*streams, max_lag_s=3)) == pytest.approx(2.2, abs=0.01)


def breathing(stream: Stream, world: World) -> Iterator[Frame]:
    """A still scene whose codec repaints its texture at every key frame, in both streams at once."""
    still = world.picture(stream, 0)
    for i in range(200):
        repainted = cv2.GaussianBlur(still, (0, 0), 0.6 + 0.1 * (i % 12 == 0))
        yield frame(stream, i, np.asarray(repainted, np.uint8), i / 25)


def noisy(stream: Stream, world: World) -> Iterator[Frame]:
    rng = np.random.default_rng(len(stream))
    still = world.picture(stream, 0).astype(np.float32)
    for i in range(200):
        image = still + rng.normal(0, 4, still.shape)
        yield frame(stream, i, np.clip(image, 0, 255).astype(np.uint8), i / 25)


def frozen(stream: Stream, world: World) -> Iterator[Frame]:
    image = world.picture(stream, 0)
    return (frame(stream, i, image, i / 25) for i in range(200))


def write_frozen(path: Path) -> Path:
    """Five seconds of one picture."""
    image = World().picture("vis", 0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(125):
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture.pts = i
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("still", [frozen, noisy, breathing])
def test_where_nothing_moves_there_is_no_number(still: Callable[[Stream, World], Iterator[Frame]]) -> None:
    measured = measure(still("ir", World()), still("vis", World()))
    assert measured.overall.status is OffsetStatus.UNOBSERVABLE
    assert measured.overall.offset_s is None
    assert measured.at(0) is None
    one_moves = measure(World().frames("ir", fps=25, seconds=8), still("vis", World()))
    assert one_moves.overall.offset_s is None


@pytest.mark.parametrize("seed", range(11, 17))
def test_streams_of_different_worlds_have_no_offset(seed: int) -> None:
    ir, vis = World(seed).frames("ir", fps=15, seconds=8), World(seed + 50).frames("vis", fps=15, seconds=8)
    measured = measure(ir, vis)
    assert measured.overall.status is OffsetStatus.AMBIGUOUS, measured.overall
    assert measured.overall.offset_s is None


def test_streams_too_short_or_apart_say_so() -> None:
    world = World()
    alone = measure(world.frames("ir", fps=25, seconds=3), ())
    assert alone.overall.status is OffsetStatus.UNOBSERVABLE
    assert "both streams" in alone.overall.reason
    brief = measure(world.frames("ir", fps=25, seconds=2), world.frames("vis", fps=25, seconds=2))
    assert brief.overall.status is OffsetStatus.UNOBSERVABLE
    assert "3 are needed" in brief.overall.reason


# --- Real clips ---------------------------------------------------------------------------------------


def clip(path: Path, stream: Stream) -> list[Frame]:
    options = SOURCES.load("file").Options(path=path)
    source = SOURCES.load("file")(options, clock=RealClock())
    reader = FrameReader(source, stream=stream, options=options, kind="file", clock=RealClock())
    reader.open()
    frames = list(iter(reader.read, None))
    reader.close()
    return frames


def restamped(frames: Iterable[Frame], stream: Stream, fps: float) -> list[Frame]:
    """The same pictures as another stream's, one after the other at a rate."""

    def as_stream(image: Image8) -> Image8:
        if stream == "ir":
            return image if image.ndim == 2 else np.ascontiguousarray(image[..., 1])
        return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)

    return [
        replace(f, stream=stream, image=as_stream(f.image), seq=i, t_capture=round(i / fps * NS_PER_S))
        for i, f in enumerate(frames)
    ]


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("folder", ["infrared", "visible"])
def test_copies_of_a_real_clip(shared_data: Path, name: str, folder: str) -> None:
    fps = CLIPS[name]
    frames = clip(shared_data / "data/m2vd" / folder / f"{name}.mp4", "vis")
    seven = measure(restamped(frames[7:], "ir", fps), restamped(frames[:-7], "vis", fps))
    assert offset_of(seven) * fps == pytest.approx(7, abs=0.15)
    # Odd against even frames: of those, each visible picture shows half a period more than its stamp says.
    half = measure(restamped(frames[::2], "ir", fps / 2), restamped(frames[1::2], "vis", fps / 2))
    assert offset_of(half) * fps / 2 == pytest.approx(-0.5, abs=0.15)


@pytest.mark.parametrize(("name", "frames_late"), [("0111_1716", 0.7), ("1230_1202", 0.6)])
def test_real_pairs(shared_data: Path, tmp_path: Path, name: str, frames_late: float) -> None:
    root, out = shared_data / "data/m2vd", tmp_path / "offset.json"
    paths = [str(root / folder / f"{name}.mp4") for folder in ("infrared", "visible")]
    assert main(["offset", *paths, "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["status"] == "ok"
    assert found["offset_ms"] * CLIPS[name] / 1000 == pytest.approx(frames_late, abs=0.2)
    assert found["uncertainty_ms"] > 0
    told = [block["offset_ms"] for block in found["blocks"] if block["offset_ms"] is not None]
    assert len(told) >= 3
    if name == "0111_1716":
        assert told[-1] > told[0], "it moves from about 0.5 to about 1.1 frames over the clip"
        assert found["drift_ppm"] is None
        assert "too short" in found["drift_reason"]


def test_real_clips_of_different_scenes(shared_data: Path) -> None:
    root = shared_data / "data/m2vd"
    ir, vis = clip(root / "infrared/0111_1716.mp4", "ir"), clip(root / "visible/1230_1202.mp4", "vis")
    found = measure(ir, vis)
    assert found.overall.status is OffsetStatus.AMBIGUOUS
    assert found.overall.offset_s is None


def test_a_frozen_clip_is_a_failure_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_frozen(tmp_path / "frozen.mkv")
    assert main(["offset", str(path), str(path), "--json", str(tmp_path / "offset.json")]) == 1
    assert json.loads((tmp_path / "offset.json").read_text())["offset_ms"] is None
    assert "unobservable" in capsys.readouterr().out


def test_mistakes_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["offset", "nowhere.mp4", "neither.mp4"]) == 2
    assert "nowhere.mp4" in capsys.readouterr().err
    assert main(["offset", "a.mp4", "b.mp4", "--max-lag", "0.1"]) == 2
    assert "0.5 to 60" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("seed", [12, 14])
def test_rendered_streets(seed: int, tmp_path: Path) -> None:
    """`pytest -m slow -k rendered_streets`: both cameras in one place, so that parallax says nothing."""
    values = [
        f"scene.seed={seed}", "scene.people=10", "rig.vis_width=320", "rig.vis_height=240",
        "rig.ir_width=160", "rig.ir_height=120", "rig.baseline_m=[0, 0]", "rig.shift_px=[3, -2]",
        "code.enabled=false", "timing.vis_fps=25", "timing.offset_ms=90", "timing.ir_phase_ms=13",
        "duration_s=8", f"start_s={seed}",
    ]  # fmt: skip
    settings = [part for value in values for part in ("--set", value)]
    assert main(["synth", "-o", str(tmp_path), "--no-truth", *settings]) == 0
    tree = clip_config(Job(name="street", ir=str(tmp_path / "ir.mkv"), vis=str(tmp_path / "vis.mkv")), {})
    assert offset_of(measure_recording(parse_config(tree)).measurement) == pytest.approx(0.09, abs=0.02)


# --- In use -------------------------------------------------------------------------------------------

LAGS = lag_axis(1.5)


def block(t_s: float, offset_s: float, *, active: bool = True, height: float = 0.6) -> Block:
    hill = height * np.exp(-0.5 * ((LAGS - offset_s) / 0.08) ** 2)
    return Block(t_s=t_s, correlation=hill.astype(np.float32), active=active, period_s=0.04)


def feed(tracker: OffsetTracker, offsets_s: Iterable[float], *, start: int = 0) -> int:
    """Add a block a second; returns the second after the last one."""
    for i, offset_s in enumerate(offsets_s):
        tracker.add(block(start + i, offset_s + 0.002 * (-1) ** i))
        start_next = start + i + 1
    return start_next


def test_an_offset_comes_into_use_once_it_is_confirmed_and_then_slowly() -> None:
    tracker = OffsetTracker(LAGS)
    feed(tracker, [0.1] * (3 + CONFIRM - 2))
    assert tracker.estimate.status is OffsetStatus.OK
    assert tracker.target_ns is None
    assert tracker.at(0) is None
    feed(tracker, [0.1], start=10)
    assert tracker.target_ns == pytest.approx(0.1 * NS_PER_S, abs=3 * NS_PER_MS)
    used = [tracker.at(round(i * NS_PER_S / 25)) for i in range(50)]
    steps = np.diff(np.array(used, np.float64))
    assert used[-1] == tracker.target_ns
    assert steps.max() <= SLEW * NS_PER_S / 25 + 1
    assert steps.min() >= 0


def test_small_differences_are_left_alone_and_far_ones_need_more_to_say_so() -> None:
    tracker = OffsetTracker(LAGS)
    at = feed(tracker, [0.1] * 20)
    target = tracker.target_ns
    at = feed(tracker, [0.1005] * 20, start=at)
    assert tracker.target_ns == target
    at = feed(tracker, [0.4] * 20, start=at)
    assert tracker.target_ns == target, "the window agrees on the new one only now"
    feed(tracker, [0.4] * (CONFIRM_FAR + 1), start=at)
    assert tracker.target_ns == pytest.approx(0.4 * NS_PER_S, abs=3 * NS_PER_MS)


def test_what_was_in_use_stays_where_nothing_moves_and_after_a_camera_came_back() -> None:
    tracker = OffsetTracker(LAGS)
    at = feed(tracker, [0.1] * 10)
    target = tracker.target_ns
    for t in range(at, at + 400):
        tracker.add(block(t, 0.7, active=False))
    assert tracker.target_ns == target
    assert tracker.estimate.status is OffsetStatus.UNOBSERVABLE
    tracker.restart()
    feed(tracker, [-0.3] * 3, start=500)
    assert tracker.target_ns == target


def test_a_run_measures_on_a_thread_of_its_own_and_begins_again_with_a_new_epoch() -> None:
    told: list[Any] = []
    world = World(4)
    live = LiveOffset(None, tell=told.append)
    live.start()

    def show(late_s: float, *, epoch: int, at_s: float) -> None:
        streams = (
            world.frames("ir", fps=10, seconds=12, late_s=at_s, epoch=epoch),
            world.frames("vis", fps=25, seconds=12, late_s=at_s + late_s),
        )
        for each in merge(*streams, key=lambda f: f.t_capture):
            while live.waiting > 30:
                RealClock().sleep_ns(NS_PER_MS)
            live.observe(each)
        while live.waiting:
            RealClock().sleep_ns(NS_PER_MS)

    show(0.06, epoch=0, at_s=0)
    live.at(0)
    assert live.at(5 * NS_PER_S) == pytest.approx(60 * NS_PER_MS, abs=8 * NS_PER_MS)
    count = len(told)
    assert told[-1].active >= 8
    show(0.06, epoch=1, at_s=20)
    assert told[count].active <= 2, "what was seen before the break says nothing about what comes"
    live.stop()


def test_a_recorded_run_uses_what_it_measured_beforehand() -> None:
    world = World(5)

    def pictures(stream: Stream, **how: float) -> list[tuple[float, Image8]]:
        return [(f.t_capture / NS_PER_S, f.image) for f in world.frames(stream, fps=20, seconds=6, **how)]

    tree = {
        "sources": {"ir": {"kind": "python"}, "vis": {"kind": "python"}},
        "registration": {"model": "none"},
        "fusion": {"model": "max"},
        "pairing": {"offset_ms": "auto"},
    }
    streams = {"ir": pictures("ir"), "vis": pictures("vis", late_s=0.175)}
    pipeline = Pipeline.from_config(tree, **streams)
    fused = list(pipeline)
    truth_ms = 175.0
    paired = [f for f in fused if f.pair.ir is not None]
    assert len(paired) > 100
    assert all(f.pair.offset_source == "auto" for f in paired[1:])
    assert all(f.pair.offset_ns / NS_PER_MS == pytest.approx(truth_ms, abs=5) for f in paired)
    assert np.median([abs(f.pair.dt_ns) for f in paired]) < 26 * NS_PER_MS
    said = pipeline.report().offset
    assert said["status"] == "ok"
    assert said["source"] == "auto"
    assert said["in_use_ms"] == pytest.approx(truth_ms, abs=5)
    assert said["uncertainty_ms"] < 10

    still = {stream: [(t, frames[0][1]) for t, _ in frames] for stream, frames in streams.items()}
    pipeline = Pipeline.from_config(tree, **still)
    assert {f.pair.offset_source for f in pipeline} == {"config"}
    report = pipeline.report()
    assert report.offset["status"] == "unobservable"
    assert report.offset["estimate_ms"] is None
    assert any("unobservable" in note for note in report.notes)

    pipeline = Pipeline.from_config(tree, ir=iter(streams["ir"]), vis=streams["vis"])
    with pytest.raises(ConfigError, match=r"sources\.ir: measuring the offset reads the pictures beforehand"):
        pipeline.run()
