"""Recorded clips through the command and the Python interface: nothing lost, timing kept, the same twice."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import media
import numpy as np
import pytest

import streamfuse
from streamfuse.cli import main
from streamfuse.errors import ConfigError, DataError, SourceError
from streamfuse.frame import Status
from streamfuse.pipeline import Pipeline

CLIP = "0111_1716"
FAST = ("--set", "registration.model=none", "--set", "fusion.model=average", "--set", "worker.device=cpu")
CPU = ("--set", "worker.device=cpu")

Pts = list[Fraction]


def m2vd(shared_data: Path, name: str = CLIP) -> tuple[str, str]:
    """The infrared and the visible clip."""
    root = shared_data / "data" / "m2vd"
    return str(root / "infrared" / f"{name}.mp4"), str(root / "visible" / f"{name}.mp4")


def stamps(path: Path | str) -> Pts:
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [frame.pts * frame.time_base for frame in frames]


def pictures(path: Path | str) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def digest(path: Path | str) -> str:
    return hashlib.sha256(b"".join(image.tobytes() for image in pictures(path))).hexdigest()


def settings(ir: Any, vis: Any, **sections: Any) -> dict[str, Any]:
    return {
        "sources": {"ir": ir, "vis": vis},
        "registration": {"model": "none"},
        "fusion": {"model": "average"},
        "worker": {"device": "cpu"},
        **sections,
    }


def clip(path: Path, **encoding: Any) -> dict[str, Any]:
    return {"kind": "file", "path": str(media.write_clip(path, **encoding))}


# --- A real pair of clips -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fused(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds everything the command writes for the whole of a real clip."""
    out = tmp_path_factory.mktemp("fused")
    logs = ("--pairing-table", out / "pairs.csv", "--frame-log", out / "frames.jsonl")
    command = [
        "fuse",
        *m2vd(shared_data),
        "-o",
        out / "out.mkv",
        *logs,
        "--report",
        out / "report.json",
        *FAST,
    ]
    assert main([str(word) for word in command]) == 0
    return out


def test_as_many_frames_come_out_as_went_in(fused: Path) -> None:
    report = json.loads((fused / "report.json").read_text())
    assert report["frames_in"] == report["frames_used"] == {"ir": 151, "vis": 151}
    assert report["frames_out"] == 151
    assert report["dropped"] == {"ir": {}, "vis": {}}
    assert report["sink_dropped"] == {}
    images = pictures(fused / "out.mkv")
    assert len(images) == 151
    assert {image.shape for image in images} == {(480, 640, 3)}


def test_matroska_keeps_the_visible_timing_to_half_a_millisecond(fused: Path, shared_data: Path) -> None:
    source, written = stamps(m2vd(shared_data)[1]), stamps(fused / "out.mkv")
    assert max(abs(a - b) for a, b in zip(source, written, strict=True)) <= Fraction(1, 2000)


def test_the_frame_log_holds_exact_source_stamps(fused: Path, shared_data: Path) -> None:
    lines = [json.loads(line) for line in (fused / "frames.jsonl").read_text().splitlines()]
    for stream, path in zip(("ir", "vis"), m2vd(shared_data), strict=True):
        logged = [line[stream] for line in lines]
        assert [Fraction(entry["pts_s"]) for entry in logged] == stamps(path)
        assert all(
            entry["pts"] * Fraction(entry["time_base"]) == Fraction(entry["pts_s"]) for entry in logged
        )
        assert [entry["seq"] for entry in logged] == list(range(151))
    assert all(line["latencies_ns"]["fuse"] > 0 for line in lines)
    assert {line["status"] for line in lines} == {Status.CALIBRATION}


def test_the_pairing_table_names_both_partners(fused: Path) -> None:
    with (fused / "pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 151
    assert all(row["vis_seq"] == row["ir_seq"] == row["seq"] for row in rows)
    assert all(float(row["dt_ms"]) == 0 and row["held"] == "0" for row in rows)


def test_fused_pictures_show_both_cameras(fused: Path, shared_data: Path) -> None:
    images, (ir, vis) = pictures(fused / "out.mkv"), map(pictures, m2vd(shared_data))
    for i in (0, 75, 150):
        luma = cv2.cvtColor(images[i], cv2.COLOR_RGB2GRAY).astype(float)
        half = (cv2.cvtColor(vis[i], cv2.COLOR_RGB2GRAY).astype(float) + ir[i][..., 0]) / 2
        assert np.abs(luma - half).mean() < 4, "the average of frame i and frame i, not of its neighbours"


@pytest.fixture(scope="module")
def default_run(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second with all defaults, as fragmented MP4."""
    out = tmp_path_factory.mktemp("default") / "out.mp4"
    assert main(["fuse", *m2vd(shared_data), "-o", str(out), "--end", "0.5", *CPU]) == 0
    return out


def test_fragmented_mp4_keeps_the_visible_timing_to_the_tick(default_run: Path, shared_data: Path) -> None:
    assert stamps(default_run) == stamps(m2vd(shared_data)[1])[:15]


def test_a_second_run_gives_the_same_pictures(default_run: Path, shared_data: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.mp4"
    assert main(["fuse", *m2vd(shared_data), "-o", str(again), "--end", "0.5", *CPU]) == 0
    assert digest(again) == digest(default_run)


def test_start_and_end_cut_both_clips_alike(shared_data: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out.mkv", tmp_path / "log.jsonl"
    span = ("--start", "2", "--end", "2.4", "--frame-log", str(log))
    assert main(["fuse", *m2vd(shared_data), "-o", str(out), *span, *FAST]) == 0
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    source = stamps(m2vd(shared_data)[1])
    assert [Fraction(entry["vis"]["pts_s"]) for entry in entries] == source[60:72]
    assert all(entry["vis"]["pts"] == entry["ir"]["pts"] for entry in entries)


def test_the_registered_infrared_is_written_beside(shared_data: Path, tmp_path: Path) -> None:
    out, registered = tmp_path / "out.mkv", tmp_path / "registered"
    more = ("--end", "0.2", "--save-registered", str(registered))
    assert main(["fuse", *m2vd(shared_data), "-o", str(out), *more, *FAST]) == 0
    written = sorted(registered.glob("*.png"))
    assert len(written) == 6
    ir = pictures(m2vd(shared_data)[0])[0][..., 0]
    assert np.abs(cv2.imread(str(written[0]), cv2.IMREAD_GRAYSCALE).astype(int) - ir).mean() < 1


def test_swapped_inputs_are_warned_about(
    shared_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    ir, vis = m2vd(shared_data)
    assert main(["fuse", vis, ir, "-o", str(tmp_path / "out.mkv"), "--end", "0.1", *FAST]) == 0
    assert "look swapped" in caplog.text
    assert "note: infrared and visible look swapped" in capsys.readouterr().out
    caplog.clear()
    assert main(["fuse", ir, vis, "-o", str(tmp_path / "out.mkv"), "--end", "0.1", *FAST]) == 0
    assert "swapped" not in caplog.text


# --- Clips that do not run in step --------------------------------------------------------------------


RATES = [(Fraction(a), Fraction(b)) for a, b in ((9, 25), (25, 9), (25, Fraction(30000, 1001)))]


@pytest.mark.parametrize(("ir_fps", "vis_fps"), RATES)
@pytest.mark.parametrize("driver", ["ir", "vis"])
def test_clips_of_different_rates_lose_nothing_uncounted(
    ir_fps: Fraction, vis_fps: Fraction, driver: str, tmp_path: Path
) -> None:
    count = {"ir": round(ir_fps), "vis": round(vis_fps)}
    ir = clip(tmp_path / "ir.mkv", frames=count["ir"], rate=ir_fps)
    vis = clip(tmp_path / "vis.mkv", frames=count["vis"], rate=vis_fps)
    pipeline = Pipeline.from_config(settings(ir, vis, pairing={"driver": driver}))
    frames = list(pipeline)
    report = pipeline.report()
    assert report.unaccounted() == {"ir": 0, "vis": 0}
    assert report.frames_in[driver] == count[driver], "of the other one, what comes after the end is not read"
    if driver == "vis":
        assert len(frames) == count["vis"]
        assert report.dropped["vis"] == {}
    for frame in frames:
        pair = frame.pair
        assert pair.ir is None or pair.held or abs(pair.dt_ns) <= pair.window_ns


def test_variable_rate_is_kept(tmp_path: Path) -> None:
    pts = [0, 1, 2, 5, 6, 9, 14, 15, 16, 18]
    ir, vis = (clip(tmp_path / f"{s}.mkv", frames=10, pts=pts) for s in ("ir", "vis"))
    out = tmp_path / "out.mkv"
    Pipeline.from_config(settings(ir, vis, sinks=[{"kind": "file", "path": str(out)}])).run()
    assert stamps(out) == [Fraction(p, 25) for p in pts]


def test_packets_that_cannot_be_decoded_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = media.write_clip(tmp_path / "vis.mkv", codec="ffv1", pix_fmt="bgr0", options={"g": "1"})
    spoilt = media.spoil(whole, {5, 6}, lambda data: b"\xff" * len(data))
    pipeline = Pipeline.from_config(
        settings(clip(tmp_path / "ir.mkv"), {"kind": "file", "path": str(spoilt)})
    )
    report = pipeline.run()
    assert report.dropped["vis"] == {"corrupt": 2}
    assert report.frames_in["vis"] == 24
    assert report.frames_out == 22
    assert report.unaccounted() == {"ir": 0, "vis": 0}


def test_repeats_are_dropped_offline_when_asked_for(rng: np.random.Generator) -> None:
    unique = [rng.integers(0, 256, (48, 64), dtype=np.uint8) for _ in range(20)]
    thrice = [image for image in unique for _ in range(3)]
    pipeline = Pipeline.from_config(
        settings({"duplicates": "drop"}, {}), ir=thrice, vis=[np.dstack([i] * 3) for i in thrice]
    )
    report = pipeline.run()
    assert report.dropped["ir"]["duplicate"] > 30
    assert report.dropped["vis"] == {}
    assert report.unaccounted() == {"ir": 0, "vis": 0}


def test_sixteen_bit_infrared_travels_beside_its_view(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(12)]
    ir = {"kind": "images", "path": str(media.write_pictures(tmp_path / "ir", names, grey16=True))}
    frames = list(Pipeline.from_config(settings(ir, clip(tmp_path / "vis.mkv", frames=12))))
    raws = [frame.pair.ir.raw for frame in frames if frame.pair.ir is not None]
    assert len(raws) == 12
    np.testing.assert_array_equal(raws[7], media.counts(7))
    assert all(frame.registered_ir.dtype == np.uint8 for frame in frames)


def test_stopping_half_way_writes_what_was_fused_and_accounts_for_the_rest(tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    sinks = [{"kind": "file", "path": str(out)}]
    pipeline = Pipeline.from_config(
        settings(clip(tmp_path / "ir.mkv"), clip(tmp_path / "vis.mkv"), sinks=sinks)
    )
    for frame in pipeline:
        if frame.seq == 7:
            pipeline.stop()
    assert len(pictures(out)) == 8
    assert pipeline.report().unaccounted() == {"ir": 0, "vis": 0}


def test_a_file_that_breaks_off_ends_the_run_with_an_error_and_keeps_what_was_made(tmp_path: Path) -> None:
    folder = media.write_pictures(tmp_path / "vis", [f"{i:02}.png" for i in range(24)])
    (folder / "20.png").write_bytes(b"not a picture")
    out = tmp_path / "out.mkv"
    pipeline = Pipeline.from_config(
        settings(
            clip(tmp_path / "ir.mkv"),
            {"kind": "images", "path": str(folder)},
            sinks=[{"kind": "file", "path": str(out)}],
        )
    )
    with pytest.raises(SourceError, match=r"20\.png"):
        pipeline.run()
    assert len(pictures(out)) > 12
    assert pipeline.report().unaccounted() == {"ir": 0, "vis": 0}


# --- Arrays -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(shared_data: Path) -> tuple[np.ndarray, np.ndarray]:
    folder = shared_data / "data" / "m3svd_val"
    ir = sorted((folder / "infrared" / "0111_1753").iterdir())[0]
    vis = sorted((folder / "visible" / "0111_1753").iterdir())[0]
    return (
        cv2.imread(str(ir), cv2.IMREAD_GRAYSCALE),
        cv2.cvtColor(cv2.imread(str(vis)), cv2.COLOR_BGR2RGB),
    )


def test_fuse_pair_with_all_defaults(pair: tuple[np.ndarray, np.ndarray]) -> None:
    ir, vis = pair
    frame = streamfuse.fuse_pair(ir, vis, settings={"worker": {"device": "cpu"}})
    assert frame.image.shape == vis.shape
    assert frame.image.dtype == np.uint8
    assert frame.status is Status.OK
    assert frame.confidence > 0.2
    assert frame.pair.vis.image is vis or (frame.visible == vis).all()
    assert np.abs(frame.image.astype(int) - vis).mean() > 1, "the infrared is in it"


def test_fuse_pair_leaves_no_state_behind(pair: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (streamfuse.fuse_pair(*pair, settings={"worker": {"device": "cpu"}}) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    assert not second.warm


@pytest.mark.parametrize(
    "change",
    [
        lambda ir, vis: (np.dstack([ir] * 3), vis),
        lambda ir, vis: (cv2.resize(ir, (160, 120)), vis),
        lambda ir, vis: (ir.astype(np.uint16) * 40 + 20_000, vis),
        lambda ir, vis: (ir, vis[..., 1]),
        lambda ir, vis: (ir[:, ::-1], vis[::2, ::2]),
    ],
    ids=["colour infrared", "small infrared", "16-bit infrared", "grey visible", "not contiguous"],
)
def test_fuse_pair_takes_what_cameras_give(
    change: Callable[..., tuple[np.ndarray, np.ndarray]], pair: tuple[np.ndarray, np.ndarray]
) -> None:
    ir, vis = change(*pair)
    fast = {"registration": {"model": "none"}, "worker": {"device": "cpu"}}
    frame = streamfuse.fuse_pair(ir, vis, settings=fast)
    assert frame.image.shape == (*vis.shape[:2], 3)
    assert frame.valid.all()
    assert frame.registered_ir.std() > 10
    assert (frame.pair.ir.raw is not None) == (ir.dtype == np.uint16)


GREY, COLOUR = np.zeros((48, 64), np.uint8), np.zeros((48, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("ir", "vis", "says"),
    [
        (GREY.astype(np.float32), COLOUR, r"ir: must be uint8 .* or uint16 \(H, W\); got float32 \(48, 64\)"),
        (GREY, COLOUR.astype(np.uint16), r"vis: must be uint8 .* got uint16 \(48, 64, 3\)"),
        (GREY, np.zeros((48, 64, 4), np.uint8), r"vis: .* got uint8 \(48, 64, 4\)"),
        (GREY[None], COLOUR, r"ir: .* got uint8 \(1, 48, 64\)"),
        (GREY[:0], COLOUR, r"ir: .* got uint8 \(0, 64\)"),
        ([[1, 2], [3, 4]], COLOUR, r"ir: .* got list"),
        (GREY, None, r"vis: .* got NoneType"),
    ],
)
def test_fuse_pair_refuses_what_is_no_picture(ir: Any, vis: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        streamfuse.fuse_pair(ir, vis)


def test_fuse_pair_refuses_settings_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match=r"registration\.model.*'bloks'.*did you mean 'blocks'"):
        streamfuse.fuse_pair(GREY, COLOUR, settings={"registration": {"model": "bloks"}})


# --- Bad input ----------------------------------------------------------------------------------------


def good(folder: Path) -> Path:
    return media.write_clip(folder / "good.mkv")


def empty(folder: Path) -> Path:
    path = folder / "empty.mp4"
    path.touch()
    return path


def truncated(folder: Path) -> Path:
    whole = media.write_clip(folder / "whole.mp4").read_bytes()
    path = folder / "truncated.mp4"
    path.write_bytes(whole[: len(whole) // 2])
    return path


def mixed_sizes(folder: Path) -> Path:
    path = media.write_pictures(folder / "mixed", [f"{i}.png" for i in range(4)])
    cv2.imwrite(str(path / "2.png"), media.picture(2, width=32, height=24))
    return path


BAD_INPUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing file": (
        lambda folder: folder / "goood.mkv",
        "goood.mkv: no such file; did you mean 'good.mkv'?",
    ),
    "empty file": (empty, "empty.mp4: is empty (0 bytes)"),
    "audio only": (lambda folder: media.write_audio(folder / "sound.mp4"), "sound.mp4: holds no video"),
    "truncated MP4": (truncated, "truncated.mp4: truncated: this MP4 has no index"),
}


@pytest.mark.parametrize("stream", ["ir", "vis"])
@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_clips_are_named(
    case: str, stream: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, says = BAD_INPUTS[case]
    inputs = {"ir": good(tmp_path), "vis": good(tmp_path), stream: make(tmp_path)}
    out = tmp_path / "out.mkv"
    assert main(["fuse", str(inputs["ir"]), str(inputs["vis"]), "-o", str(out), *FAST]) == 2
    assert says in capsys.readouterr().err
    assert not out.exists()


def test_pictures_of_mixed_sizes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(mixed_sizes(tmp_path))
    assert main(["fuse", folder, folder, "-o", str(tmp_path / "out.mkv"), *FAST]) == 2
    assert "2.png: 32x24 8-bit colour, but 0.png is 96x64 8-bit colour" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "fusion.modle=max"], "fusion.modle: unknown option; did you mean 'model'?"),
        (["--set", "fusoin.model=max"], "fusoin: unknown section; did you mean 'fusion'?"),
        (["--set", "registration.model=bloks"], "unknown registrar 'bloks'; did you mean 'blocks'?"),
        (["--set", "pairing.window_ms=wide"], "pairing.window_ms: Input should be a valid number"),
        (["--set", "worker.device=gpu"], "worker.device: "),
        (["--set", "sources.vis.crop=[0, 0, 500, 10]"], "sources.vis.crop: [0, 0, 500, 10]"),
        (["--calibration", "nowhere.yaml"], "nowhere.yaml"),
        (["--start", "5"], "good.mkv: no picture in the span asked for, 5 s to its end"),
        (["--independent"], "--independent is for two folders of pictures"),
    ],
)
def test_bad_settings_are_named(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip_path, out = str(good(tmp_path)), tmp_path / "out.mkv"
    assert main(["fuse", clip_path, clip_path, "-o", str(out), *CPU, *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("file/out.mkv", "file/out.mkv: cannot be written"),
        ("file/folder", "file/folder"),
        ("out.avi", "path: .avi cannot be written; use .mkv or .mp4"),
    ],
)
def test_an_output_that_cannot_be_written_is_named(
    out: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    path = str(good(tmp_path))
    assert main(["fuse", path, path, "-o", str(tmp_path / out), *FAST]) == 2
    assert says in capsys.readouterr().err


def test_an_rtsp_camera_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(good(tmp_path))
    url = "rtsp://user:secret@127.0.0.1:9/cam"
    live = ("--set", "pipeline.mode=live", "--set", "sources.vis.open_timeout_s=2")
    assert main(["fuse", path, url, "-o", str(tmp_path / "out.mkv"), *FAST, *live]) == 2
    told = capsys.readouterr().err
    assert "127.0.0.1:9/cam: nothing listens on port 9" in told
    assert "secret" not in told


def config_file(folder: Path, **changes: Any) -> str:
    source = {"kind": "file", "path": str(good(folder))}
    tree = settings(source, source, **changes)
    path = folder / "run.yaml"
    path.write_text(json.dumps(tree))  # JSON is YAML
    return str(path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"sinks": [{"kind": "fil", "path": "a.mkv"}]},
            "sinks.0.kind: unknown sink 'fil'; did you mean 'file'?",
        ),
        ({"sinks": [{"kind": "file", "path": "a.mkv", "qualty": 3}]}, "sinks.0.qualty: unknown option"),
        ({"pipeline": {"ring": "many"}}, "pipeline.ring: Input should be a valid integer"),
        ({"sources": {"ir": {"kind": "file"}}}, "sources.ir.path: missing"),
    ],
)
def test_mistakes_in_a_configuration_file_name_file_and_key(
    changes: dict[str, Any], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", config_file(tmp_path, **changes)]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert "run.yaml" in told


def test_run_without_a_display_is_an_error_and_no_abort(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main(["run", config_file(tmp_path, sinks=[{"kind": "screen"}])]) == 2
    assert "screen: " in capsys.readouterr().err


def test_run_writes_what_the_file_describes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.mkv"
    assert main(["run", config_file(tmp_path), "--set", f"sinks=[{{kind: file, path: '{out}'}}]"]) == 0
    assert len(pictures(out)) == 24
    assert "24 in, 24 used" in capsys.readouterr().out


def test_clips_that_never_meet_are_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    early, late = (str(media.write_clip(tmp_path / f"{n}.mkv")) for n in ("early", "late"))
    out = str(tmp_path / "out.mkv")
    apart = ("--set", "pairing.driver=ir", "--set", "pairing.offset_ms=60000")
    assert main(["fuse", early, late, "-o", out, *FAST, *apart]) == 1
    assert "no frame could be fused" in capsys.readouterr().err


# --- Many clips ---------------------------------------------------------------------------------------


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A data set root of four short clips."""
    for stream in ("infrared", "visible"):
        (tmp_path / stream).mkdir()
        for name in "abcd":
            media.write_clip(tmp_path / stream / f"{name}.mkv")
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_of_clips_with_one_that_fails(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clips / "visible" / "b.mkv").write_bytes(b"")
    out = clips / "out"
    assert main(["fuse", str(clips), "-o", str(out), *FAST]) == 1
    told = capsys.readouterr().out
    assert "b: FAILED" in told
    assert "b.mkv: is empty" in told
    assert "3 done, 0 finished before, 1 failed" in told
    assert names(out) == ["a.mkv", "c.mkv", "d.mkv"]
    assert all(len(pictures(path)) == 24 for path in out.iterdir())
    media.write_clip(clips / "visible" / "b.mkv")
    assert main(["fuse", str(clips), "-o", str(out), *FAST]) == 0
    assert "1 done, 3 finished before, 0 failed" in capsys.readouterr().out
    assert names(out) == ["a.mkv", "b.mkv", "c.mkv", "d.mkv"]


def test_two_at_a_time_give_the_same_as_one(clips: Path) -> None:
    one, two = clips / "one", clips / "two"
    assert main(["fuse", str(clips), "-o", str(one), *FAST]) == 0
    assert main(["fuse", str(clips), "-o", str(two), "--jobs", "2", *FAST]) == 0
    assert names(one) == names(two)
    assert all(digest(one / name) == digest(two / name) for name in names(one))


def test_shards_divide_the_clips(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = clips / "out"
    assert main(["fuse", str(clips), "-o", str(out), "--shard", "2/3", *FAST]) == 0
    assert names(out) == ["b.mkv"]
    for shard in ("1/3", "3/3"):
        assert main(["fuse", str(clips), "-o", str(out), "--shard", shard, *FAST]) == 0
    assert names(out) == ["a.mkv", "b.mkv", "c.mkv", "d.mkv"]
    assert main(["fuse", str(clips), "-o", str(out), "--shard", "4/3", *FAST]) == 2
    assert "--shard 4/3: must read i/n" in capsys.readouterr().err


def test_single_pictures_are_fused_each_on_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stream in ("ir", "vis"):
        media.write_pictures(tmp_path / stream, ["a.png", "b.png"])
    out = tmp_path / "out"
    assert main(["fuse", str(tmp_path), "-o", str(out), "--independent", *FAST]) == 0
    assert names(out) == ["a.png", "b.png"]
    assert cv2.imread(str(out / "a.png")).shape == (media.HEIGHT, media.WIDTH, 3)


def two_pictures(folder: Path) -> tuple[str, str]:
    for stream in ("ir", "vis"):
        media.write_pictures(folder / stream, ["dusk.png"])
    return str(folder / "ir" / "dusk.png"), str(folder / "vis" / "dusk.png")


@pytest.mark.parametrize(
    ("out", "written"),
    [("fused.png", "fused.png"), ("f.jpg", "f.jpg"), ("new/folder", "new/folder/dusk.png")],
)
def test_two_pictures_in_one_picture_out(
    out: str, written: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = tmp_path / "registered.png"
    arguments = ["-o", str(tmp_path / out), "--save-registered", str(beside), *FAST]
    assert main(["fuse", *two_pictures(tmp_path), *arguments]) == 0
    assert cv2.imread(str(tmp_path / written)).shape == (media.HEIGHT, media.WIDTH, 3)
    assert cv2.imread(str(beside), cv2.IMREAD_UNCHANGED).shape == (media.HEIGHT, media.WIDTH)
    assert f"written: {tmp_path / written}" in capsys.readouterr().out


def test_two_pictures_may_still_become_a_clip(tmp_path: Path) -> None:
    out = tmp_path / "one.mkv"
    assert main(["fuse", *two_pictures(tmp_path), "-o", str(out), *FAST]) == 0
    assert len(pictures(out)) == 1


def test_a_picture_holds_no_clip_and_pictures_no_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(good(tmp_path))
    assert main(["fuse", path, path, "-o", str(tmp_path / "out.png"), *FAST]) == 2
    assert "out.png: a picture holds no clip; use .mkv or .mp4, or a folder" in capsys.readouterr().err
    out = str(tmp_path / "out.png")
    assert main(["fuse", *two_pictures(tmp_path), "-o", out, "--start", "0", *FAST]) == 2
    assert "--start is for clips, not for single pictures" in capsys.readouterr().err


@pytest.mark.parametrize("rate", [Fraction(12), Fraction(30000, 1001)])
def test_the_nominal_rate_is_that_of_the_visible_clip(rate: Fraction, tmp_path: Path) -> None:
    vis = str(media.write_clip(tmp_path / "vis.mkv", rate=rate))
    ir = str(media.write_clip(tmp_path / "ir.mkv", rate=25))
    out = tmp_path / "out.mp4"
    assert main(["fuse", ir, vis, "-o", str(out), *FAST]) == 0
    with av.open(str(out)) as container:
        assert float(container.streams.video[0].codec_context.framerate) == pytest.approx(
            float(rate), rel=1e-3
        )


@pytest.fixture
def killed(shared_data: Path, tmp_path: Path) -> Path:
    """The output folder of a batch that was killed while it made its second clip."""
    root, out = shared_data / "data" / "m2vd", tmp_path / "out"
    command = [sys.executable, "-m", "streamfuse", "fuse", str(root), "-o", str(out), "--end", "1", *FAST]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 60
        second = out / "partial.0117_1620.mkv"
        while not (second.exists() and second.stat().st_size > 20_000):
            assert child.poll() is None, "it was too quick to be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    return out


def test_a_batch_that_was_killed_goes_on_where_it_was(
    killed: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert names(killed) == ["0111_1716.mkv", "partial.0117_1620.mkv"]
    whole = digest(killed / "0111_1716.mkv")
    assert len(pictures(killed / "partial.0117_1620.mkv")) > 0, "what was written can be played"
    root = str(shared_data / "data" / "m2vd")
    assert main(["fuse", root, "-o", str(killed), "--end", "1", *FAST]) == 0
    assert "2 done, 1 finished before, 0 failed" in capsys.readouterr().out
    assert names(killed) == ["0111_1716.mkv", "0117_1620.mkv", "1230_1202.mkv"]
    assert [len(pictures(killed / name)) for name in names(killed)] == [30, 30, 22]
    assert digest(killed / "0111_1716.mkv") == whole
