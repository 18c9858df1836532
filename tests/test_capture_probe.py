"""`streamfuse probe` and `streamfuse devices`: what they see, and what they say."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import media
import numpy as np
import pytest
from rtsp import RtspServer

from streamfuse.capture.devices import Camera, Mode, find_cameras, signs_of_thermal, stable_names
from streamfuse.capture.probe import probe
from streamfuse.cli import devices as devices_command
from streamfuse.cli import probe as probe_command
from streamfuse.errors import SourceError


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    probe_command.add_parser(subparsers)
    devices_command.add_parser(subparsers)
    args = parser.parse_args(words)
    return int(args.run(args))


def test_a_regular_clip_is_reported_without_remarks(tmp_path: Path) -> None:
    report = probe(str(media.write_clip(tmp_path / "a.mp4", frames=24)))
    assert (report.kind, report.live, report.pictures, report.pixels) == ("file", False, 24, "rgb8")
    assert not report.neutral, "the red corner is colour"
    assert report.first_pts_s == 0
    assert report.pts_interval_ms == (40, 40)
    assert report.arrival_interval_ms is None
    assert report.remarks == ()


def test_thermal_counts_are_recognised(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(3)]
    report = probe(str(media.write_pictures(tmp_path, names, grey16=True)))
    assert (report.kind, report.pixels, report.unit) == ("images", "gray16", "counts")
    assert (report.low, report.high) == (20_000, 20_000 + media.WIDTH * media.HEIGHT - 1 + 2)
    assert report.neutral


def test_infrared_sent_as_colour_video_is_neutral(shared_data: Path) -> None:
    clips = shared_data / "data/m2vd"
    assert probe(str(clips / "infrared/0111_1716.mp4")).neutral
    assert not probe(str(clips / "visible/0111_1716.mp4")).neutral


def test_trouble_is_remarked(tmp_path: Path) -> None:
    pts = [0, 1, 2, 7, 8, 9]
    clip = media.write_clip(tmp_path / "a.mkv", frames=6, pts=pts, codec="mpeg4")
    remarks = probe(str(media.spoil(clip, {1}, lambda data: data[: len(data) // 2]))).remarks
    assert any(r.startswith("irregular: 200.0 ms between two pictures, 40.0 ms as a rule") for r in remarks)
    assert "1 pictures are damaged" in remarks


def test_a_covered_lens_is_remarked(tmp_path: Path) -> None:
    black = np.zeros((64, 96), np.uint8)
    media.write_grey_clip(tmp_path / "a.mkv", black, limited_range=False)
    assert "every pixel is 0: is the lens covered?" in probe(str(tmp_path / "a.mkv")).remarks


def test_the_report_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = media.write_clip(tmp_path / "a.mp4", frames=24)
    assert run("probe", str(path)) == 0
    text = capsys.readouterr().out
    assert f"{path}: file, recorded" in text
    assert "96x64, 25 fps, h264, yuv420p" in text
    assert "in colour" in text
    assert run("probe", "--json", str(path)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pts_interval_ms"] == [40, 40]
    assert report["info"]["codec"] == "h264"


def test_a_source_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        run("probe", str(tmp_path / "none.mp4"))


@pytest.mark.rtsp
def test_a_live_source_is_watched_and_its_password_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    with RtspServer({"cam": "ball"}, user="admin", password="s3cret") as server:
        report = probe(server.url("cam"))
        assert report.live
        assert report.pictures == 100
        assert report.arrival_interval_ms is not None
        assert report.pts_interval_ms == pytest.approx((33.333, 33.333), abs=0.01)
        assert "s3cret" not in repr(report)


@pytest.mark.parametrize("module", ["streamfuse.cli.probe", "streamfuse.cli.devices"])
def test_parsing_arguments_imports_nothing_heavy(module: str) -> None:
    heavy = "{'av', 'cv2', 'numpy', 'torch', 'pydantic'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# --- Cameras of this machine ------------------------------------------------------------------------------

LEPTON = (Mode("Y16", 160, 120, 9.0), Mode("RGB3", 160, 120, 9.0))
BOSON = (Mode("Y16", 640, 512, 60.0), Mode("YU12", 640, 512, 60.0))
WEBCAM = (Mode("MJPG", 1920, 1080, 30.0), Mode("YUYV", 160, 120, 30.0), Mode("YUYV", 640, 480, 30.0))


@pytest.mark.parametrize(
    ("name", "modes", "signs"),
    [
        ("PureThermal (fw:v1.3.0)", LEPTON, ("PureThermal", "Y16", "160x120", "9 pictures")),
        ("FLIR Video", BOSON, ("FLIR", "Y16", "640x512")),
        ("USB Camera", (Mode("YUYV", 256, 384, 25.0),), ("256x384",)),
        ("HD Pro Webcam C920", WEBCAM, ()),
        ("Capture card", (), ()),
    ],
)
def test_thermal_cameras_are_told_from_webcams(
    name: str, modes: tuple[Mode, ...], signs: tuple[str, ...]
) -> None:
    found = signs_of_thermal(name, modes)
    assert len(found) == len(signs)
    for sign in signs:
        assert any(sign in text for text in found), found


def test_stable_names_are_found(tmp_path: Path) -> None:
    for number in (0, 1, 10):
        (tmp_path / f"video{number}").touch()
    for folder, name, number in (
        ("by-id", "usb-FLIR_Boson_123-video-index0", 1),
        ("by-path", "pci-0000:00:14.0-usb-0:2:1.0-video-index0", 1),
        ("by-path", "pci-0000:00:14.0-usb-0:3:1.0-video-index0", 0),
    ):
        (tmp_path / "v4l" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "v4l" / folder / name).symlink_to(f"../../video{number}")
    names = [link.name for link in stable_names(tmp_path / "video1", tmp_path)]
    assert names == ["pci-0000:00:14.0-usb-0:2:1.0-video-index0", "usb-FLIR_Boson_123-video-index0"]
    found = find_cameras(tmp_path)
    assert [camera.device.name for camera in found] == ["video0", "video1", "video10"]
    assert {camera.problem for camera in found} == {"not a video device"}


def test_cameras_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    boson = Camera(
        device=Path("/dev/video2"), name="FLIR Video", stable=(Path("/dev/v4l/by-path/usb-0:2"),), modes=BOSON
    )
    monkeypatch.setattr("streamfuse.capture.devices.find_cameras", lambda: [boson])
    assert run("devices") == 0
    text = capsys.readouterr().out
    assert "/dev/video2: FLIR Video\n  use       /dev/v4l/by-path/usb-0:2\n" in text
    assert "640x512 @ 60" in text
    assert "thermal?  is called 'FLIR'" in text
    assert run("devices", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["thermal"][0] == "is called 'FLIR'"


def test_a_machine_without_cameras_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("streamfuse.capture.devices.find_cameras", lambda: [])
    assert run("devices") == 0
    assert "no cameras" in capsys.readouterr().out
