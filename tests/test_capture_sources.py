"""The contract of a source, over every kind and several files each; pictures from Python; words for them."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import media
import numpy as np
import pytest
from sources import FRAMES, make, read_all, read_all_after_open

from streamfuse.capture import SOURCES
from streamfuse.capture.options import SourceOptions
from streamfuse.capture.source import Source
from streamfuse.capture.spec import open_source
from streamfuse.clock import NS_PER_S, VirtualClock
from streamfuse.errors import ConfigError, SourceError
from streamfuse.frame import RawFrame
from streamfuse.synth.code import read_code

# --- The contract -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A source of FRAMES pictures, and what it must deliver. `step_s`: from one picture to the next."""

    kind: str
    make: Callable[[Path], dict[str, Any]]
    layout: str
    step_s: Fraction = Fraction(1, 25)
    lossless: bool = False
    number: Callable[[Any], int | None] = media.frame_number
    size: tuple[int, int] = (media.WIDTH, media.HEIGHT)


def clip(name: str, **encoding: Any) -> Callable[[Path], dict[str, Any]]:
    return lambda folder: {"path": media.write_clip(folder / name, frames=FRAMES, **encoding)}


def raw_h264(folder: Path) -> dict[str, Any]:
    return clip("raw.h264")(folder) | {"fps": 30}


def pictures(pattern: str, **content: Any) -> Callable[[Path], dict[str, Any]]:
    names = [pattern.format(i) for i in range(FRAMES)]
    return lambda folder: {"path": media.write_pictures(folder / "pictures", names, **content)}


def dated_pictures(folder: Path) -> dict[str, Any]:
    return pictures("{0}.png")(folder) | {"timestamps": "csv", "csv": _table(folder)}


def _table(folder: Path) -> Path:
    rows = [f"{i}.png,{1700000000 + i / 10:.1f}" for i in range(FRAMES)]
    path = folder / "times.csv"
    path.write_text("\n".join(["name,timestamp_s", *rows]))
    return path


def from_list(folder: Path) -> dict[str, Any]:
    return {"frames": [media.picture(i) for i in range(FRAMES)]}


def from_generator_function(folder: Path) -> dict[str, Any]:
    def frames() -> Iterator[Any]:
        for i in range(FRAMES):
            yield i / 8, media.counts(i)

    return {"frames": frames}


def rendered(folder: Path) -> dict[str, Any]:
    small = {"vis_width": 160, "vis_height": 120, "ir_width": 160, "ir_height": 120}
    empty = {"people": 0, "cars": 0, "parked": 0, "trees": False}
    return {"stream": "ir", "duration_s": FRAMES / 25, "rig": small, "scene": empty}


CASES = {
    "h264 with B-frames, MP4": Case("file", clip("a.mp4", options={"bf": "2", "g": "8"}), "rgb8"),
    "h264, MKV": Case("file", clip("a.mkv"), "rgb8"),
    "h264, MPEG-TS": Case("file", clip("a.ts"), "rgb8"),
    "mpeg4, AVI": Case("file", clip("a.avi", codec="mpeg4", options={"qscale": "2"}), "rgb8"),
    "mjpeg, full range": Case("file", clip("a.mov", codec="mjpeg", pix_fmt="yuvj420p"), "rgb8"),
    "ffv1 colour": Case("file", clip("a.mkv", codec="ffv1", pix_fmt="bgr0"), "rgb8", lossless=True),
    "ffv1 grey": Case("file", clip("a.mkv", codec="ffv1", pix_fmt="gray"), "gray8"),
    "ffv1 16-bit": Case(
        "file", clip("a.mkv", codec="ffv1", pix_fmt="gray16le", grey16=True), "gray16", lossless=True
    ),
    "raw h264": Case("file", raw_h264, "rgb8", Fraction(1, 30)),
    "PNG": Case("images", pictures("{0}.png"), "rgb8", lossless=True),
    "JPEG": Case("images", pictures("frame_{0:03}.jpg"), "rgb8"),
    "BMP grey": Case("images", pictures("{0}.bmp", grey=True), "gray8"),
    "16-bit PNG": Case("images", pictures("{0}.png", grey16=True), "gray16", lossless=True),
    "16-bit TIFF": Case("images", pictures("{0}.tiff", grey16=True), "gray16", lossless=True),
    "pictures with a CSV": Case("images", dated_pictures, "rgb8", Fraction(1, 10), lossless=True),
    "list of arrays": Case("python", from_list, "rgb8", lossless=True),
    "rendered infrared": Case(
        "synthetic",
        rendered,
        "gray16",
        number=partial(read_code, corner="top_right"),
        size=(160, 120),
    ),
    "generator of counts": Case("python", from_generator_function, "gray16", Fraction(1, 8), lossless=True),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def test_delivers_every_picture_in_order_with_exact_stamps(case: Case, tmp_path: Path) -> None:
    source = make(case.kind, **case.make(tmp_path))
    info = source.open()
    frames = read_all(source)
    assert source.read() is None, "the end is not the end"
    source.close()

    assert len(frames) == FRAMES
    if info.frame_count is not None:
        assert info.frame_count == FRAMES
    for i, frame in enumerate(frames):
        assert frame.image.flags.c_contiguous
        assert frame.image.shape[:2] == (info.height, info.width) == case.size[::-1]
        assert frame.image.dtype == (np.uint16 if case.layout == "gray16" else np.uint8)
        assert frame.image.ndim == (3 if case.layout == "rgb8" else 2)
        assert frame.unit == ("counts" if case.layout == "gray16" else "agc8")
        assert not frame.corrupt
        if case.lossless:
            expected = media.counts(i) if case.layout == "gray16" else media.picture(i)
            np.testing.assert_array_equal(frame.image, expected)
        else:
            assert case.number(frame.image) == i
    times = [frame.pts * frame.time_base for frame in frames]  # type: ignore[operator]
    steps = {later - earlier for earlier, later in pairwise(times)}
    assert steps == {case.step_s}
    assert frames[0].time_base == info.time_base


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.layout == "rgb8"])
def test_colours_are_rgb(name: str, tmp_path: Path, opened: Callable[..., Source]) -> None:
    case = CASES[name]
    frame = opened(case.kind, **case.make(tmp_path)).read()
    assert frame is not None
    half = media.CORNER // 2
    red, green, blue = (int(v) for v in frame.image[half, -half])
    assert red > 180
    assert green < 70
    assert blue < 70


def test_may_be_opened_again(case: Case, tmp_path: Path) -> None:
    source = make(case.kind, **case.make(tmp_path))
    source.close()
    runs = []
    for _ in range(2):
        source.open()
        runs.append([(f.pts, f.image.tobytes()) for f in (source.read(), source.read()) if f is not None])
        source.close()
        source.close()
        assert source.read() is None
    assert len(runs[0]) == 2
    assert runs[0] == runs[1]


def test_arrival_is_read_from_the_clock_given(case: Case, tmp_path: Path) -> None:
    clock = VirtualClock(start_ns=5 * NS_PER_S)
    source_class = SOURCES.load(case.kind)
    source = source_class(source_class.Options.model_validate(case.make(tmp_path)), clock=clock)
    source.open()
    first = source.read()
    clock.advance_ns(NS_PER_S)
    rest = read_all(source)
    source.close()
    assert first.t_arrival == 5 * NS_PER_S
    assert rest[-1].t_arrival == 6 * NS_PER_S


def test_may_be_closed_under_a_reader(case: Case, tmp_path: Path) -> None:
    source = make(case.kind, **case.make(tmp_path))
    source.open()
    seen: list[RawFrame] = []
    reader = threading.Thread(target=lambda: seen.extend(read_all(source)))
    reader.start()
    source.close()
    reader.join(timeout=10)
    assert not reader.is_alive()
    assert len(seen) <= FRAMES


def test_every_registered_kind_has_options_that_come_from_the_common_ones() -> None:
    for kind in SOURCES.names():
        source_class = SOURCES.load(kind)
        assert issubclass(source_class.Options, SourceOptions), kind


# --- Python -------------------------------------------------------------------------------------------


def some_frames() -> Iterator[Any]:
    yield media.picture(0)
    yield media.picture(1)


def test_a_callable_is_asked_until_it_gives_none() -> None:
    waiting = [None, media.picture(1), media.picture(0)]
    source = make("python", frames=waiting.pop, fps=5)
    assert source.open().fps == 5
    assert [(f.pts, f.time_base) for f in read_all(source)] == [(0, Fraction(1, 5)), (1, Fraction(1, 5))]


def test_code_is_found_by_name() -> None:
    source = make("python", frames=f"{__name__}:some_frames")
    source.open()
    assert len(read_all(source)) == 2


def test_live_pictures_without_stamps_have_none() -> None:
    source = make("python", frames=some_frames, live=True)
    assert source.live
    source.open()
    assert [f.pts for f in read_all(source)] == [None, None]


def test_raw_frames_pass_unchanged() -> None:
    frame = RawFrame(image=media.picture(0), t_arrival=7, pts=3, time_base=Fraction(1, 9))
    source = make("python", frames=[frame])
    source.open()
    assert read_all(source) == [frame]


def test_a_camera_may_use_its_buffer_again() -> None:
    buffer = np.empty_like(media.picture(0))

    def camera() -> Iterator[np.ndarray]:
        for i in range(3):
            buffer[:] = media.picture(i)
            yield buffer

    source = make("python", frames=camera)
    source.open()
    assert [media.frame_number(f.image) for f in read_all(source)] == [0, 1, 2]


def test_what_has_a_length_tells_it_and_no_pixels_are_printed() -> None:
    source = make("python", frames=[media.picture(0)])
    assert source.open().frame_count == 1
    assert make("python", frames=some_frames).open().frame_count is None
    assert "array" not in repr(source.Options(frames=[media.picture(0)]))


def test_times_may_be_any_numbers() -> None:
    times = [0, Fraction(1, 4), 0.5, np.float32(0.75), np.int64(1)]
    source = make("python", frames=[(t, media.picture(0)) for t in times])
    source.open()
    assert [f.pts for f in read_all(source)] == [i * NS_PER_S // 4 for i in range(5)]


def test_a_live_iterator_goes_on_when_it_is_opened_again() -> None:
    pictures = (media.picture(i) for i in range(4))
    source = make("python", frames=pictures, live=True)
    for first in (0, 2):
        source.open()
        found = [source.read(), source.read()]
        assert [media.frame_number(f.image) for f in found if f] == [first, first + 1]
        source.close()


def test_an_iterator_cannot_be_opened_twice() -> None:
    source = make("python", frames=iter([media.picture(0)]))
    source.open()
    source.close()
    with pytest.raises(SourceError, match="only once"):
        source.open()


def _broken_code() -> Iterator[Any]:
    yield media.picture(0)
    raise ZeroDivisionError("camera exploded")


BAD_CODE = {
    "nothing": ([], "not one picture"),
    "not callable": (7, "neither an iterable nor callable"),
    "float": ([np.zeros((4, 4))], r"picture 0 is float64 \(4, 4\); must be uint8"),
    "no picture in a frame": ([RawFrame(image=[[1]], t_arrival=0)], "picture 0 is list; must be uint8"),  # type: ignore[arg-type]
    "no time": ([(0, media.picture(0)), (float("nan"), media.picture(1))], "picture 1 is dated nan; must be"),
    "text for a time": ([("now", media.picture(0))], "picture 0 is dated 'now'; must be seconds"),
    "OpenCV's pair": ([(True, media.picture(0))], r"picture 0 comes with True; .* cv2\.VideoCapture\.read"),
    "four channels": ([media.picture(0), np.zeros((4, 4, 4), np.uint8)], "picture 1 is uint8"),
    "text": (["abc"], "picture 0 is str"),
    "raises": (_broken_code, "source _broken_code: ZeroDivisionError: camera exploded"),
    "no colon": ("somewhere", "must read 'package.module:name'"),
    "no module": ("no.such.module:frames", "No module named 'no'"),
    "no name": ("math:frames", "has no attribute 'frames'"),
}


@pytest.mark.parametrize(("frames", "message"), BAD_CODE.values(), ids=BAD_CODE.keys())
def test_bad_code_is_explained(frames: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read_all_after_open(make("python", frames=frames))


# --- The word on the command line ---------------------------------------------------------------------


def test_words_mean_the_right_kind(tmp_path: Path) -> None:
    clip_path = media.write_clip(tmp_path / "a.mp4", frames=1)
    assert open_source(str(clip_path))[0] == "file"
    assert open_source(str(tmp_path))[0] == "images"
    kind, options = open_source("rtsp://user:secret@host:1/path")
    assert kind == "network"
    assert "secret" not in repr(options)
    assert "secret" not in options.model_dump_json()
    assert options.model_dump()["url"] == "rtsp://user:secret@host:1/path"
    kind, options = open_source("synthetic:stream=ir,scene.light=night,rig.ir_width=160,duration_s=null")
    assert kind == "synthetic"
    assert options.model_dump(exclude_unset=True) == {
        "stream": "ir",
        "scene": {"light": "night"},
        "rig": {"ir_width": 160},
        "duration_s": None,
    }
    for word in ("/dev/video7", "v4l2:/dev/v4l/by-path/pci-usb-0:1"):
        assert open_source(word)[0] == "v4l2"


def test_an_unknown_word_is_answered_with_what_there_is() -> None:
    with pytest.raises(SourceError, match="no such file or folder; a source is a video file, a folder"):
        open_source("nothing_here")
    with pytest.raises(ConfigError, match="must read key=value"):
        open_source("synthetic:what")
    with pytest.raises(ConfigError, match="strem: unknown option; did you mean 'stream'"):
        open_source("synthetic:strem=ir")


# --- Cameras of this machine: no test machine has one, so only what happens without -----------------------


@pytest.mark.parametrize(
    ("device", "message"),
    [("/dev/video97", "no such device"), ("/dev/null", "not a camera that can be used")],
)
def test_a_missing_camera_is_explained(device: str, message: str) -> None:
    source = make("v4l2", device=device)
    with pytest.raises(SourceError, match=message):
        source.open()
    source.close()
