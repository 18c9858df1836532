"""Several rigs in one process: each as if it were alone, whatever becomes of the others."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import media
import numpy as np
import pytest
import torch
from live_runs import ENDLESS, PATIENT, camera
from recordings import digest, pictures, settings

import streamfuse.pipeline.pipeline as pipeline_module
import streamfuse.pipeline.rigs as rigs_module
from streamfuse.cli import main
from streamfuse.config import Config, parse_config
from streamfuse.device.worker import DeviceWorker
from streamfuse.errors import ConfigError, SourceError
from streamfuse.frame import FusedFrame
from streamfuse.pipeline import Pipeline, Rigs


def recording(folder: Path, name: str, **clip: Any) -> str:
    """A configuration file beside a clip of its own."""
    source = {"kind": "file", "path": str(media.write_clip(folder / f"{name}-in.mkv", **clip))}
    tree = settings(source, source, sinks=[{"kind": "file", "path": str(folder / f"{name}.mkv")}])
    (folder / f"{name}.yaml").write_text(json.dumps(tree))  # JSON is YAML
    return str(folder / f"{name}.yaml")


def config(frames: Any, keep: list[FusedFrame], **sections: Any) -> Config:
    """A rig of arrays, whose frames are kept."""
    source = {"kind": "python", "frames": frames}
    sinks = [{"kind": "python", "call": keep.append}, *sections.pop("sinks", ())]
    return parse_config(settings(source, source, sinks=sinks, **sections))


def film(count: int = 12, *, first: int = 0) -> list[np.ndarray]:
    return [media.picture(first + i) for i in range(count)]


def test_run_takes_several_files_and_writes_what_each_describes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same films as by one run after the other."""
    names = ("left", "right")
    files = [recording(tmp_path, name, frames=frames) for name, frames in zip(names, (24, 9), strict=True)]
    alone = []
    for name, file in zip(names, files, strict=True):
        assert main(["run", file]) == 0
        alone.append(digest(tmp_path / f"{name}.mkv"))
    capsys.readouterr()
    report = tmp_path / "report.json"
    assert main(["run", *files, "--report", str(report)]) == 0
    assert [digest(tmp_path / f"{name}.mkv") for name in names] == alone
    told = capsys.readouterr().out
    places = [told.index(text) for text in ("left:", "24 in, 24 used", "right:", "9 in, 9 used")]
    assert places == sorted(places)
    assert {name: one["frames_out"] for name, one in json.loads(report.read_text()).items()} == {
        "left": 24,
        "right": 9,
    }


def test_each_rig_has_json_lines_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [recording(tmp_path, name, frames=6) for name in ("left", "right")]
    assert main(["run", *files, "--log-json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["rig"], line["frames_out"]) for line in lines if line.get("final")] == [
        ("left", 6),
        ("right", 6),
    ]


def test_a_rig_without_its_camera_leaves_the_others_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [recording(tmp_path, name, frames=8) for name in ("left", "right")]
    (tmp_path / "left-in.mkv").unlink()
    assert main(["run", *files]) == 1
    assert len(pictures(tmp_path / "right.mkv")) == 8
    assert "streamfuse run: left: " in capsys.readouterr().err


def test_a_rig_that_dies_on_the_way_leaves_the_others_alone() -> None:
    error = SourceError("the cable is out")

    def dies() -> Iterator[np.ndarray]:
        yield from film(3)
        raise error

    kept: dict[str, list[FusedFrame]] = {"dead": [], "living": []}
    source = {"kind": "python", "frames": film(12)}
    sinks = [{"kind": "python", "call": kept["dead"].append}]
    dead = parse_config(settings(source, {**source, "frames": dies()}, sinks=sinks))
    rigs = Rigs({"dead": dead, "living": config(film(12), kept["living"])})
    rigs.run()
    assert rigs.errors == {"dead": error}
    assert rigs.failed
    assert [frame.seq for frame in kept["living"]] == list(range(12))
    assert len(kept["dead"]) <= 3


@pytest.mark.usefixtures("faulty_kinds")
def test_stop_ends_all() -> None:
    tree = settings(camera(frames=ENDLESS), camera(frames=ENDLESS), pipeline=PATIENT)
    rigs = Rigs({name: parse_config(tree) for name in ("left", "right")})
    timer = threading.Timer(0.5, rigs.stop)
    timer.start()
    rigs.run()
    assert not rigs.failed
    for pipeline in rigs.pipelines.values():
        assert pipeline.report().frames_out > 0


@pytest.mark.usefixtures("faulty_kinds")
def test_a_rig_with_a_window_has_the_main_thread_and_only_one_may() -> None:
    window = {"kind": "window", "at": 4}
    kept: list[FusedFrame] = []
    rigs = Rigs({"seen": config(film(), kept, sinks=[window]), "unseen": config(film(), [])})
    rigs.run()
    assert not rigs.failed
    assert rigs.pipelines["unseen"].report().frames_out == 12
    with pytest.raises(ConfigError, match="seen and other have a sink with a window"):
        Rigs({name: config(film(), [], sinks=[window]) for name in ("seen", "other")})


@pytest.mark.parametrize("again", [True, False])
def test_rigs_do_not_write_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], again: bool) -> None:
    first = recording(tmp_path, "left")
    second = first
    if not again:
        second = str(tmp_path / "right.yaml")
        Path(second).write_text(Path(first).read_text())
    assert main(["run", first, second]) == 2
    said = f"right: sinks.0.path: {tmp_path / 'left.mkv'} is written by left"
    assert ("the same file twice" if again else said) in capsys.readouterr().err


def test_a_mistake_names_its_rig(tmp_path: Path) -> None:
    source = {"kind": "file", "path": "x.mkv"}
    trees = {name: settings(source, source) for name in ("a", "b")}
    trees["b"]["calibration"] = str(tmp_path / "nowhere.yaml")
    with pytest.raises(Exception, match=r"^b: .*nowhere\.yaml: cannot be read"):
        Rigs({name: parse_config(tree) for name, tree in trees.items()})


def test_threads_are_set_back_when_the_last_rig_has_ended() -> None:
    before = cv2.getNumThreads(), torch.get_num_threads()
    two = {"device": "cpu", "threads": 2}
    rigs = Rigs({str(i): config(film(3 + 5 * i), [], worker=two) for i in range(3)})
    rigs.run()
    assert (cv2.getNumThreads(), torch.get_num_threads()) == before


def test_rigs_of_one_device_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device worker without a device, in pipelines side by side: the frames are those of one alone."""
    asked: list[dict[str, Any]] = []

    def make(*components: Any, **how: Any) -> DeviceWorker:
        asked.append(how)
        return DeviceWorker(*components, device="cpu", **how)

    monkeypatch.setattr(pipeline_module, "make_worker", make)
    fusion = {"fusion": {"model": "max"}}
    wanted: list[FusedFrame] = []
    Pipeline(config(film(10), wanted, **fusion)).run()
    monkeypatch.setattr(rigs_module, "resolve_device", lambda name: "cuda")
    kept: dict[str, list[FusedFrame]] = {name: [] for name in ("left", "right", "top")}
    rigs = Rigs({name: config(film(10), keep, **fusion) for name, keep in kept.items()})
    rigs.run()
    assert rigs.errors == {}
    assert asked[0]["share"] is None
    assert len({id(how["share"]) for how in asked[1:]}) == 1
    assert sum(size * count for size, count in rigs.batches.items()) == 30
    for frames in kept.values():
        assert [frame.seq for frame in frames] == list(range(10))
        for one, other in zip(wanted, frames, strict=True):
            assert np.abs(one.image.astype(int) - other.image).max() <= 1
