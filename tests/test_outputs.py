"""Outputs never take the place of inputs, and whether they can be written is known before the work."""

import hashlib
from pathlib import Path

import media
import pytest
from recordings import FAST

from streamfuse.cli import main
from streamfuse.config import parse_config
from streamfuse.errors import ConfigError, SinkError
from streamfuse.outputs import check_writable, refuse_overwriting


def content(folder: Path) -> dict[Path, str]:
    return {
        file: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*") if file.is_file()
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two clips, folders of clips and of pictures, and links to them."""
    root = tmp_path / "data"
    for stream in ("ir", "vis"):
        for folder in ("clips", "pictures"):
            (root / folder / stream).mkdir(parents=True)
        media.write_clip(root / f"{stream}.mkv", frames=3)
        media.write_clip(root / "clips" / stream / "a.mkv", frames=3)
        media.write_pictures(root / "pictures" / stream, ["0.png", "1.png"])
    (root / "link.mkv").symlink_to("vis.mkv")
    (root / "hard.mkv").hardlink_to(root / "ir.mkv")
    (root / "elsewhere").symlink_to("clips/vis")
    return root


CLIPS = ("ir.mkv", "vis.mkv")
PICTURES = ("pictures/ir/0.png", "pictures/vis/0.png")


@pytest.mark.parametrize(
    ("command", "inputs", "options"),
    [
        ("fuse", CLIPS, ["-o", "ir.mkv"]),
        ("fuse", CLIPS, ["-o", "link.mkv"]),
        ("fuse", CLIPS, ["-o", "hard.mkv"]),
        ("fuse", ("clips",), ["-o", "elsewhere", "--overwrite"]),
        ("fuse", CLIPS, ["-o", "new.mkv", "--save-registered", "vis.mkv"]),
        ("fuse", CLIPS, ["-o", "new.mkv", "--frame-log", "vis.mkv"]),
        ("fuse", ("pictures/ir", "pictures/vis"), ["-o", "pictures/vis"]),
        ("fuse", ("pictures/ir", "pictures/vis"), ["-o", "pictures/ir", "--independent", "--overwrite"]),
        ("fuse", ("clips",), ["-o", "clips/vis", "--overwrite"]),
        ("fuse", ("clips",), ["-o", "clips/ir"]),
        ("fuse", PICTURES, ["-o", "pictures/ir/0.png"]),
        ("fuse", PICTURES, ["-o", "new.png", "--save-registered", "pictures/vis/0.png"]),
        ("fuse", PICTURES, ["-o", "pictures/vis"]),
        ("calibrate", CLIPS, ["-o", "ir.mkv"]),
        ("offset", CLIPS, ["--json", "vis.mkv"]),
    ],
)
def test_an_output_in_the_place_of_an_input_is_refused(
    command: str,
    inputs: tuple[str, ...],
    options: list[str],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(data)
    before = content(data)
    assert main([command, *inputs, *options, *(FAST if command == "fuse" else ())]) == 2
    told = capsys.readouterr().err
    assert "input" in told or "sources." in told
    assert content(data) == before


def test_two_outputs_in_one_place_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs, out = [str(data / name) for name in CLIPS], str(tmp_path / "out.mkv")
    assert main(["fuse", *inputs, "-o", out, "--save-registered", out, *FAST]) == 2
    assert f"sinks.1.path: {out} is the path of sinks.0 too" in capsys.readouterr().err
    with pytest.raises(SinkError, match=r"out\.png: is asked for twice"):
        refuse_overwriting(["out.png", "./out.png"], {"infrared": "a.png"})


def test_one_clip_may_be_both_sources() -> None:
    source = {"kind": "file", "path": "a.mkv"}
    sink = {"kind": "file", "path": "b.mkv"}
    assert parse_config({"sources": {"ir": source, "vis": source}, "sinks": [sink]}).sinks
    with pytest.raises(ConfigError, match=r"sinks\.0\.path: a\.mkv is the path of sources\.ir too"):
        parse_config({"sources": {"ir": source, "vis": source}, "sinks": [source]})


@pytest.mark.parametrize(
    "arguments",
    [
        ["fuse", *CLIPS, "-o", "new/out.mkv", "--report", "BAD"],
        ["eval", "--ir", "pictures/ir", "--vis", "pictures/vis", "--json", "BAD"],
        [
            "eval",
            "models",
            "--ir",
            "pictures/ir",
            "--vis",
            "pictures/vis",
            "--fusers",
            "guided",
            "--html",
            "BAD",
        ],
        ["eval", "motion", *CLIPS, "--json", "BAD"],
        ["warm", *CLIPS, "--json", "BAD"],
        ["warm", *CLIPS, "--columns", "BAD"],
        ["calibrate", *CLIPS, "-o", "BAD"],
        ["offset", *CLIPS, "--json", "BAD"],
        ["bench", "models", "--plot", "BAD"],
    ],
    ids=" ".join,
)
def test_a_report_that_cannot_be_written_is_told_before_the_work(
    arguments: list[str],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(data)
    bad = "ir.mkv/report.json"
    assert main([bad if word == "BAD" else word for word in arguments]) == 2
    told = capsys.readouterr()
    assert bad.partition("/")[0] in told.err
    assert "cannot be written: " in told.err
    assert told.out == ""
    assert not (data / "new").exists()


def test_the_check_makes_folders_and_leaves_files_as_they_are(tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    old.write_text("kept")
    check_writable(old, None, tmp_path / "new" / "one.json")
    assert old.read_text() == "kept"
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == []
    with pytest.raises(SinkError, match="cannot be written: Is a directory"):
        check_writable(tmp_path)


@pytest.mark.parametrize(
    ("inputs", "options", "says"),
    [
        (CLIPS, ["--jobs", "2"], "--jobs is for folders, not for one pair"),
        (CLIPS, ["--shard", "1/2"], "--shard is for folders, not for one pair"),
        (CLIPS, ["--ir-move"], "--ir-move is for the root of a data set"),
        (("pictures",), ["--independent", "--end", "0"], "--end is for clips, not for single pictures"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    inputs: tuple[str, ...],
    options: list[str],
    says: str,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(data)
    assert main(["fuse", *inputs, "-o", "out", *options, *FAST]) == 2
    assert says in capsys.readouterr().err
