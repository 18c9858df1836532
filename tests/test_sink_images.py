"""Image sequences and callables as sinks."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from factories import fused_frame
from pydantic import ValidationError

from streamfuse.capture.image_folder import ImageFolderOptions as ImageSourceOptions
from streamfuse.capture.image_folder import ImageFolderSource
from streamfuse.clock import NS_PER_S, VirtualClock
from streamfuse.errors import SinkError
from streamfuse.frame import FusedFrame
from streamfuse.sinks.image_folder import ImageFolderOptions, ImageFolderSink
from streamfuse.sinks.python import PythonSink, PythonSinkOptions


def write_all(path: Path, frames: list[FusedFrame], **options: Any) -> None:
    sink = ImageFolderSink(ImageFolderOptions(path=path, **options), clock=VirtualClock())
    sink.open()
    for frame in frames:
        sink.write(frame)
    sink.close()
    sink.close()


def read(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_png_is_lossless_and_numbered(tmp_path: Path) -> None:
    frames = [fused_frame(i) for i in (0, 1, 12)]
    write_all(tmp_path / "deep" / "out", frames)
    files = sorted((tmp_path / "deep" / "out").glob("*.png"))
    assert [f.name for f in files] == ["000000.png", "000001.png", "000012.png"]
    for file, frame in zip(files, frames, strict=True):
        assert (read(file) == frame.image).all()


def test_pictures_are_named_like_their_source(tmp_path: Path) -> None:
    frames = [fused_frame(0, name="FLIR_06307"), fused_frame(1, name="FLIR_06307"), fused_frame(2)]
    write_all(tmp_path, frames)
    assert sorted(f.name for f in tmp_path.glob("*.png")) == [
        "000002.png",
        "FLIR_06307.png",
        "FLIR_06307_000001.png",
    ]
    write_all(tmp_path / "numbers", frames, names="number")
    assert (tmp_path / "numbers" / "000000.png").is_file()


def test_the_times_come_back_with_the_pictures(tmp_path: Path) -> None:
    start = 1_700_000_000 * NS_PER_S
    stamps = [start, start + 33_000_001, start + 900_000_000]
    frames = [fused_frame(i, pts=t, time_base=Fraction(1, NS_PER_S)) for i, t in enumerate(stamps)]
    write_all(tmp_path, frames)
    source = ImageFolderSource(ImageSourceOptions(path=tmp_path), clock=VirtualClock())
    source.open()
    for stamp in stamps:
        frame = source.read()
        assert frame is not None
        assert frame.pts * frame.time_base == Fraction(stamp, NS_PER_S)
    source.close()
    write_all(tmp_path / "plain", frames, timestamps=False)
    assert not (tmp_path / "plain" / "timestamps.csv").exists()


def test_any_file_name_comes_back_with_its_time(tmp_path: Path) -> None:
    names = ["dusk, 5 m", 'the "gate"', "grün", "\udcff"]
    start = 1_700_000_000 * NS_PER_S
    frames = [
        fused_frame(i, name=name, pts=start + i, time_base=Fraction(1, NS_PER_S))
        for i, name in enumerate(names)
    ]
    write_all(tmp_path, frames)
    source = ImageFolderSource(ImageSourceOptions(path=tmp_path, timestamps="csv"), clock=VirtualClock())
    source.open()
    read_back = [source.read() for _ in names]
    source.close()
    assert [(frame.name, frame.pts) for frame in read_back if frame is not None] == [
        (name, start + i) for i, name in enumerate(names)
    ]


def test_jpeg_quality_counts(tmp_path: Path) -> None:
    frame = fused_frame(0, width=160, height=120)
    write_all(tmp_path / "fine", [frame], format="jpeg")
    write_all(tmp_path / "coarse", [frame], format="jpeg", quality=20)
    fine, coarse = tmp_path / "fine" / "000000.jpg", tmp_path / "coarse" / "000000.jpg"
    assert coarse.stat().st_size < fine.stat().st_size / 2
    assert cv2.PSNR(read(fine), frame.image) > 35


def test_the_picture_chosen_is_written(tmp_path: Path) -> None:
    frame = fused_frame(0)
    write_all(tmp_path, [frame], picture="registered_ir")
    assert (read(tmp_path / "000000.png") == frame.registered_ir[..., None]).all()


def test_a_second_run_replaces_the_first(tmp_path: Path) -> None:
    write_all(tmp_path, [fused_frame(0)])
    other = fused_frame(0, image=np.zeros((48, 64, 3), np.uint8))
    write_all(tmp_path, [other])
    assert [f.name for f in tmp_path.glob("*.png")] == ["000000.png"]
    assert not read(tmp_path / "000000.png").any()


def test_trouble_is_named_and_leaves_no_torn_picture(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match=r"file/out: cannot be written: Not a directory"):
        ImageFolderSink(ImageFolderOptions(path=tmp_path / "file/out"), clock=VirtualClock()).open()
    out = tmp_path / "out"
    sink = ImageFolderSink(ImageFolderOptions(path=out), clock=VirtualClock())
    sink.write(fused_frame(0))
    (out / "000001.png").mkdir()
    with pytest.raises(SinkError, match=r"000001\.png: writing failed: .*; earlier pictures are kept"):
        sink.write(fused_frame(1))
    assert sorted(f.name for f in out.glob("*.png")) == ["000000.png", "000001.png"]
    with pytest.raises(ValidationError, match="lossless"):
        ImageFolderOptions(path=out, quality=3)


class Collector:
    def __init__(self) -> None:
        self.frames: list[FusedFrame] = []
        self.closed = 0

    def __call__(self, frame: FusedFrame) -> None:
        self.frames.append(frame)

    def close(self) -> None:
        self.closed += 1


def test_a_callable_gets_every_frame_and_is_closed_once() -> None:
    collector = Collector()
    sink = PythonSink(PythonSinkOptions(call=collector), clock=VirtualClock())
    sink.open()
    frames = [fused_frame(i) for i in range(3)]
    for frame in frames:
        sink.write(frame)
    sink.close()
    sink.close()
    assert collector.frames == frames
    assert collector.closed == 1


def test_a_callable_by_name() -> None:
    assert PythonSinkOptions(call="builtins:print").call is print
    assert PythonSinkOptions.model_json_schema()["properties"]["call"]["type"] == "string"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("print", "'module:function'"),
        ("no_such_module:f", "cannot be imported"),
        ("os:no_such", "cannot be imported"),
        (3, "cannot be called"),
    ],
)
def test_what_cannot_be_called_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PythonSinkOptions(call=call)


def test_an_error_of_the_callable_is_wrapped() -> None:
    def explode(frame: FusedFrame) -> None:
        raise KeyError(frame.seq)

    sink = PythonSink(PythonSinkOptions(call=explode), clock=VirtualClock())
    with pytest.raises(SinkError, match=r"explode failed at frame 4: KeyError: 4") as caught:
        sink.write(fused_frame(4))
    assert isinstance(caught.value.__cause__, KeyError)
