"""`streamfuse fuse` and `run`: bad input is named, many clips, single pictures, a batch that was killed."""

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
import pytest
from recordings import FAST, digest, pictures, settings

from streamfuse.cli import main

CPU = ("--set", "worker.device=cpu")


# --- Bad input ----------------------------------------------------------------------------------------


def good(folder: Path) -> Path:
    return media.write_clip(folder / "good.mkv")


def empty(folder: Path) -> Path:
    path = folder / "empty.mp4"
    path.touch()
    return path


def dangling(folder: Path) -> Path:
    path = folder / "dangling.mkv"
    path.symlink_to("nowhere.mkv")
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
    "dangling link": (dangling, "dangling.mkv: links to nowhere.mkv, which is not there"),
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
        (["--set", "sources=5"], "sources: must be a section, got 5"),
        (["--set", "sources.ir=[1]"], "sources.ir: must be a section, got [1]"),
        (["--set", "sinks=3"], "sinks: must be a list, each item with a 'kind', got 3"),
        (["--set", "fusion=3", "--weights", "w"], "fusion: must be a section, got 3"),
        (["--start", "1e300"], "sources.ir.start_s: Input should be less than or equal to 1000000000"),
        (["--start", "inf"], "sources.ir.start_s: Input should be a finite number, got inf"),
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


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("worker=3", "worker: must be a section, got 3"),
        ("sources=3", "sources: must be a section, got 3"),
        ("sources.vis=3", "sources.vis: must be a section, got 3"),
    ],
)
def test_bad_settings_of_single_pictures_are_named(
    override: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-o", str(tmp_path / "out.png"), "--set", override]
    assert main(["fuse", *two_pictures(tmp_path), *arguments]) == 2
    assert says in capsys.readouterr().err


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
