"""Sources that read files: videos, and folders of pictures."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import media
import numpy as np
import pytest
from sources import FRAMES, make, read_all, read_all_after_open

from streamfuse.capture._hardware import _log_fallback
from streamfuse.capture.image_stamps import parse_name
from streamfuse.capture.source import Source
from streamfuse.clock import NS_PER_S
from streamfuse.errors import SourceError
from streamfuse.frame import DropCause

# --- Video files --------------------------------------------------------------------------------------

CONTAINERS = ["mp4", "mkv", "ts", "avi"]


def _seekable_clip(folder: Path, container: str) -> Path:
    codec = "mpeg4" if container == "avi" else "libx264"
    options = {"qscale": "2", "g": "10"} if container == "avi" else {"bf": "2", "g": "10"}
    return media.write_clip(folder / f"a.{container}", frames=FRAMES, codec=codec, options=options)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(("start", "end"), [(0, 7), (1, FRAMES), (9, 12), (10, 11), (17, 40)])
def test_span_begins_and_ends_at_the_very_picture(
    tmp_path: Path, opened: Callable[..., Source], container: str, start: int, end: int
) -> None:
    path = _seekable_clip(tmp_path, container)
    source = opened("file", path=path, start_s=start / 25, end_s=end / 25)
    assert [media.frame_number(f.image) for f in read_all(source)] == list(range(start, min(end, FRAMES)))


def test_span_of_a_file_without_stamps(tmp_path: Path, opened: Callable[..., Source]) -> None:
    path = media.write_clip(tmp_path / "a.h264", frames=FRAMES)
    frames = read_all(opened("file", path=path, fps=10, start_s=0.5, end_s=0.8))
    assert [(f.pts, media.frame_number(f.image)) for f in frames] == [(5, 5), (6, 6), (7, 7)]


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_variable_rate_keeps_every_stamp(
    tmp_path: Path, opened: Callable[..., Source], container: str
) -> None:
    pts = [0, 40, 47, 120, 121, 300, 1000, 1033]
    options = {"video_track_timescale": "1000"} if container == "mp4" else {}
    path = media.write_clip(
        tmp_path / f"a.{container}", frames=len(pts), pts=pts, rate=1000, container_options=options
    )
    frames = read_all(opened("file", path=path))
    assert [f.pts * f.time_base * 1000 for f in frames] == pts


# (a, b, c, d) of the display matrix, and where the white and the red corner are then: (row, column)
MATRICES = {
    "90 clockwise": ((0, 1, -1, 0), (0, -1), (-1, -1)),
    "180": ((-1, 0, 0, -1), (-1, -1), (-1, 0)),
    "270 clockwise": ((0, -1, 1, 0), (-1, 0), (0, 0)),
    "mirrored": ((-1, 0, 0, 1), (0, -1), (0, 0)),
    "upside down": ((1, 0, 0, -1), (-1, 0), (-1, -1)),
    "transposed": ((0, 1, 1, 0), (0, 0), (-1, 0)),
    "upright": ((1, 0, 0, 1), (0, 0), (0, -1)),
}


@pytest.mark.parametrize(("matrix", "white", "red"), MATRICES.values(), ids=MATRICES.keys())
def test_rotation_mark_is_honoured(
    tmp_path: Path,
    opened: Callable[..., Source],
    matrix: tuple[int, int, int, int],
    white: tuple[int, int],
    red: tuple[int, int],
) -> None:
    path = media.set_mp4_matrix(media.write_clip(tmp_path / "a.mp4", frames=2), *matrix)
    source = make("file", path=path)
    info = source.open()
    frame = source.read()
    source.close()
    assert frame is not None
    turned = matrix[0] == 0
    assert (info.width, info.height) == ((64, 96) if turned else (96, 64))
    assert frame.image.shape == (info.height, info.width, 3)
    corners = {
        (row, column): frame.image[row * 4 + (0 if row else 4), column * 4 + (0 if column else 4)].astype(int)
        for row in (0, -1)
        for column in (0, -1)
    }
    assert corners[white].min() > 200
    assert corners[red][0] > 180
    assert corners[red][1] < 80


def test_damaged_packets_are_counted_and_the_rest_is_delivered(
    tmp_path: Path, opened: Callable[..., Source], caplog: pytest.LogCaptureFixture
) -> None:
    clip_path = media.write_clip(tmp_path / "a.avi", frames=FRAMES, codec="mjpeg", pix_fmt="yuvj420p")
    path = media.spoil(clip_path, {5, 6, 20}, lambda data: data[:4])
    source = opened("file", path=path)
    frames = read_all(source)
    assert [media.frame_number(f.image) for f in frames] == [i for i in range(FRAMES) if i not in (5, 6, 20)]
    assert source.drops == {DropCause.CORRUPT: 3}  # type: ignore[attr-defined]
    assert "3 packets could not be decoded" in caplog.text


def test_patched_up_pictures_are_marked(tmp_path: Path, opened: Callable[..., Source]) -> None:
    clip_path = media.write_clip(tmp_path / "a.mkv", frames=FRAMES, codec="mpeg4")
    path = media.spoil(clip_path, {5, 20}, lambda data: data[: len(data) // 2])
    frames = read_all(opened("file", path=path))
    assert [i for i, frame in enumerate(frames) if frame.corrupt] == [5, 20]
    assert len(frames) == FRAMES


def test_a_clip_cut_off_gives_what_it_has_and_says_so(
    tmp_path: Path, opened: Callable[..., Source], caplog: pytest.LogCaptureFixture
) -> None:
    path = media.write_clip(tmp_path / "a.mkv", frames=FRAMES, codec="ffv1")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    frames = read_all(opened("file", path=path))
    assert [media.frame_number(f.image) for f in frames] == list(range(len(frames)))
    assert 0 < len(frames) < FRAMES
    assert "cut off" in caplog.text


def test_a_clip_that_begins_late_is_not_cut_off(
    tmp_path: Path, opened: Callable[..., Source], caplog: pytest.LogCaptureFixture
) -> None:
    path = media.write_clip(tmp_path / "a.mkv", frames=FRAMES, pts=range(2500, 2500 + FRAMES))
    source = make("file", path=path)
    assert source.open().frame_count == FRAMES
    source.close()
    assert len(read_all(opened("file", path=path))) == FRAMES
    assert "cut off" not in caplog.text


def test_sound_beside_the_picture_is_no_trouble(tmp_path: Path, opened: Callable[..., Source]) -> None:
    path = media.write_clip(tmp_path / "a.mp4", frames=5, audio=True)
    assert len(read_all(opened("file", path=path))) == 5


def test_limited_range_grey_is_stretched(tmp_path: Path, opened: Callable[..., Source]) -> None:
    levels = np.repeat(np.array([16, 126, 235], np.uint8), 32)[None].repeat(64, axis=0)
    path = media.write_grey_clip(tmp_path / "a.mkv", levels, limited_range=True)
    frame = opened("file", path=path).read()
    assert frame is not None
    assert frame.image[0, [0, 40, 80]].tolist() == [0, 128, 255]


def test_hardware_decoding_falls_back_to_software_and_says_why_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _log_fallback.cache_clear()
    path = media.write_clip(tmp_path / "a.mp4", frames=3)
    for _ in range(2):
        source = make("file", path=path, hardware="videotoolbox")
        assert source.open().detail == ""
        assert len(read_all(source)) == 3
        source.close()
    reasons = [r.getMessage() for r in caplog.records if "software" in r.getMessage()]
    assert reasons == [
        "decoding in software, no hardware decoder works here (videotoolbox: not in this build of FFmpeg)"
    ]


def test_m2vd_is_delivered_whole(shared_data: Path, opened: Callable[..., Source]) -> None:
    for stream in ("infrared", "visible"):
        source = opened("file", path=shared_data / "data/m2vd" / stream / "0111_1716.mp4")
        frames = read_all(source)
        assert [f.pts for f in frames] == [512 * i for i in range(151)]
        assert {f.image.shape for f in frames} == {(480, 640, 3)}


def _empty(folder: Path) -> Path:
    path = folder / "empty.mp4"
    path.touch()
    return path


def _without_index(folder: Path) -> Path:
    path = media.write_clip(folder / "cut.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])
    return path


def _text(folder: Path) -> Path:
    path = folder / "notes.mp4"
    path.write_text("not a video\n" * 50)
    return path


def _undecodable(folder: Path) -> Path:
    path = media.write_clip(folder / "a.avi", frames=3, codec="mjpeg", pix_fmt="yuvj420p")
    return media.spoil(path, range(3), lambda data: data[:4])


def _misspelt(folder: Path) -> Path:
    media.write_clip(folder / "clip_1.mp4", frames=1)
    return folder / "clip_2.mp4"


BAD_FILES = {
    "missing": (_misspelt, {}, "no such file; did you mean 'clip_1.mp4'"),
    "missing folder": (lambda folder: folder / "no" / "a.mp4", {}, "nor a folder"),
    "empty": (_empty, {}, r"is empty \(0 bytes\)"),
    "folder": (lambda folder: folder, {}, "kind 'images'"),
    "audio only": (lambda folder: media.write_audio(folder / "a.mp4"), {}, "holds no video, only audio"),
    "truncated MP4": (_without_index, {}, "truncated: this MP4 has no index"),
    "no video": (_text, {}, "not a video file that can be read"),
    "nothing decodes": (_undecodable, {}, "not one picture of its mjpeg video"),
    "no stamps": (lambda folder: media.write_clip(folder / "a.h264"), {}, "give its rate with fps"),
    "fps not needed": (
        lambda folder: media.write_clip(folder / "a.mp4"),
        {"fps": 5},
        "time stamps of its own",
    ),
    "beyond the end": (lambda folder: media.write_clip(folder / "a.mp4"), {"start_s": 9}, "9 s to its end"),
    "backwards": (lambda folder: folder / "a.mp4", {"start_s": 2, "end_s": 1}, "not before end_s 1"),
}


@pytest.mark.parametrize(("write", "options", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_file_is_named_and_explained(
    tmp_path: Path, write: Callable[[Path], Path], options: dict[str, Any], message: str
) -> None:
    path = write(tmp_path)
    source = make("file", path=path, **options)
    with pytest.raises(SourceError, match=message) as caught:
        source.open()
    assert str(path) in str(caught.value)
    source.close()


# --- Folders of pictures ------------------------------------------------------------------------------


def test_pictures_come_in_natural_order_with_their_names(
    tmp_path: Path, opened: Callable[..., Source]
) -> None:
    folder = media.write_pictures(tmp_path, ["f10.png", "f9.png", "f100.png", "f1.png"])
    (folder / "notes.txt").touch()
    source = make("images", path=folder)
    assert source.open().fps == 25
    assert [f.name for f in read_all(source)] == ["f1", "f9", "f10", "f100"]


EPOCH_NAMES = {
    "seconds": [f"ir_{1700000000 + i / 10:.6f}.png" for i in range(4)],
    "milliseconds": [f"{1700000000000 + 100 * i}.png" for i in range(4)],
    "microseconds": [f"cam0-{1700000000000000 + 100_000 * i}.png" for i in range(4)],
    "nanoseconds": [f"{1700000000000000000 + 100_000_000 * i}.png" for i in range(4)],
    "calendar": [f"20231114_221320_{i}00.png" for i in range(4)],
    "ISO": [f"2023-11-14T22:13:20.{i}.png" for i in range(4)],
}


@pytest.mark.parametrize("names", EPOCH_NAMES.values(), ids=EPOCH_NAMES.keys())
def test_times_are_read_from_names(tmp_path: Path, names: list[str]) -> None:
    source = make("images", path=media.write_pictures(tmp_path, names))
    assert source.open().fps == pytest.approx(10)
    frames = read_all(source)
    expected = [1_700_000_000 * NS_PER_S + i * NS_PER_S // 10 for i in range(4)]
    assert [f.pts for f in frames] == expected
    assert {f.time_base for f in frames} == {Fraction(1, NS_PER_S)}
    assert [f.t_capture_hint for f in frames] == expected


@pytest.mark.parametrize(
    "stem", ["0001", "FLIR_00122", "0111_1716", "20231114_000061", "0000000000123", "99999999999", "frame"]
)
def test_counters_are_not_taken_for_times(stem: str) -> None:
    found = parse_name(stem)
    assert found is None or not found[1]


def test_repeated_times_in_names_are_not_taken_for_times(tmp_path: Path) -> None:
    names = [f"{n}_{1700000000000}.png" for n in "ab"]
    source = make("images", path=media.write_pictures(tmp_path, names))
    assert source.open().detail == "times from rate"
    with pytest.raises(SourceError, match=r"b_1700000000000.png and a_1700000000000.png: both have the time"):
        make("images", path=tmp_path, timestamps="name").open()


def test_the_csv_in_the_folder_is_found_and_orders_the_pictures(tmp_path: Path) -> None:
    folder = media.write_pictures(tmp_path, ["a.png", "b.png", "c.png"])
    (folder / "timestamps.csv").write_text("#timestamp [ns],filename\n30,a.png\n10,b.png\n20,c.png\n")
    source = make("images", path=folder)
    assert source.open().detail == "times from csv"
    assert [(f.name, f.pts) for f in read_all(source)] == [("b", 10), ("c", 20), ("a", 30)]


@pytest.mark.parametrize("start", [0, 3])
def test_span_of_a_folder(tmp_path: Path, start: int) -> None:
    folder = media.write_pictures(tmp_path, [f"{i}.png" for i in range(8)])
    source = make("images", path=folder, fps=10, start_s=start / 10, end_s=0.6)
    assert source.open().frame_count == 6 - start
    assert [f.pts for f in read_all(source)] == list(range(start, 6))


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    folder = media.write_pictures(tmp_path, ["a.jpg"])
    data = (folder / "a.jpg").read_bytes()
    tag = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"  # orientation 6: turn by 90 degrees clockwise
    exif = b"Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01" + tag + bytes(4)
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (folder / "a.jpg").write_bytes(data[:2] + segment + data[2:])
    source = make("images", path=folder)
    info = source.open()
    frame = source.read()
    assert (info.width, info.height) == (media.HEIGHT, media.WIDTH)
    assert frame is not None
    assert frame.image[4, -4].min() > 200


def _mixed_sizes(folder: Path) -> dict[str, Any]:
    media.write_pictures(folder, ["a.png", "b.png"])
    cv2.imwrite(str(folder / "b.png"), np.zeros((20, 30, 3), np.uint8))
    return {}


def _mixed_depths(folder: Path) -> dict[str, Any]:
    media.write_pictures(folder, ["a.png"], grey=True)
    media.write_pictures(folder, ["b.png"], grey16=True)
    return {}


def _broken_picture(folder: Path) -> dict[str, Any]:
    media.write_pictures(folder, ["a.png", "b.png"])
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return {}


def _csv(text: str) -> Callable[[Path], dict[str, Any]]:
    def write(folder: Path) -> dict[str, Any]:
        media.write_pictures(folder, ["a.png", "b.png"])
        (folder / "timestamps.csv").write_text(text)
        return {}

    return write


def _undated(folder: Path) -> dict[str, Any]:
    media.write_pictures(folder, ["a.png"])
    return {"timestamps": "name"}


def _dated_with_fps(folder: Path) -> dict[str, Any]:
    _csv("name,timestamp_s\na.png,1\nb.png,2\n")(folder)
    return {"fps": 5}


def _colour16(folder: Path) -> dict[str, Any]:
    cv2.imwrite(str(folder / "a.png"), np.zeros((20, 30, 3), np.uint16))
    return {}


BAD_FOLDERS = {
    "mixed sizes": (_mixed_sizes, r"b\.png: 30x20 8-bit colour, but a\.png is 96x64 8-bit colour"),
    "mixed depths": (_mixed_depths, r"b\.png: 96x64 16-bit grey, but a\.png is 96x64 8-bit grey"),
    "broken picture": (_broken_picture, r"b\.png: not a picture that can be read"),
    "16-bit colour": (_colour16, r"a\.png: 16-bit colour"),
    "no pictures": (lambda folder: {}, "holds no pictures"),
    "no folder": (lambda folder: {"path": folder / "no"}, "no such folder"),
    "a file": (lambda folder: {"path": media.write_clip(folder / "a.mp4", frames=1)}, "is not a folder"),
    "no time in the name": (_undated, r"a\.png: no time in its name"),
    "CSV header": (_csv("file;when\n"), r"timestamps\.csv:1: the header must hold 'name'"),
    "CSV number": (_csv("name,timestamp_s\na.png,x\n"), r"timestamps\.csv:2: not a name and a number"),
    "CSV short row": (_csv("name,timestamp_s\na.png\n"), r"timestamps\.csv:2: not a name and a number"),
    "CSV picture missing": (_csv("name,timestamp_s\na.png,1\n"), r"timestamps\.csv: no row for b\.png"),
    "CSV unknown picture": (
        _csv("name,timestamp_s\na.png,1\nb.png,2\nc.png,3\n"),
        r"timestamps\.csv:4: c\.png is not in the folder",
    ),
    "CSV twice": (_csv("name,timestamp_s\na.png,1\na.png,2\n"), r"a\.png has a row already, line 2"),
    "CSV same time": (_csv("name,timestamp_s\na.png,1\nb.png,1\n"), "both have the time"),
    "CSV and fps": (_dated_with_fps, "fps 5 given, but its times come from the csv"),
    "CSV not there": (lambda folder: _undated(folder) | {"timestamps": "csv"}, "cannot be read"),
}


@pytest.mark.parametrize(("write", "message"), BAD_FOLDERS.values(), ids=BAD_FOLDERS.keys())
def test_bad_folder_is_explained(
    tmp_path: Path, write: Callable[[Path], dict[str, Any]], message: str
) -> None:
    source = make("images", **({"path": tmp_path} | write(tmp_path)))
    with pytest.raises(SourceError, match=message):
        read_all_after_open(source)
