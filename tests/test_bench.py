"""`streamfuse bench`: every figure it promises, for every way to compute, in one run.

Ten minutes at speed, for memory: `python -m pytest -m soak tests/test_bench.py -s`.
"""

import json
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import av
import cv2
import media
import numpy as np
import pytest

from streamfuse.bench.clips import prepared_clips, sample_clips
from streamfuse.bench.pipeline import bench_pipeline
from streamfuse.cli import main


def stamps(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def test_models_are_timed_in_every_precision_against_float32_and_the_classics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    args = [
        "bench",
        "models",
        "--repeats",
        "2",
        "--json",
        "a.json",
        "--plot",
        "a.png",
        "--record",
        "as it was",
    ]
    for name in ("live", "blocks", "dis", "laplacian"):
        args += ["--model", name]
    assert main([*args, "--size", "96x64", "--size", "128x96"]) == 0

    report = json.loads(Path("a.json").read_text())
    assert {"cpu", "cores", "threads", "torch", "python", "streamfuse"} <= report["machine"].keys()
    by_openvino = [r for r in report["rows"] if r["backend"] == "openvino"]
    rows = {
        (r["model"], r["mode"], r["precision"], r["width"]): r
        for r in report["rows"]
        if r["backend"] in ("", "eager")
    }
    assert {rows["live", "cold", "float32", 96]["backend"], rows["dis", "cold", "8 bit", 96]["backend"]} == {
        "eager",
        "",
    }
    assert len(by_openvino) == (8 if find_spec("openvino") else 0)
    assert all(r["difference"] < (1e-3 if r["precision"] == "float32" else 1) for r in by_openvino)
    for width in (96, 128):
        for mode in ("cold", "warm"):
            full, half = rows["live", mode, "float32", width], rows["live", mode, "bfloat16", width]
            assert (full["difference"], full["speed_up"]) == (0, 1)
            assert 0 < half["difference"] < 1
            assert half["speed_up"] > 0
            assert rows["blocks", mode, "8 bit", width]["difference"] is None
        assert rows["dis", "cold", "8 bit", width]["ms"]["calls"] == 2
        ms = rows["laplacian", "fuse", "8 bit", width]["ms"]
        assert 0 < ms["p50"] <= ms["p95"] <= ms["p99"]
    printed = capsys.readouterr().out
    assert "bfloat16" in printed
    assert report["machine"]["torch"] in printed

    assert cv2.imread("a.png") is not None
    history = [json.loads(line) for line in Path("tests/benchmarks.jsonl").read_text().splitlines()]
    assert [line["note"] for line in history] == ["as it was"]
    assert history[0]["figures"]["blocks warm 8 bit 96x64 cpu ms"] >= 0


def test_a_run_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "p.json"
    case = "registration.model=none fusion.model=average worker.device=cpu"
    clips = [str(clip) for clip in sample_clips()]
    args = ["bench", "pipeline", *clips, "--case", case, "--size", "160x120", "--rounds", "1"]
    assert main([*args, "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["case"], row["width"], row["height"]) == (case, 160, 120)
    offline, live = row["offline"], row["live"]
    assert offline["frames"] == 125
    assert offline["dropped"] == 0
    assert offline["fps"] > 0
    assert 30 < offline["peak_mib"] < 1000
    assert {"register", "warp", "fuse", "colour", "sink.file"} <= offline["latency_ms"].keys()
    for name in ("decode", "to_rgb", "pair", "warp", "to_yuv", "encode", "write", "register_and_fuse"):
        stage = offline["stages_ms"][name]
        assert 0 < stage["p50"] <= stage["p95"] <= stage["p99"]
        assert 0 <= stage["cpu_p50"] <= stage["cpu_p99"]
    assert live["latency_ms"]["capture_to_sink.file"]["p99"] > 0


def test_clips_are_brought_to_a_size_and_a_length(tmp_path: Path) -> None:
    before = [stamps(clip) for clip in sample_clips()]
    ready = prepared_clips(sample_clips(), tmp_path, size=(320, 240), seconds=12)
    shapes = []
    for clip, once in zip(ready, before, strict=True):
        times = stamps(clip)
        assert len(times) == 3 * len(once)
        steps = np.diff([float(t) for t in times])
        assert steps.min() > 0.9 * np.diff([float(t) for t in once]).min()
        assert times[-1] >= 12
        with av.open(str(clip)) as container:
            shapes.append((container.streams.video[0].width, container.streams.video[0].height))
    assert shapes == [(160, 120), (320, 240)]


def test_clips_that_fit_are_taken_as_they_are(tmp_path: Path) -> None:
    assert prepared_clips(sample_clips(), tmp_path, size=(640, 480)) == sample_clips()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["models", "--model", "bloks"], "did you mean 'blocks'"),
        (["models", "only-one.mkv"], "two clips"),
        (["pipeline", "--case", "registration.model=bloks"], "did you mean 'blocks'"),
        (["models", "a.mkv", "b.mkv"], "a.mkv: no such file"),
    ],
)
def test_mistakes_are_named(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *args]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("action", [["models"], ["pipeline", "--size", "64x48"]])
def test_a_clip_without_pictures_is_named(
    action: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = str(media.write_audio(tmp_path / "sound.mp4"))
    assert main(["bench", *action, sound, sound]) == 2
    assert f"{sound}: holds no video, only audio" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "x"])
@pytest.mark.parametrize("command", [["bench", "pipeline", "--seconds"], ["run", "a.yaml", "--duration"]])
def test_no_time_to_run_is_refused(
    command: list[str], seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, seconds])
    assert ended.value.code == 2
    assert f"'{seconds}' is not a number of seconds above 0" in capsys.readouterr().err


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ten_minutes_at_speed_take_no_more_memory() -> None:
    (row,) = bench_pipeline(
        sample_clips(),
        cases=["registration.model=live"],
        sizes=[(640, 480)],
        rounds=1,
        seconds=600,
        live=False,
    )
    print(row.offline)
    assert row.offline.frames >= 15_000
    assert row.offline.dropped == 0
    assert row.offline.growth_mib_per_min < 1
    assert row.offline.peak_mib < 1228


def test_a_network_without_weights_of_its_own_is_given_some(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["bench", "models", "--model", "mepma", "--size", "48x32", "--repeats", "1"]
    assert main(args) == 2
    assert "weights" in capsys.readouterr().err
    weights = shared_data / "golden" / "mepma" / "checkpoint.safetensors"
    assert main([*args, "--weights", str(weights)]) == 0
    printed = capsys.readouterr().out
    assert "mepma" in printed
    assert "bfloat16" in printed
