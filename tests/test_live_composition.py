"""The `live` fuser on the CPU gives the pictures of its network in full-size float32 tensors."""

from functools import lru_cache

import cv2
import numpy as np
import pytest
import torch

from streamfuse.frame import Image8
from streamfuse.fusion.decisions import DecisionOptions
from streamfuse.fusion.live import LiveFuser
from streamfuse.fusion.live_composition import LiveComposition
from streamfuse.fusion.overlap import extend_infrared, faded
from streamfuse.nn.live_fusion import CELL, LiveFusion, shares
from streamfuse.nn.models import load_model
from streamfuse.synth.options import RigOptions, SceneOptions, SmokeOptions
from streamfuse.synth.scene import Scene
from streamfuse.training.fusion import fuse_image

STREETS = {
    "day": SceneOptions(seed=3, people=12, smoke=SmokeOptions(density=0.7, start_s=3.0)),
    "night": SceneOptions(seed=5, people=12, light="night"),
}
RIG = RigOptions(vis_width=320, vis_height=240, fov_ratio=1.0, elastic_px=0.0, shift_px=(0.0, 0.0))
SHAPES = [(480, 640), (61, 83), (24, 40), (7, 5), (1, 1)]


@lru_cache
def street(name: str) -> Scene:
    return Scene(STREETS[name], RIG)


def pair(name: str, at_s: float) -> tuple[Image8, Image8]:
    """Aligned luma pictures, (240, 320)."""
    scene = street(name)
    vis = cv2.cvtColor(scene.render_visible(at_s), cv2.COLOR_RGB2GRAY)
    return scene.infrared_view(scene.render_infrared(at_s)), np.asarray(vis, np.uint8)


@pytest.mark.parametrize(("name", "at_s"), [("day", 2.0), ("day", 6.0), ("night", 2.0)])
@pytest.mark.parametrize("size", [(240, 320), (203, 317)])
@pytest.mark.parametrize("covered", [1.0, 0.7])
def test_a_rendered_street_is_fused_as_the_network_does(
    name: str, at_s: float, size: tuple[int, int], covered: float
) -> None:
    """At 6 s there is smoke."""
    ir, vis = (np.ascontiguousarray(picture[: size[0], : size[1]]) for picture in pair(name, at_s))
    valid = np.zeros_like(vis)
    valid[:, : round(covered * size[1])] = 255
    fused = LiveFuser(DecisionOptions(precision="float32")).fuse(ir, vis, valid=valid)
    seen = extend_infrared(ir, valid)
    with torch.inference_mode():
        expected = fuse_image(load_model(LiveFusion.NAME), seen, vis)
    assert covered < 1 or np.mean(expected != np.maximum(ir, vis)) > 0.01, "nothing to compose"
    if covered < 1:
        expected = faded(expected, vis, valid)
    differences = cv2.absdiff(fused, expected)
    assert differences.max() <= 1
    assert np.mean(differences > 0) < 1e-3


def picture(seed: int, shape: tuple[int, int]) -> Image8:
    """Anything from flat to steep, both ends of the range included."""
    rng = np.random.default_rng(seed)
    size = shape[::-1]
    coarse = cv2.resize(rng.normal(size=(9, 12)), size, interpolation=cv2.INTER_CUBIC)
    return np.asarray((110 + 80 * coarse + rng.normal(0, 3, shape)).clip(0, 255), np.uint8)


def decisions(seed: int, shape: tuple[int, int]) -> torch.Tensor:
    """All three kinds, alone and together, from none to whole, (1, 3, h, w)."""
    rng = np.random.default_rng(seed)
    rows, columns = (-(-side // CELL) for side in shape)
    maps = [cv2.resize(rng.normal(0, 4, (7, 9)), (columns, rows)) for _ in range(3)]
    return torch.tensor(np.stack(maps), dtype=torch.float32)[None]


@pytest.mark.parametrize("shape", SHAPES)
def test_whatever_is_decided_is_composed_as_the_network_does(shape: tuple[int, int]) -> None:
    composition = LiveComposition(shape)
    for seed in range(4):  # the second time something of before could be left
        ir, vis = picture(seed, shape), picture(seed + 100, shape)
        decided = decisions(seed, shape)
        tensors = [torch.tensor(x, dtype=torch.float32)[None, None] / 255 for x in (ir, vis)]
        expected = LiveFusion.look(*tensors)
        looked = composition.look(ir, vis)
        for ours, theirs in zip(looked, expected, strict=True):
            np.testing.assert_allclose(ours, theirs[0], atol=1e-6)
        wanted = LiveFusion.compose(*tensors, expected[0], decided)[0, 0]
        differences = np.abs(composition.compose(shares(decided)[0].numpy()) - 255 * wanted.numpy())
        assert differences.max() < 0.51


def test_a_picture_given_out_does_not_change_with_the_next_one() -> None:
    fuser = LiveFuser(DecisionOptions())
    first = fuser.fuse(picture(1, (64, 80)), picture(2, (64, 80)))
    kept = first.copy()
    second = fuser.fuse(picture(3, (64, 80)), picture(4, (64, 80)))
    np.testing.assert_array_equal(first, kept)
    second[:] = 0
    third = fuser.fuse(picture(3, (64, 80)), picture(4, (64, 80)))
    assert third.any()


def test_nothing_of_pictures_of_another_size_is_left() -> None:
    used, fresh = LiveFuser(DecisionOptions()), LiveFuser(DecisionOptions())
    for seed in range(3):
        used.fuse(picture(seed, (64, 80)), picture(seed + 100, (64, 80)))
    for seed in range(3, 6):
        of_another_size = picture(seed, (61, 83)), picture(seed + 100, (61, 83))
        np.testing.assert_array_equal(used.fuse(*of_another_size), fresh.fuse(*of_another_size))
