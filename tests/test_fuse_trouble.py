"""`streamfuse` stopped in the middle, on a full disk, with clips that do not belong together."""

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from importlib.resources import files
from pathlib import Path

import cv2
import media
import numpy as np
import pytest
from recordings import FAST, pictures

from streamfuse.batch import Task, run_batch
from streamfuse.cli import EXIT_INTERRUPTED, main
from streamfuse.inputs import Job
from streamfuse.pictures import write_picture
from streamfuse.spans import Trace

SAMPLE_FRAMES = 125
SMALL_FILES = 8 * 1024
"""Bytes that a process under test may write to one file: what a full disk does, without a disk of its own."""


def limited(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `streamfuse` where every file ends after SMALL_FILES."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_FILES, SMALL_FILES))

    command = [sys.executable, "-m", "streamfuse", *arguments]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=120, check=False)


@pytest.fixture
def noise(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A data set of two pairs of pictures that no codec makes small."""
    for stream in ("ir", "vis"):
        (tmp_path / stream).mkdir()
        for name in ("a", "b"):
            picture = rng.integers(0, 256, (64, 96, 3), np.uint8)
            cv2.imwrite(str(tmp_path / stream / f"{name}.png"), picture)
    return tmp_path


def test_pictures_on_a_full_disk_are_not_taken_for_finished(noise: Path) -> None:
    out = noise / "out"
    arguments = ("fuse", str(noise), "-o", str(out), "--independent", *FAST)
    full = limited(*arguments)
    assert full.returncode == 1, full.stderr
    assert "a.png: the picture cannot be written: File too large" in full.stdout
    assert list(out.iterdir()) == []
    assert main(list(arguments)) == 0
    assert [cv2.imread(str(path)).shape for path in out.iterdir()] == [(64, 96, 3)] * 2


def test_a_picture_that_cannot_be_written_leaves_the_one_before(noise: Path) -> None:
    out = noise / "out.png"
    write_picture(out, np.zeros((8, 8), np.uint8))
    before = out.read_bytes()
    full = limited("fuse", str(noise / "ir" / "a.png"), str(noise / "vis" / "a.png"), "-o", str(out), *FAST)
    assert full.returncode == 2
    assert f"{out}: the picture cannot be written: File too large" in full.stderr
    assert out.read_bytes() == before
    assert list(noise.glob(".*")) == []


def test_a_picture_goes_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to("real.png")
    write_picture(tmp_path / "link.png", np.zeros((8, 8), np.uint8))
    assert (tmp_path / "link.png").is_symlink()
    assert cv2.imread(str(tmp_path / "real.png")).shape == (8, 8, 3)


def test_a_trace_on_a_full_disk_does_not_end_the_run(noise: Path) -> None:
    clip = str(media.write_clip(noise / "clip.mkv", frames=4, codec="mpeg4"))
    out, trace = noise / "out.mkv", noise / "trace.json"
    full = limited("fuse", clip, clip, "-o", str(out), "--profile", str(trace), *FAST)
    assert full.returncode == 2
    assert f"{trace}: the trace cannot be written: File too large" in full.stderr
    assert "Traceback" not in full.stderr
    assert len(pictures(out)) == 4


def test_a_trace_that_failed_hides_no_other_error() -> None:
    with pytest.raises(ValueError, match="the work"), Trace("/dev/full"):
        raise ValueError("the work")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_stdout_on_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "streamfuse", "config", "schema"]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "streamfuse config: No space left on device\n"


def test_names_and_signs_that_cannot_be_printed_end_nothing(noise: Path) -> None:
    for stream in ("ir", "vis"):
        os.rename(noise / stream / "b.png", os.fsencode(noise / stream) + b"/b\xff.png")
    reports = [word for kind in ("json", "csv", "html") for word in (f"--{kind}", str(noise / f"r.{kind}"))]
    command = [sys.executable, "-m", "streamfuse"]
    done = subprocess.run(
        [*command, "eval", "--ir", "ir", "--vis", "vis", "--families", "film", *reports],
        capture_output=True,
        cwd=noise,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"film_EN ?" in done.stdout
    assert b"b\xff" in (noise / "r.csv").read_bytes()
    pictured = [*command, "fuse", "ir", "vis", "-o", "out", *FAST]
    done = subprocess.run(pictured, capture_output=True, cwd=noise, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(os.listdir(os.fsencode(noise / "out"))) == [b"a.png", b"b\xff.png", b"timestamps.csv"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_stopped_does_not_pass_for_done(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = [str(files("streamfuse") / "samples" / f"street-{name}.mkv") for name in ("ir", "vis")]
    out, log = tmp_path / "out.mkv", tmp_path / "log.jsonl"

    def stop() -> None:
        deadline = time.monotonic() + 30
        while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.001)
        os.kill(os.getpid(), number)

    stopper = threading.Thread(target=stop)
    stopper.start()
    code = main(["fuse", *clips, "-o", str(out), "--frame-log", str(log), *FAST])
    stopper.join()
    written = len(pictures(out))
    assert code == EXIT_INTERRUPTED
    assert 0 < written < SAMPLE_FRAMES
    assert f"{out}: stopped early, holds the first {written} frames" in capsys.readouterr().err


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_batch_that_is_terminated_ends_whole_and_leaves_no_process(
    jobs: int, shared_data: Path, tmp_path: Path
) -> None:
    root, out = shared_data / "data" / "m2vd", tmp_path / "out"
    command = [sys.executable, "-m", "streamfuse", "fuse", str(root), "-o", str(out), "--jobs", str(jobs)]
    child = subprocess.Popen([*command, *FAST], stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not list(out.glob("partial.*")) and time.monotonic() < deadline:
            time.sleep(0.005)
        child.send_signal(signal.SIGTERM)
        told = child.communicate(timeout=60)[1]
        while _group_lives(child.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not _group_lives(child.pid)
    finally:
        if _group_lives(child.pid):
            os.killpg(child.pid, signal.SIGKILL)
    assert child.returncode == EXIT_INTERRUPTED
    assert told == "interrupted; the same command goes on where it was\n"
    assert not (out / "0117_1620.mkv").exists()


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_batch_that_is_left_spares_the_processes_of_the_caller(noise: Path) -> None:
    own = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(120,))
    own.start()
    try:
        tasks = []
        for name in ("a", "b"):
            streams = {stream: str(noise / stream / f"{name}.png") for stream in ("ir", "vis")}
            job = Job(name=name, **streams)
            tasks.append(Task(job=job, output=noise / f"{name}.png", pictures=True))
        outcomes = run_batch(tasks, jobs=2)
        next(outcomes)
        outcomes.close()
        own.join(1)
        assert own.exitcode is None
    finally:
        own.kill()
        own.join()


def test_clips_that_do_not_meet_in_time_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ir = str(media.write_clip(tmp_path / "ir.mkv", frames=5))
    vis = str(media.write_clip(tmp_path / "vis.mkv", frames=5, pts=range(2500, 2505)))
    out = tmp_path / "out.mkv"
    assert main(["fuse", ir, vis, "-o", str(out), *FAST]) == 0
    told = capsys.readouterr().err
    assert f"{out}: the visible picture alone: not one infrared frame lies near" in told
    assert "pairing.offset_ms" in told
    assert main(["fuse", ir, ir, "-o", str(out), *FAST]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("option", "seed"), [("--seed", -1), ("--rendered", -3), ("--rendered", 2**32)])
def test_a_seed_out_of_range_is_named(option: str, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["warm", "--rendered", "1", option, str(seed)]) == 2
    assert f"streamfuse warm: {option} {seed}: must be 0 to 4294967295" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--count", 0), ("--seed", -1)])
def test_pairs_that_cannot_be_rendered_are_refused(
    option: str, value: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pairs"
    assert main(["train", "render", "-o", str(out), option, str(value)]) == 2
    assert f"streamfuse train: {option} {value}: must be " in capsys.readouterr().err
    assert not out.exists()


def test_an_empty_folder_is_said_to_be_empty(noise: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = noise / "empty"
    empty.mkdir()
    arguments = [str(noise / "ir"), str(empty), "-o", str(noise / "out"), "--independent"]
    assert main(["fuse", *arguments]) == 2
    assert f"{empty}: holds no pictures" in capsys.readouterr().err


def test_a_picture_of_a_type_that_cannot_be_fused_is_named(
    noise: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vis = noise / "vis" / "a.png"
    cv2.imwrite(str(vis), np.zeros((64, 96, 3), np.uint16))
    says = f"{noise / 'ir' / 'a.png'} with {vis}: vis: must be uint8"
    arguments = ["fuse", str(noise / "ir" / "a.png"), str(vis), "-o", str(noise / "out.png"), *FAST]
    assert main(arguments) == 2
    assert says in capsys.readouterr().err
    assert main(["fuse", str(noise), "-o", str(noise / "out"), "--independent", *FAST]) == 1
    assert f"a: FAILED: {says}" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--independent"], []])
def test_an_output_beside_the_pictures_is_no_clip_the_next_time(options: list[str], noise: Path) -> None:
    inputs = [str(noise / stream) for stream in ("ir", "vis")]
    for _ in range(2):
        assert main(["fuse", *inputs, "-o", str(noise / "vis" / "fused"), *options, *FAST]) == 0
    assert len(list((noise / "vis" / "fused").glob("*.png"))) == 2


def test_hidden_files_are_no_pictures(noise: Path) -> None:
    for stream in ("ir", "vis"):
        (noise / stream / f"._{stream}.png").write_bytes(b"left by macOS")
    inputs = [str(noise / stream) for stream in ("ir", "vis")]
    assert main(["fuse", *inputs, "-o", str(noise / "single"), "--independent", *FAST]) == 0
    assert main(["fuse", *inputs, "-o", str(noise / "clip.mkv"), *FAST]) == 0
    assert len(pictures(noise / "clip.mkv")) == len(list((noise / "single").iterdir())) == 2
    assert main(["eval", "--ir", inputs[0], "--vis", inputs[1], "--families", "film"]) == 0


def test_frames_in_a_folder_are_judged_in_the_order_they_are_fused(tmp_path: Path) -> None:
    jitter = []
    for name in ("{}.png", "{:02}.png"):
        folder = media.write_pictures(tmp_path / name, [name.format(i) for i in range(11)])
        inputs = ["--ir", str(folder), "--vis", str(folder), "--frames", "--families", "temporal"]
        assert main(["eval", *inputs, "--json", str(tmp_path / "e.json")]) == 0
        told = json.loads((tmp_path / "e.json").read_text())
        jitter.append(told["mean"]["copy-visible"]["temporal"]["luma_jitter"])
    assert jitter[0] == jitter[1]


def test_pictures_of_an_earlier_run_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip, out = str(media.write_clip(tmp_path / "clip.mkv", frames=3)), tmp_path / "out"
    assert main(["fuse", clip, clip, "-o", str(out), *FAST]) == 0
    assert caplog.text == ""
    assert main(["fuse", clip, clip, "-o", str(out), *FAST]) == 0
    assert f"{out}: holds 3 pictures already; those of other names stay" in caplog.text


def test_one_frame_has_no_steadiness(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for frames, told in ((1, False), (3, True)):
        clip = str(media.write_clip(tmp_path / f"{frames}.mkv", frames=frames))
        assert main(["eval", "--ir", clip, "--vis", clip, "--families", "film,temporal"]) == 0
        assert ("luma_jitter" in capsys.readouterr().out) is told
