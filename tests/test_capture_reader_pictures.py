"""The reader: what it does to pictures, and to pictures that are trouble."""

import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import cv2
import media
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import ScriptedSource, ScriptOptions, frames, raw, reader, textured

from streamfuse.capture.reader import FrameReader
from streamfuse.clock import VirtualClock
from streamfuse.errors import ConfigError, SourceError, SourceInterrupted
from streamfuse.frame import DropCause, RawFrame, SourceInfo, Stream

# -- pictures --------------------------------------------------------------------------------------


def corners(image: Any) -> dict[str, int]:
    """Luma of the four corners."""
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return {"tl": int(grey[0, 0]), "tr": int(grey[0, -1]), "bl": int(grey[-1, 0]), "br": int(grey[-1, -1])}


@pytest.mark.parametrize(
    ("options", "white_at"),
    [
        ({}, "tl"),
        ({"rotate": 90}, "tr"),
        ({"rotate": 180}, "br"),
        ({"rotate": 270}, "bl"),
        ({"flip": "horizontal"}, "tr"),
        ({"flip": "vertical"}, "bl"),
        ({"flip": "both"}, "br"),
        ({"rotate": 90, "flip": "horizontal"}, "tl"),
    ],
)
def test_rotation_is_clockwise_then_flip(options: dict[str, Any], white_at: str) -> None:
    source = reader([raw(0, image=media.picture(0))], **options)
    (frame,) = frames(source)
    assert frame.image.flags.c_contiguous
    assert corners(frame.image)[white_at] == 255
    turned = options.get("rotate") in (90, 270)
    assert frame.image.shape == ((96, 64, 3) if turned else (64, 96, 3))


def test_crop_comes_after_rotation_and_the_info_tells_the_final_size() -> None:
    options = ScriptOptions(connections=[[raw(0, image=media.picture(0))]], rotate=90, crop=(40, 2, 24, 30))
    source = FrameReader(
        ScriptedSource(options, clock=VirtualClock()),
        stream="vis",
        options=options,
        kind="python",
        clock=VirtualClock(),
    )
    info = source.open()
    (frame,) = frames(source)
    assert (info.width, info.height) == (24, 30)
    expected = cv2.rotate(media.picture(0), cv2.ROTATE_90_CLOCKWISE)[2:32, 40:64]
    np.testing.assert_array_equal(frame.image, expected)


@pytest.mark.parametrize("crop", [(0, 0, 49, 32), (-1, 0, 10, 10), (40, 0, 10, 10), (0, 0, 0, 5)])
def test_a_crop_outside_the_picture_is_refused_at_once(crop: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"sources.vis.crop: .* does not lie inside the 48x32 picture"):
        reader([raw(0)], crop=crop)


def test_infrared_is_grey_and_visible_is_rgb() -> None:
    grey = np.arange(48 * 32, dtype=np.uint8).reshape(32, 48)
    as_rgb = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    for image in (grey, as_rgb):
        (infrared,) = frames(reader([raw(0, image=image)], stream="ir"))
        np.testing.assert_array_equal(infrared.image, grey)
        (visible,) = frames(reader([raw(0, image=image)]))
        np.testing.assert_array_equal(visible.image, as_rgb)


def test_sixteen_bits_travel_beside_their_view() -> None:
    pictures = [media.counts(i) for i in range(4)]
    source = reader([raw(i, image=p, unit="counts") for i, p in enumerate(pictures)], stream="ir", rotate=180)
    for frame, picture in zip(frames(source), pictures, strict=True):
        assert frame.raw is not None
        np.testing.assert_array_equal(frame.raw, picture[::-1, ::-1])
        assert frame.image.dtype == np.uint8
        assert frame.unit == "counts"
        assert frame.image[0, 0] > 250  # the hottest corner, turned to the front
        assert frame.image[-1, -1] < 5


def test_black_hot_is_turned_over_so_that_hot_is_bright() -> None:
    grey = np.full((32, 48), 200, np.uint8)
    (frame,) = frames(reader([raw(0, image=grey)], stream="ir", polarity="black_hot"))
    assert (frame.image == 55).all()
    (frame,) = frames(reader([raw(0, image=media.counts(0))], stream="ir", polarity="black_hot"))
    assert frame.raw is not None
    assert frame.raw[0, 0] == media.counts(0)[0, 0]
    assert frame.image[0, 0] > frame.image[-1, -1]


def test_polarity_of_a_visible_stream_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"sources.vis.polarity: black_hot is for infrared"):
        reader([raw(0)], polarity="black_hot")


# -- trouble ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (textured(9, width=64, height=48), "from 48x32 uint8 colour to 64x48 uint8 colour"),
        (media.counts(0), "to 96x64 uint16"),
    ],
)
def test_another_picture_format_is_a_new_epoch(
    other: Any, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = reader([raw(0), raw(1), raw(2, image=other), raw(3, image=other)], stream="ir")
    found = frames(source)
    assert [f.epoch for f in found] == [0, 0, 1, 1]
    assert found[2].image.shape == other.shape[:2]
    assert text in caplog.text


def test_a_crop_that_no_longer_fits_ends_the_stream_with_the_reason() -> None:
    source = reader([raw(0), raw(1, image=textured(1, width=20, height=20))], crop=(0, 0, 40, 30))
    source.read()
    with pytest.raises(ConfigError, match=r"sources.vis.crop: .* 20x20 picture"):
        source.read()


@pytest.mark.parametrize(
    ("image", "what"),
    [
        (np.zeros((4, 4)), r"float64 \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \(4, 4, 4\)"),
        (np.zeros((4, 4, 3), np.uint16), r"uint16 \(4, 4, 3\)"),
        (np.zeros((0, 0, 3), np.uint8), r"uint8 \(0, 0, 3\)"),
        ([[1, 2]], "list"),
    ],
)
@pytest.mark.parametrize("stream", ["ir", "vis"])
def test_what_is_no_picture_is_named(image: Any, what: str, stream: Stream) -> None:
    source = reader([raw(0), raw(1, image=image)], stream=stream)
    source.read()
    with pytest.raises(SourceError, match=rf"{stream}: picture 1 is {what}; must be uint8 \(H, W\)"):
        source.read()


@pytest.mark.parametrize("live", [False, True])
def test_pictures_patched_up_by_the_decoder_are_dropped_only_live(live: bool) -> None:
    source = reader([raw(0), raw(1, corrupt=True), raw(2)], live=live)
    found = frames(source)
    assert [f.seq for f in found] == ([0, 2] if live else [0, 1, 2])
    assert source.drops == ({DropCause.CORRUPT: 1} if live else {})
    assert source.delivered == len(found) + source.drops.total() == 3


@pytest.mark.parametrize(
    ("stream", "live", "duplicates", "dropped"),
    [
        ("ir", True, "auto", True),
        ("vis", True, "auto", False),
        ("ir", False, "auto", False),
        ("vis", False, "drop", True),
        ("ir", True, "keep", False),
    ],
)
def test_repeats_are_dropped_or_marked(stream: Stream, live: bool, duplicates: str, dropped: bool) -> None:
    script = [raw(i, image=textured(i // 2)) for i in range(60)]
    source = reader(script, stream=stream, live=live, duplicates=duplicates)
    found = frames(source)
    repeats = source.repeats[DropCause.DUPLICATE]
    assert repeats >= 24
    if dropped:
        assert source.drops == {DropCause.DUPLICATE: repeats}
        assert not any(f.duplicate for f in found)
    else:
        assert not source.drops
        assert sum(f.duplicate for f in found) == repeats
    assert source.delivered == 60 == len(found) + source.drops.total()


def test_a_frozen_camera_is_told_apart_from_a_repeat() -> None:
    script = [raw(i, image=textured(min(i, 20))) for i in range(80)]
    source = reader(script, stream="ir", live=True)
    frames(source)
    assert source.drops == {DropCause.DUPLICATE: 25, DropCause.FROZEN: 34}
    kept = frames(reader(script, stream="ir"))
    assert [f.seq for f in kept if f.frozen] == list(range(46, 80))


def test_what_the_source_lost_is_counted_over_reconnects() -> None:
    source = reader([raw(0)], [raw(0)], live=True)
    source._source.drops[DropCause.CORRUPT] += 2  # type: ignore[attr-defined]
    assert source.drops == {DropCause.CORRUPT: 2}
    source.close()
    source.open()
    source._source.drops[DropCause.CORRUPT] += 1  # type: ignore[attr-defined]
    assert source.drops == {DropCause.CORRUPT: 3}
    source.renew()
    source._source.drops[DropCause.OVERRUN] += 1  # type: ignore[attr-defined]
    assert source.drops == {DropCause.CORRUPT: 3, DropCause.OVERRUN: 1}


def test_a_read_that_comes_back_after_it_was_given_up_changes_nothing() -> None:
    hanging, release = threading.Event(), threading.Event()

    def stuck() -> Iterator[RawFrame]:
        yield raw(0)
        hanging.set()
        release.wait(10)
        yield raw(1)

    class LazySource(ScriptedSource):
        def open(self) -> SourceInfo:
            self._items = iter(next(self._connections))
            return SourceInfo(width=48, height=32, fps=25)

    options = ScriptOptions(connections=_Twice(stuck), live=True)
    clock = VirtualClock()
    source = FrameReader(
        LazySource(options, clock=clock), stream="ir", options=options, kind="python", clock=clock
    )
    source.open()
    source.read()
    failures: list[Exception] = []

    def read_on() -> None:
        try:
            source.read()
        except SourceInterrupted as error:
            failures.append(error)

    thread = threading.Thread(target=read_on)
    thread.start()
    assert hanging.wait(5)
    source.renew()
    source.open()
    frame = source.read()
    assert frame is not None
    assert (frame.seq, frame.epoch) == (1, 1)
    release.set()
    thread.join(5)
    assert "given up" in str(failures[0])
    assert source.delivered == 2


class _Twice:
    """Connections for two sources made from the same options."""

    def __init__(self, make: Any) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Any]:
        return iter([self._make()])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(-500, 500), st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_every_picture_is_delivered_or_counted_and_stamps_rise(
    script: list[tuple[int, bool, bool]],
) -> None:
    pts, index, items = 10_000, 0, []
    for step, corrupt, repeat in script:
        pts, index = pts + step, index + (not repeat)
        items.append(raw(index, pts_ms=pts, corrupt=corrupt))
    for live in (False, True):
        source = reader(items, stream="ir", live=live)
        found = frames(source)
        assert all(a.t_capture < b.t_capture and a.seq < b.seq for a, b in pairwise(found))
        assert len(found) + source.drops.total() == source.delivered == len(items)
