"""The frame code: written into pictures, read back after noise, compression and fusion."""

from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import resized, scene_of

from streamfuse.errors import DataError
from streamfuse.frame import Image8
from streamfuse.fusion import FUSERS
from streamfuse.fusion.colour import luma
from streamfuse.synth.code import burn_code, code_box, read_code
from streamfuse.synth.sensors import to_counts

CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")


# ---- the frame code ----------------------------------------------------------------------------------


@given(number=st.integers(0, 70_000), corner=st.sampled_from(CORNERS), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_code_round_trip_under_noise_gain_and_offset(number: int, corner: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (240, 320), dtype=np.uint8)
    burn_code(image, number, corner=corner)
    worse = image * 0.45 + 90 + rng.normal(0, 8, image.shape)
    assert read_code(worse.clip(0, 255).astype(np.uint8), corner=corner) == number % 65536


@pytest.mark.parametrize(("height", "width"), [(480, 640), (120, 160), (241, 323)])
def test_no_code_is_read_where_there_is_none(height: int, width: int, rng: np.random.Generator) -> None:
    flat = np.full((height, width, 3), 127, np.uint8)
    assert all(read_code(flat, corner=corner) is None for corner in CORNERS)
    noise = [rng.integers(0, 256, (height, width), dtype=np.uint8) for _ in range(50)]
    assert sum(read_code(image, corner="top_left") is not None for image in noise) == 0


def test_a_damaged_code_is_refused() -> None:
    image = np.full((480, 640), 90, np.uint8)
    burn_code(image, 12345, corner="top_left")
    x0, y0, _, _ = code_box(480, 640, "top_left")
    wrong = 0
    for k in range(1, 23):
        broken = image.copy()
        cell = np.s_[
            y0 + 8 * (1 + k // 6) : y0 + 8 * (2 + k // 6), x0 + 8 * (1 + k % 6) : x0 + 8 * (2 + k % 6)
        ]
        broken[cell] = 251 - broken[cell]
        wrong += read_code(broken, corner="top_left") is not None
    assert wrong == 0


def test_code_needs_room() -> None:
    with pytest.raises(DataError, match="30x20 cannot hold a frame code"):
        burn_code(np.zeros((20, 30), np.uint8), 1, corner="top_left")
    assert read_code(np.zeros((20, 30), np.uint8), corner="top_left") is None


def encoded(images: list[Image8], crf: int) -> list[Image8]:
    """Through H.264 and back."""
    codec: Any = av.CodecContext.create("libx264", "w")
    codec.height, codec.width = images[0].shape[:2]
    codec.pix_fmt, codec.time_base = "yuv420p", Fraction(1, 25)
    codec.options = {"crf": str(crf), "preset": "veryfast", "tune": "zerolatency"}
    packets = []
    for k, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
        frame.pts = k
        packets += codec.encode(frame)
    packets += codec.encode(None)
    decoder: Any = av.CodecContext.create("h264", "r")
    frames = [frame for packet in packets for frame in decoder.decode(packet)] + decoder.decode(None)
    return [frame.to_ndarray(format="rgb24") for frame in frames]


def test_codes_of_both_cameras_survive_h264() -> None:
    scene = scene_of(ir_width=160, ir_height=120)
    visible, infrared = [], []
    for k in range(4):
        vis, counts = scene.render_visible(k / 25), scene.render_infrared(k / 25)
        burn_code(vis, 1000 + 97 * k, corner="bottom_left")
        burn_code(counts, 50 + k, corner="top_right", black=to_counts(6), white=to_counts(26))
        assert read_code(counts, corner="top_right") == 50 + k
        visible.append(vis)
        infrared.append(np.dstack([scene.infrared_view(counts)] * 3))
    read = [read_code(image, corner="bottom_left") for image in encoded(visible, 28)]
    assert read == [1000 + 97 * k for k in range(4)]
    read = [read_code(image, corner="top_right") for image in encoded(infrared, 28)]
    assert read == [50 + k for k in range(4)]


@pytest.mark.parametrize("name", ["average", "max", "laplacian", "guided"])
def test_the_visible_code_survives_fusion_and_h264(name: str) -> None:
    kind = FUSERS.load(name)
    fuser = kind(kind.Options(), device="cpu")
    scene = scene_of()
    vis = scene.render_visible(1.0)
    burn_code(vis, 4711, corner="bottom_left")
    y = luma(vis)
    ir = resized(scene.infrared_view(scene.render_infrared(1.0)), y).astype(np.uint8)
    fused = encoded([np.dstack([fuser.fuse(ir, y)] * 3)] * 2, 28)[0]
    assert read_code(fused, corner="bottom_left") == 4711
