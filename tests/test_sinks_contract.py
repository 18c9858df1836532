"""What every sink promises, whatever it writes to."""

import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import pytest
from factories import fused_frame
from pydantic import ValidationError

from streamfuse.clock import RealClock
from streamfuse.errors import SinkError
from streamfuse.registry import Options
from streamfuse.sinks import SINKS

FRAMES = 3
WINDOWLESS = [kind for kind in SINKS.names() if not getattr(SINKS.load(kind), "main_thread", False)]
"""The window has a test file of its own: it needs a display."""
PATHS = {"file": "out.mkv", "images": "out", "frame-log": "out.jsonl", "pairing-table": "out.csv"}

calls: list[Any] = []


def make(kind: str, folder: Path) -> Any:
    options: dict[str, Any] = {"zmq": {"bind": "tcp://127.0.0.1:0"}, "python": {"call": calls.append}}.get(
        kind, {}
    )
    if kind in PATHS:
        options = {"path": folder / PATHS[kind]}
    sink_class = SINKS.load(kind)
    return sink_class(sink_class.Options(**options), clock=RealClock())


def count(kind: str, folder: Path) -> int:
    """Frames that arrived."""
    if kind == "file":
        with av.open(str(folder / "out.mkv")) as container:
            return sum(1 for _ in container.decode(video=0))
    if kind == "images":
        return len(list((folder / "out").glob("*.png")))
    if kind == "frame-log":
        return len((folder / "out.jsonl").read_text().splitlines())
    if kind == "pairing-table":
        return len((folder / "out.csv").read_text().splitlines()) - 1
    return len(calls)


@pytest.mark.parametrize("kind", SINKS.names())
def test_options_are_typed_documented_and_closed(kind: str) -> None:
    options = SINKS.load(kind).Options
    assert issubclass(options, Options)
    assert options.model_json_schema()["properties"]
    with pytest.raises(ValidationError, match="no_such_option"):
        options(no_such_option=1)


@pytest.mark.parametrize("kind", WINDOWLESS)
def test_making_a_sink_acquires_nothing(kind: str, tmp_path: Path) -> None:
    before = threading.active_count()
    sink = make(kind, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before
    sink.close()


@pytest.mark.parametrize("kind", WINDOWLESS)
@pytest.mark.parametrize("opened", [0, 1, 2])
def test_frames_arrive_whether_or_not_it_was_opened_first(kind: str, opened: int, tmp_path: Path) -> None:
    calls.clear()
    sink = make(kind, tmp_path)
    for _ in range(opened):
        sink.open()
    for index in range(FRAMES):
        sink.write(fused_frame(index))
    sink.close()
    sink.close()
    if kind != "zmq":  # nobody listened; its own tests do
        assert count(kind, tmp_path) == FRAMES


@pytest.mark.parametrize("kind", sorted(PATHS))
def test_what_cannot_be_written_is_refused_on_open(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    sink = make(kind, tmp_path / "file")
    with pytest.raises(SinkError, match="cannot be written"):
        sink.open()
    sink.close()


@pytest.mark.parametrize("kind", sorted(PATHS))
def test_a_frame_without_infrared_is_a_frame(kind: str, tmp_path: Path) -> None:
    sink = make(kind, tmp_path)
    sink.write(fused_frame(0, with_ir=False))
    sink.close()
    assert count(kind, tmp_path) == 1


@pytest.mark.parametrize("kind", sorted(PATHS))
def test_an_output_removed_under_its_writer_is_told(kind: str, tmp_path: Path) -> None:
    sink = make(kind, tmp_path / "run")
    sink.open() if kind == "images" else (tmp_path / "run").mkdir()
    sink.write(fused_frame(0))
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(SinkError, match=r"removed while it was being written|writing failed: No such file"):
        sink.write(fused_frame(1))
    sink.close()


@pytest.mark.parametrize("kind", ["file", "frame-log", "pairing-table"])
def test_an_output_may_be_renamed_under_its_writer(kind: str, tmp_path: Path) -> None:
    sink = make(kind, tmp_path)
    sink.write(fused_frame(0))
    (tmp_path / PATHS[kind]).rename(tmp_path / "kept")
    for index in range(1, FRAMES):
        sink.write(fused_frame(index))
    sink.close()
    (tmp_path / "kept").rename(tmp_path / PATHS[kind])
    assert count(kind, tmp_path) == FRAMES


@pytest.mark.parametrize("kind", ["frame-log", "pairing-table"])
def test_a_table_on_a_full_disk_raises_nothing_but_sink_errors(kind: str, tmp_path: Path) -> None:
    (tmp_path / PATHS[kind]).symlink_to("/dev/full")
    sink = make(kind, tmp_path)
    with pytest.raises(SinkError, match="No space left on device"):
        sink.write(fused_frame(0))
    with suppress(SinkError):
        sink.close()
