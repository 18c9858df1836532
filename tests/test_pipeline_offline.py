"""Recorded clips through the command and the Python interface: nothing lost, timing kept, the same twice."""

import csv
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import media
import numpy as np
import pytest
from recordings import FAST, digest, pictures, settings, stamps

from streamfuse.cli import main
from streamfuse.errors import SourceError
from streamfuse.frame import Status
from streamfuse.pipeline import Pipeline

CLIP = "0111_1716"
CPU = ("--set", "worker.device=cpu")


def m2vd(shared_data: Path, name: str = CLIP) -> tuple[str, str]:
    """The infrared and the visible clip."""
    root = shared_data / "data" / "m2vd"
    return str(root / "infrared" / f"{name}.mp4"), str(root / "visible" / f"{name}.mp4")


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
