"""Two arrays in, one fused frame out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import streamfuse
from streamfuse.calibration.calibration import RigCalibration
from streamfuse.errors import ConfigError, DataError
from streamfuse.frame import Status

# --- Arrays -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(shared_data: Path) -> tuple[np.ndarray, np.ndarray]:
    folder = shared_data / "data" / "m3svd_val"
    ir = sorted((folder / "infrared" / "0111_1753").iterdir())[0]
    vis = sorted((folder / "visible" / "0111_1753").iterdir())[0]
    return (
        cv2.imread(str(ir), cv2.IMREAD_GRAYSCALE),
        cv2.cvtColor(cv2.imread(str(vis)), cv2.COLOR_BGR2RGB),
    )


def test_fuse_pair_with_all_defaults(pair: tuple[np.ndarray, np.ndarray]) -> None:
    ir, vis = pair
    frame = streamfuse.fuse_pair(ir, vis, settings={"worker": {"device": "cpu"}})
    assert frame.image.shape == vis.shape
    assert frame.image.dtype == np.uint8
    assert frame.status is Status.OK
    assert frame.confidence > 0.2
    assert frame.pair.vis.image is vis or (frame.visible == vis).all()
    assert np.abs(frame.image.astype(int) - vis).mean() > 1, "the infrared is in it"


def test_fuse_pair_leaves_no_state_behind(pair: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (streamfuse.fuse_pair(*pair, settings={"worker": {"device": "cpu"}}) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    assert not second.warm


@pytest.mark.parametrize(
    "change",
    [
        lambda ir, vis: (np.dstack([ir] * 3), vis),
        lambda ir, vis: (cv2.resize(ir, (160, 120)), vis),
        lambda ir, vis: (ir.astype(np.uint16) * 40 + 20_000, vis),
        lambda ir, vis: (ir, vis[..., 1]),
        lambda ir, vis: (ir[:, ::-1], vis[::2, ::2]),
    ],
    ids=["colour infrared", "small infrared", "16-bit infrared", "grey visible", "not contiguous"],
)
def test_fuse_pair_takes_what_cameras_give(
    change: Callable[..., tuple[np.ndarray, np.ndarray]], pair: tuple[np.ndarray, np.ndarray]
) -> None:
    ir, vis = change(*pair)
    fast = {"registration": {"model": "none"}, "worker": {"device": "cpu"}}
    frame = streamfuse.fuse_pair(ir, vis, settings=fast)
    assert frame.image.shape == (*vis.shape[:2], 3)
    assert frame.valid.all()
    assert frame.registered_ir.std() > 10
    assert (frame.pair.ir.raw is not None) == (ir.dtype == np.uint16)


GREY, COLOUR = np.zeros((48, 64), np.uint8), np.zeros((48, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("ir", "vis", "says"),
    [
        (GREY.astype(np.float32), COLOUR, r"ir: must be uint8 .* or uint16 \(H, W\); got float32 \(48, 64\)"),
        (GREY, COLOUR.astype(np.uint16), r"vis: must be uint8 .* got uint16 \(48, 64, 3\)"),
        (GREY, np.zeros((48, 64, 4), np.uint8), r"vis: .* got uint8 \(48, 64, 4\)"),
        (GREY[None], COLOUR, r"ir: .* got uint8 \(1, 48, 64\)"),
        (GREY[:0], COLOUR, r"ir: .* got uint8 \(0, 64\)"),
        ([[1, 2], [3, 4]], COLOUR, r"ir: .* got list"),
        (GREY, None, r"vis: .* got NoneType"),
    ],
)
def test_fuse_pair_refuses_what_is_no_picture(ir: Any, vis: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        streamfuse.fuse_pair(ir, vis)


def test_fuse_pair_refuses_settings_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match=r"registration\.model.*'bloks'.*did you mean 'blocks'"):
        streamfuse.fuse_pair(GREY, COLOUR, settings={"registration": {"model": "bloks"}})


def test_fuse_pair_refuses_settings_that_are_none() -> None:
    with pytest.raises(ConfigError, match=r"settings: must be a section, got 'rig\.yaml'"):
        streamfuse.fuse_pair(GREY, COLOUR, settings="rig.yaml")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(1, 1), (7, 40)])
@pytest.mark.parametrize("model", ["none", "blocks", "live"])
def test_fuse_pair_names_pictures_that_are_too_small(size: tuple[int, int], model: str) -> None:
    tiny, settings = np.zeros(size, np.uint8), {"registration": {"model": model}}
    with pytest.raises(
        DataError, match=rf"infrared {size[1]}x{size[0]} and visible 64x48 .* 8 to 16384 pixels"
    ):
        streamfuse.fuse_pair(tiny, COLOUR, settings=settings)


def test_what_the_package_offers_is_seen() -> None:
    assert set(streamfuse.__all__) <= set(dir(streamfuse))


@pytest.mark.parametrize("model", ["none", "blocks"])
def test_a_calibration_for_other_visible_pictures_is_named(model: str, tmp_path: Path) -> None:
    RigCalibration.identity(ir_size=(64, 48), vis_size=(128, 96)).save(tmp_path / "rig.yaml")
    settings = {"calibration": tmp_path / "rig.yaml", "registration": {"model": model}}
    with pytest.raises(DataError, match="calibration is for visible pictures of 128x96, this one is 64x48"):
        streamfuse.fuse_pair(GREY, COLOUR, settings=settings)
