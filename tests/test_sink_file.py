"""Files that are written: stamps, pixels, segments, names."""

import hashlib
import random
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from factories import fused_frame
from written import TICK, decode, make_sink, times, write_all

from streamfuse.clock import NS_PER_S
from streamfuse.errors import SinkError
from streamfuse.frame import FusedFrame
from streamfuse.sinks.video_encoder import BT709, SMPTE170M, PixelConverter


def rgb(frame: av.VideoFrame) -> np.ndarray:
    return frame.to_ndarray(format="rgb24")


def irregular(count: int, *, start_s: int = 0, time_base: Fraction = TICK) -> list[FusedFrame]:
    """Frames 1/30 s apart or up to two ticks more: a variable frame rate."""
    jitter = random.Random(5)
    step = Fraction(1, 30) / time_base
    stamps = [round(start_s / time_base)]
    while len(stamps) < count:
        stamps.append(stamps[-1] + max(1, round(step)) + jitter.randrange(3))
    return [fused_frame(i, pts=pts, time_base=time_base) for i, pts in enumerate(stamps)]


@pytest.mark.parametrize("start_s", [0, 10])
@pytest.mark.parametrize("time_base", [TICK, Fraction(1001, 30000), Fraction(1, 11264)])
def test_fragmented_mp4_keeps_stamps_to_the_tick(tmp_path: Path, start_s: int, time_base: Fraction) -> None:
    frames = irregular(40, start_s=start_s, time_base=time_base)
    write_all(tmp_path / "out.mp4", frames)
    assert times(tmp_path / "out.mp4") == [f.pair.vis.pts_seconds for f in frames]


@pytest.mark.parametrize("start_s", [0, 10])
def test_matroska_keeps_stamps_within_half_a_millisecond(tmp_path: Path, start_s: int) -> None:
    frames = irregular(40, start_s=start_s)
    write_all(tmp_path / "out.mkv", frames)
    written = times(tmp_path / "out.mkv")
    assert len(written) == 40
    for seconds, frame in zip(written, frames, strict=True):
        assert abs(seconds - frame.pair.vis.pts_seconds) <= Fraction(1, 2000)


def test_live_frames_follow_capture_time_from_zero(tmp_path: Path) -> None:
    captured = [5 * NS_PER_S + t for t in (0, 33_000_000, 70_000_000, 400_000_000)]
    write_all(tmp_path / "out.mkv", [fused_frame(i, live=True, t_capture=t) for i, t in enumerate(captured)])
    assert times(tmp_path / "out.mkv") == [Fraction(ms, 1000) for ms in (0, 33, 70, 400)]


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4"])
def test_dates_become_media_time(tmp_path: Path, name: str) -> None:
    start = 1_700_000_000 * NS_PER_S
    stamps = [start + t for t in (0, 33_000_000, 9_070_000_000)]
    write_all(
        tmp_path / name,
        [fused_frame(i, pts=t, time_base=Fraction(1, NS_PER_S)) for i, t in enumerate(stamps)],
    )
    assert times(tmp_path / name) == [Fraction(ms, 1000) for ms in (0, 33, 9070)]


def test_time_goes_on_over_a_new_epoch(tmp_path: Path) -> None:
    frames = [fused_frame(i) for i in range(3)]
    frames += [
        fused_frame(i, pts=i * 512, epoch=1, t_capture=(300 + i * 33) * 1_000_000) for i in range(3)
    ]  # the source began again at 0
    write_all(tmp_path / "out.mkv", frames)
    assert [round(float(t) * 1000) for t in times(tmp_path / "out.mkv")] == [0, 33, 67, 300, 333, 367]


def test_infrared_driven_frames_stand_on_the_visible_time_line(tmp_path: Path) -> None:
    frame = fused_frame(3, driver="ir", t_capture=None)
    later = fused_frame(4, driver="ir")
    object.__setattr__(later, "t_capture", later.t_capture + 5_000_000)  # the infrared picture is 5 ms later
    write_all(tmp_path / "out.mkv", [frame, later])
    assert [round(float(t) * 1000) for t in times(tmp_path / "out.mkv")] == [100, 138]


def test_equal_stamps_lose_no_frame(tmp_path: Path) -> None:
    write_all(tmp_path / "out.mkv", [fused_frame(i, pts=0) for i in range(3)])
    assert len(decode(tmp_path / "out.mkv")) == 3


def test_a_real_clip_comes_out_with_its_own_timing(tmp_path: Path, shared_data: Path) -> None:
    clip = shared_data / "data/m2vd/visible/0111_1716.mp4"
    with av.open(str(clip)) as container:
        source = [f for f, _ in zip(container.decode(video=0), range(25), strict=False)]
    for name, tolerance in (("out.mkv", Fraction(1, 2000)), ("out.mp4", Fraction(0))):
        frames = [
            fused_frame(i, image=rgb(f), pts=f.pts, time_base=f.time_base) for i, f in enumerate(source)
        ]
        write_all(tmp_path / name, frames)
        written = decode(tmp_path / name)
        assert len(written) == len(source)
        for new, old in zip(written, source, strict=True):
            assert abs(new.pts * new.time_base - old.pts * old.time_base) <= tolerance
            assert cv2.PSNR(rgb(new), rgb(old)) > 34


def test_ffv1_gives_back_every_value(tmp_path: Path, rng: np.random.Generator) -> None:
    images = [rng.integers(0, 256, (33, 47, 3), dtype=np.uint8) for _ in range(5)]
    write_all(tmp_path / "out.mkv", [fused_frame(i, image=im) for i, im in enumerate(images)], codec="ffv1")
    decoded = decode(tmp_path / "out.mkv")
    assert [np.array_equal(rgb(d), im) for d, im in zip(decoded, images, strict=True)] == [True] * 5


@pytest.mark.parametrize(
    ("height", "tag", "kr", "kb"), [(48, SMPTE170M, 0.299, 0.114), (720, BT709, 0.2126, 0.0722)]
)
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_pixels_and_colour_tags_agree(
    tmp_path: Path, codec: str, height: int, tag: int, kr: float, kb: float
) -> None:
    """Flat patches decode to the YUV that the tagged matrix and range give (BT.601, BT.709, limited)."""
    colours = np.array(
        [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [90, 120, 200]], np.uint8
    )
    image = np.repeat(np.repeat(colours[None], height, axis=0), 32, axis=1)
    write_all(
        tmp_path / "out.mkv", [fused_frame(0, image=np.ascontiguousarray(image))], codec=codec, quality=1
    )
    frame = decode(tmp_path / "out.mkv")[0]
    assert (frame.colorspace, frame.color_range) == (tag, 1)
    assert (frame.color_primaries, frame.color_trc) == (1, 1)
    planes = [np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width] for p in frame.planes]
    for index, (r, g, b) in enumerate(colours.astype(float)):
        y = kr * r + (1 - kr - kb) * g + kb * b
        want = (
            16 + y * 219 / 255,
            128 + (b - y) / (2 * (1 - kb)) * 224 / 255,
            128 + (r - y) / (2 * (1 - kr)) * 224 / 255,
        )
        got = (planes[0][8, index * 32 + 16], planes[1][4, index * 16 + 8], planes[2][4, index * 16 + 8])
        assert np.abs(np.subtract(want, np.asarray(got, float))).max() < 2


@pytest.mark.parametrize(("height", "kr", "kb"), [(480, 0.299, 0.114), (720, 0.2126, 0.0722)])
def test_conversion_rounds_and_averages(height: int, kr: float, kb: float, rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (height, 64, 3), dtype=np.uint8)
    planes = PixelConverter("h264", width=64, height=height).convert(image).to_ndarray().astype(float)
    r, g, b = (image[..., i].astype(float) for i in range(3))
    y = kr * r + (1 - kr - kb) * g + kb * b
    assert np.abs(planes[:height] - (16 + y * 219 / 255)).max() < 0.7
    chroma = planes[height:].reshape(2, height // 2, 32)
    for got, difference, weight in ((chroma[0], b - y, kb), (chroma[1], r - y, kr)):
        want = 128 + difference / (2 * (1 - weight)) * 224 / 255
        assert np.abs(got - want.reshape(height // 2, 2, 32, 2).mean((1, 3))).max() < 1.2
    grey = np.repeat(rng.integers(0, 256, (height, 64, 1), dtype=np.uint8), 3, axis=2)
    planes = PixelConverter("h264", width=64, height=height).convert(grey).to_ndarray()
    assert (planes[height:] == 128).all()


@pytest.mark.parametrize(("width", "height"), [(63, 48), (64, 47), (63, 47)])
@pytest.mark.parametrize("name", ["out.mkv", "out.mp4"])
def test_odd_sizes_are_kept(tmp_path: Path, name: str, width: int, height: int) -> None:
    frames = [fused_frame(i, width=width, height=height) for i in range(3)]
    write_all(tmp_path / name, frames, quality=4)
    decoded = decode(tmp_path / name)
    assert rgb(decoded[0]).shape == (height, width, 3)
    assert cv2.PSNR(rgb(decoded[2]), frames[2].image) > 38


def test_the_same_frames_give_the_same_decoded_frames(tmp_path: Path) -> None:
    digests = []
    for name in ("a.mkv", "b.mkv"):
        write_all(tmp_path / name, [fused_frame(i, width=160, height=120) for i in range(20)])
        digests.append(
            hashlib.sha256(b"".join(rgb(f).tobytes() for f in decode(tmp_path / name))).hexdigest()
        )
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("view", "width"), [("fused", 64), ("registered_ir", 64), ("side_by_side", 192), ("overlay", 64)]
)
def test_the_picture_chosen_is_written(tmp_path: Path, view: str, width: int) -> None:
    frame = fused_frame(0)
    write_all(tmp_path / "out.mkv", [frame], codec="ffv1", picture=view)
    image = rgb(decode(tmp_path / "out.mkv")[0])
    assert image.shape == (48, width, 3)
    if view == "registered_ir":
        assert (image == frame.registered_ir[..., None]).all()
    if view == "side_by_side":
        assert (image[:, :64] == frame.visible).all()
        assert (image[:, 128:] == frame.image).all()
    if view == "overlay":
        assert (image[:, :16] == frame.visible[:, :16]).all()
        assert (image[:, 16:] != frame.visible[:, 16:]).any()


def test_segments_follow_each_other_without_loss(tmp_path: Path) -> None:
    frames = [fused_frame(i) for i in range(70)]
    write_all(tmp_path / "rec.mkv", frames, segment_s=1)
    files = sorted(tmp_path.iterdir())
    assert [f.name for f in files] == ["rec_0000.mkv", "rec_0001.mkv", "rec_0002.mkv"]
    assert [len(decode(f)) for f in files] == [30, 30, 10]
    assert times(files[1])[0] == 1


def test_a_change_of_size_starts_a_new_file(tmp_path: Path) -> None:
    sizes = [(64, 48)] * 3 + [(32, 24)] * 2
    write_all(tmp_path / "out.mkv", [fused_frame(i, width=w, height=h) for i, (w, h) in enumerate(sizes)])
    assert len(decode(tmp_path / "out.mkv")) == 3
    second = decode(tmp_path / "out_0001.mkv")
    assert [(f.width, f.height) for f in second] == [(32, 24)] * 2


def test_existing_output_is_treated_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    write_all(path, [fused_frame(0)])
    with pytest.raises(SinkError, match=r"out\.mkv exists"):
        make_sink(path, if_exists="refuse").open()
    write_all(path, [fused_frame(i) for i in range(2)], if_exists="number")
    write_all(path, [fused_frame(i) for i in range(3)], if_exists="number")
    write_all(path, [fused_frame(i) for i in range(4)], if_exists="overwrite")
    counts = {f.name: len(decode(f)) for f in sorted(tmp_path.iterdir())}
    assert counts == {"out.mkv": 4, "out_0001.mkv": 2, "out_0002.mkv": 3}


def test_a_name_is_never_taken_for_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_all(Path("cam:12:30 [a].mkv"), [fused_frame(0)])
    assert (tmp_path / "cam:12:30 [a].mkv").stat().st_size > 0


def test_no_suffix_means_matroska(tmp_path: Path) -> None:
    write_all(tmp_path / "clip", [fused_frame(0)])
    assert (tmp_path / "clip.mkv").is_file()
