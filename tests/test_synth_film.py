"""Rendered film: its clocks, clips on disk, and the renderer as a camera."""

import json
import threading
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from pydantic import ValidationError
from scenes import SCENE

from streamfuse.capture.synthetic import SyntheticOptions, SyntheticSource, world_start_ns
from streamfuse.cli import synth as synth_command
from streamfuse.clock import NS_PER_MS, NS_PER_S, VirtualClock
from streamfuse.errors import ConfigError, SinkError
from streamfuse.frame import DropCause
from streamfuse.synth.clip import ClipOptions, load_clip_options
from streamfuse.synth.code import read_code
from streamfuse.synth.film import Film
from streamfuse.synth.options import (
    CodeOptions,
    RigOptions,
    TimingOptions,
)
from streamfuse.synth.schedule import TIME_BASE, Schedule, schedule
from streamfuse.synth.writer import write_clip

# ---- clocks ------------------------------------------------------------------------------------------


def test_a_perfect_clock_stamps_the_grid() -> None:
    captures = schedule(TimingOptions(vis_fps=25), "vis", 2.0)
    assert [c.number for c in captures] == list(range(50))
    assert [c.pts for c in captures] == [3600 * k for k in range(50)]
    assert not any(c.lost or c.repeat for c in captures)


def test_offset_drift_jitter_and_loss_are_those_of_the_options() -> None:
    options = TimingOptions(
        ir_fps=8.7, offset_ms=40, ir_drift_ppm=200, stamp_jitter_ms=2, exposure_jitter_ms=1, ir_drop=0.05
    )
    captures = schedule(options, "ir", 600.0)
    t_true = np.array([c.t_true for c in captures])
    label = np.array([float(c.pts * TIME_BASE) for c in captures])
    assert len(captures) == pytest.approx(600 * 8.7, abs=2)
    slope, start = np.polyfit(t_true, label, 1)
    assert (slope - 1) * 1e6 == pytest.approx(200, abs=3)
    # Positive offset: the same event is stamped later in the visible, so earlier in the infrared.
    assert start == pytest.approx(-0.040, abs=3e-4)
    assert (label - (slope * t_true + start)).std() == pytest.approx(2e-3, rel=0.1)
    assert (t_true - np.arange(len(t_true)) / 8.7).std() == pytest.approx(1e-3, rel=0.1)
    assert np.mean([c.lost for c in captures]) == pytest.approx(0.05, abs=0.012)
    assert (np.diff([c.pts for c in captures]) > 0).all()
    assert (np.diff(t_true) > 0).all()


def test_wild_jitter_never_reorders_frames() -> None:
    options = TimingOptions(ir_fps=30, stamp_jitter_ms=500, exposure_jitter_ms=500, ir_repeat=3)
    captures = schedule(options, "ir", 20.0)
    assert (np.diff([c.pts for c in captures]) > 0).all()
    assert (np.diff([c.t_sent for c in captures]) > 0).all()


def test_repeats_and_shutter_events_deliver_old_pictures() -> None:
    captures = schedule(TimingOptions(ir_fps=9, ir_repeat=3), "ir", 1.0)
    assert [c.number for c in captures[:7]] == [0, 0, 0, 1, 1, 1, 2]
    assert [c.repeat for c in captures[:6]] == [False, True, True, False, True, True]
    frozen = schedule(TimingOptions(ir_fps=10, ir_freeze_every_s=2.0, ir_freeze_s=0.35), "ir", 5.0)
    assert [c.number for c in frozen[18:26]] == [18, 19, 19, 19, 19, 19, 24, 25]
    assert [c.t_true for c in frozen[20:24]] == [frozen[19].t_true] * 4


def test_any_frame_can_be_looked_up_by_its_number() -> None:
    options = TimingOptions(ir_fps=8.7, ir_phase_ms=13, exposure_jitter_ms=3, stamp_jitter_ms=3)
    all_of_them = schedule(options, "ir", 10.0)
    assert Schedule(options, "ir").capture(40) == all_of_them[40]
    assert all_of_them[0].t_true == pytest.approx(0.013, abs=0.01)
    with pytest.raises(ValueError, match="numbered from 0"):
        Schedule(options, "ir").capture(-1)


# ---- clips -------------------------------------------------------------------------------------------

SMALL = {
    "duration_s": 0.5,
    "scene": {"seed": 3},
    "rig": {"vis_width": 320, "vis_height": 240, "ir_width": 160, "ir_height": 120},
}


def decoded(path: Path) -> list[tuple[Fraction, np.ndarray]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pixels = "gray16le" if stream.codec_context.pix_fmt == "gray16le" else "rgb24"
        return [
            (Fraction(f.pts) * stream.time_base, f.to_ndarray(format=pixels))
            for f in container.decode(stream)
        ]


def test_a_written_clip_holds_what_its_times_say(tmp_path: Path) -> None:
    timing = {"vis_fps": 30, "ir_fps": 8.7, "offset_ms": -20, "stamp_jitter_ms": 3, "vis_drop": 0.2}
    options = ClipOptions.model_validate(SMALL | {"timing": timing, "ir_codec": "counts", "start_s": 11.0})
    steps: list[tuple[int, int]] = []
    files = write_clip(tmp_path / "clip", options, progress=lambda *step: steps.append(step))
    assert [path.name for path in files] == ["vis.mkv", "ir.mkv", "times.json"]
    assert steps[-1][0] == steps[-1][1] == len(steps)
    times = json.loads(files[2].read_text())
    for stream, corner in (("vis", "bottom_left"), ("ir", "top_right")):
        kept = [c for c in times[stream] if not c["lost"] and c["pts"] >= 0]
        frames = decoded(tmp_path / "clip" / f"{stream}.mkv")
        assert [read_code(image, corner=corner) for _, image in frames] == [c["number"] for c in kept]  # type: ignore[arg-type]
        for (stamp, _), capture in zip(frames, kept, strict=True):
            assert abs(stamp - capture["pts"] * TIME_BASE) <= Fraction(1, 2000)
    assert any(c["lost"] for c in times["vis"])
    assert ClipOptions.model_validate(times["options"]) == options
    counts = decoded(files[1])[0][1]
    film = Film(
        "ir", scene=options.scene, rig=options.rig, timing=options.timing, code=options.code, start_s=11.0
    )
    first = next(c for c in film.schedule.deliveries(0.5) if not c.lost)
    np.testing.assert_array_equal(counts, film.picture(first))
    with np.load(tmp_path / "clip" / "truth" / "000007.npz") as stored:
        truth = film.scene.truth(11.0 + 7 / 30)
        np.testing.assert_array_equal(stored["displacement"], truth.displacement[2::4, 2::4])
        np.testing.assert_array_equal(stored["valid"], truth.valid[2::4, 2::4])
        assert int(stored["step"]) == 4


def test_the_command_writes_a_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "clip.yaml"
    config.write_text(
        "duration_s: 0.2\nrig: {vis_width: 160, vis_height: 120, ir_width: 80, ir_height: 64}\n"
    )
    assert run_command("-o", str(tmp_path / "out"), "-c", str(config), "--seed", "3", "--no-truth") == 0
    assert [Path(line).name for line in capsys.readouterr().out.split()] == [
        "vis.mkv",
        "ir.mkv",
        "times.json",
    ]
    assert not (tmp_path / "out" / "truth").exists()
    assert len(decoded(tmp_path / "out" / "vis.mkv")) == 5


def test_the_command_prints_its_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("-o", str(tmp_path), "--options", "--set", "scene.light=night") == 0
    text = capsys.readouterr().out
    (tmp_path / "all.yaml").write_text(text)
    assert load_clip_options(tmp_path / "all.yaml").scene.light == "night"


def run_command(*argv: str) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    synth_command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["synth", *argv])
    return int(args.run(args))


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("duration_s: -1", [], r"clip\.yaml\.duration_s"),
        ("scene: {lihgt: night}", [], r"lihgt.*did you mean 'light'"),
        ("- 1", [], "must hold options"),
        ("a: [", [], "not valid YAML"),
        ("{}", ["rig.ir_width=big"], r"rig\.ir_width"),
        ("scene: {smoke: {start_s: 3, stop_s: 2}}", [], "must be later than start_s"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, text: str, overrides: list[str], message: str) -> None:
    path = tmp_path / "clip.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_clip_options(path, overrides)


def test_missing_option_file_and_unwritable_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_clip_options(tmp_path / "nowhere.yaml")
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot be created"):
        write_clip(tmp_path / "file" / "clip", ClipOptions())


def test_option_ranges_are_checked() -> None:
    with pytest.raises(ValidationError):
        RigOptions(fov_ratio=0.0)
    with pytest.raises(ValidationError):
        TimingOptions(ir_drop=1.0)


# ---- the source --------------------------------------------------------------------------------------

CAMERA = {
    "scene": SCENE,
    "rig": RigOptions(vis_width=320, vis_height=240, ir_width=160, ir_height=120),
    "timing": TimingOptions(vis_fps=30, ir_fps=9, offset_ms=15, vis_drop=0.1),
}


def source(clock: VirtualClock, **options: Any) -> SyntheticSource:
    return SyntheticSource(SyntheticOptions(**(CAMERA | options)), clock=clock)


def drained(camera: SyntheticSource) -> list[Any]:
    frames = []
    while (frame := camera.read()) is not None:
        frames.append(frame)
    return frames


def test_offline_the_source_delivers_the_schedule() -> None:
    camera = source(VirtualClock(), duration_s=1.0)
    info = camera.open()
    frames = drained(camera)
    kept = [c for c in schedule(CAMERA["timing"], "vis", 1.0) if not c.lost]  # type: ignore[arg-type]
    assert (info.width, info.height, info.fps, info.frame_count) == (320, 240, 30, len(kept))
    assert [frame.pts for frame in frames] == [c.pts for c in kept]
    assert [read_code(frame.image, corner="bottom_left") for frame in frames] == [c.number for c in kept]
    assert not camera.live
    camera.close()
    assert camera.read() is None
    camera.open()
    assert camera.read().pts == kept[0].pts  # type: ignore[union-attr]


def test_infrared_comes_as_counts_or_grey() -> None:
    counts = source(VirtualClock(), stream="ir", duration_s=0.3)
    counts.open()
    frame = counts.read()
    assert frame is not None
    assert (frame.image.dtype, frame.unit) == (np.uint16, "counts")
    grey = source(VirtualClock(), stream="ir", duration_s=0.3, grey=True)
    grey.open()
    frame = grey.read()
    assert frame is not None
    assert (frame.image.dtype, frame.image.ndim, frame.unit) == (np.uint8, 2, "agc8")


def test_live_pictures_arrive_after_their_capture_by_the_transport_delay() -> None:
    clock = VirtualClock(start_ns=77 * NS_PER_S)
    options = {"realtime": True, "duration_s": 1.0, "delay_ms": 35.0}
    vis, ir = source(clock, **options), source(clock, stream="ir", **options)
    vis.open()
    frames = drained(vis)
    start = world_start_ns(clock)
    assert start == 77 * NS_PER_S
    plan = Schedule(CAMERA["timing"], "vis")  # type: ignore[arg-type]
    for frame in frames:
        number = read_code(frame.image, corner="bottom_left")
        assert number is not None
        taken = start + round(plan.t_true(number) * NS_PER_S)
        assert frame.t_arrival - taken == pytest.approx(35 * NS_PER_MS, abs=2)
    assert vis.drops[DropCause.OVERRUN] == 0
    # The other camera looks at the same world, and has missed its first second.
    ir.open()
    assert ir.read() is None


def test_a_late_reader_loses_the_oldest_pictures_and_they_are_counted() -> None:
    clock = VirtualClock()
    camera = source(clock, realtime=True, duration_s=2.0, timing=TimingOptions(vis_fps=30))
    camera.open()
    assert camera.read() is not None
    clock.advance_ns(NS_PER_S)
    frame = camera.read()
    assert frame is not None
    number = read_code(frame.image, corner="bottom_left")
    assert number is not None
    assert number > 25
    assert camera.drops[DropCause.OVERRUN] == number - 1
    rest = drained(camera)
    assert 2 + len(rest) + camera.drops[DropCause.OVERRUN] == 60


def test_arrival_order_is_kept_under_jitter() -> None:
    clock = VirtualClock()
    camera = source(
        clock, realtime=True, duration_s=1.0, delay_jitter_ms=80.0, timing=TimingOptions(vis_fps=30)
    )
    camera.open()
    arrivals = [frame.t_arrival for frame in drained(camera)]
    assert arrivals == sorted(arrivals)
    assert np.ptp(np.diff(arrivals)) > 20 * NS_PER_MS


def test_close_from_another_thread_ends_a_wait() -> None:
    from streamfuse.clock import RealClock

    camera = SyntheticSource(
        SyntheticOptions(**(CAMERA | {"realtime": True, "duration_s": None, "delay_ms": 60_000.0})),
        clock=RealClock(),
    )
    camera.open()
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(camera.read()), name="streamfuse-test-reader")
    thread.start()
    camera.close()
    thread.join(timeout=5)
    assert not thread.is_alive()
    assert results == [None]


def test_code_can_be_left_out() -> None:
    camera = source(VirtualClock(), duration_s=0.2, code=CodeOptions(enabled=False))
    camera.open()
    frame = camera.read()
    assert frame is not None
    assert read_code(frame.image, corner="bottom_left") is None


def test_the_bundled_sample_is_what_this_renderer_makes() -> None:
    """After a change of the looks, render it again: samples/README.md."""
    folder = Path(str(files("streamfuse") / "samples"))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_500_000
    times = json.loads((folder / "street-times.json").read_text())
    options = ClipOptions.model_validate(times["options"])
    assert options == load_clip_options(Path(__file__).parents[1] / "samples" / "street.yaml")
    for stream in ("vis", "ir"):
        film = Film(
            stream,  # type: ignore[arg-type]
            scene=options.scene,
            rig=options.rig,
            timing=options.timing,
            code=options.code,
            start_s=options.start_s,
        )
        frames = decoded(folder / f"street-{stream}.mkv")
        assert [stamp for stamp, _ in frames] == [Fraction(k, 25) for k in range(125)]
        rendered = cv2.blur(film.grey(film.schedule.capture(80)), (5, 5))
        shown = cv2.blur(frames[80][1] if stream == "vis" else frames[80][1][..., 0], (5, 5))
        assert np.abs(rendered.astype(int) - shown).mean() < 3
