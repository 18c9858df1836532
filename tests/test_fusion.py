"""The contract of every fuser, and what is particular to some."""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from people import scenes, warm_mask

from streamfuse.errors import DataError
from streamfuse.frame import Image8
from streamfuse.fusion import FUSERS
from streamfuse.fusion.colour import luma, replace_luma
from streamfuse.fusion.fuser import Fuser
from streamfuse.fusion.laplacian import LaplacianFuser, LaplacianOptions
from streamfuse.fusion.overlap import FEATHER_PX, prepare_infrared
from streamfuse.metrics.salience import texture_kept, warm_contrast
from streamfuse.metrics.temporal import SteadinessMeter
from streamfuse.nn.live_fusion import LiveFusion

KINDS = [kind for kind in FUSERS.names() if kind != "mepma"]
"""Whose weights do not come with the package: tests/test_mepma.py holds it to its protocol."""

SIZES = [(480, 640), (61, 83), (16, 16), (7, 5), (2, 3), (1, 1)]


@pytest.fixture(params=KINDS)
def fuser(request: pytest.FixtureRequest) -> Iterator[Fuser]:
    kind = FUSERS.load(request.param)
    made: Fuser = kind(kind.Options(), device="cpu")
    yield made
    made.reset()


def textured(shape: tuple[int, int], seed: int) -> Image8:
    """Smooth structure plus grain, full range."""
    noise = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    coarse = cv2.GaussianBlur(noise, (0, 0), 5)
    mixed = coarse / (coarse.std() + 1e-6) * 45 + noise * 12 + 128
    return np.clip(mixed, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", SIZES)
def test_result_has_the_shape_and_type_of_the_visible_picture(fuser: Fuser, shape: tuple[int, int]) -> None:
    ir, vis = textured(shape, 1), textured(shape, 2)
    before = ir.copy(), vis.copy()
    out = fuser.fuse(ir, vis)
    assert out.shape == shape
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    np.testing.assert_array_equal(ir, before[0], "inputs are not to be changed")
    np.testing.assert_array_equal(vis, before[1], "inputs are not to be changed")


@pytest.mark.parametrize("shape", SIZES)
def test_equal_pictures_fuse_to_themselves(fuser: Fuser, shape: tuple[int, int]) -> None:
    vis = textured(shape, 3)
    np.testing.assert_allclose(fuser.fuse(vis.copy(), vis).astype(int), vis.astype(int), atol=1)


@pytest.mark.parametrize("value", [0, 1, 127, 255])
def test_constant_pictures_stay_constant(fuser: Fuser, value: int) -> None:
    flat = np.full((48, 64), value, np.uint8)
    np.testing.assert_array_equal(fuser.fuse(flat, flat), flat)


def test_extremes_do_not_wrap(fuser: Fuser) -> None:
    """Full-range steps one pixel apart: a pyramid overshoots there, and must saturate."""
    vis, ir = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    vis[:, 32:], ir[:, 33:] = 255, 255
    out = fuser.fuse(ir, vis)
    assert out[:, :29].max() < 80
    assert out[:, 36:].min() > 175


def test_both_pictures_leave_their_mark(fuser: Fuser) -> None:
    vis, ir = np.full((96, 96), 60, np.uint8), np.full((96, 96), 60, np.uint8)
    cv2.circle(vis, (24, 48), 10, 200, -1)
    cv2.circle(ir, (72, 48), 10, 200, -1)
    out = fuser.fuse(ir, vis).astype(int)
    background = np.median(out)
    assert out[44:53, 20:29].mean() > background + 30, "visible object is gone"
    assert out[44:53, 68:77].mean() > background + 30, "infrared object is gone"


def test_is_deterministic_and_reset_changes_nothing(fuser: Fuser) -> None:
    ir, vis = textured((61, 83), 4), textured((61, 83), 5)
    first = fuser.fuse(ir, vis)
    fuser.reset()
    np.testing.assert_array_equal(first, fuser.fuse(ir, vis))


def test_invalid_infrared_has_no_influence_anywhere(fuser: Fuser) -> None:
    vis, ir = textured((120, 160), 6), textured((120, 160), 7)
    valid = np.zeros((120, 160), np.uint8)
    valid[20:100, 30:130] = 255
    black, white = ir.copy(), ir.copy()
    black[valid == 0], white[valid == 0] = 0, 255
    np.testing.assert_array_equal(fuser.fuse(black, vis, valid=valid), fuser.fuse(white, vis, valid=valid))


def test_no_seam_at_the_valid_border(fuser: Fuser) -> None:
    """A bright infrared field over a dark visible one: the change-over is a ramp, not a step."""
    vis, ir = np.full((120, 160), 60, np.uint8), np.full((120, 160), 180, np.uint8)
    valid = np.zeros((120, 160), np.uint8)
    valid[:, 60:] = 255
    out = fuser.fuse(ir, vis, valid=valid).astype(int)
    out[valid == 0] = 60  # what the caller does
    assert np.abs(np.diff(out[60])).max() <= 30
    np.testing.assert_allclose(out[:, :40], 60, atol=3)


def test_nothing_valid_gives_the_visible_picture(fuser: Fuser) -> None:
    vis, ir = textured((61, 83), 8), textured((61, 83), 9)
    out = fuser.fuse(ir, vis, valid=np.zeros((61, 83), np.uint8))
    np.testing.assert_allclose(out.astype(int), vis.astype(int), atol=1)


@pytest.mark.parametrize(
    ("ir", "vis"),
    [
        (np.zeros((4, 5), np.uint8), np.zeros((5, 4), np.uint8)),
        (np.zeros((4, 5), np.float32), np.zeros((4, 5), np.uint8)),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)),
        (np.zeros((0, 5), np.uint8), np.zeros((0, 5), np.uint8)),
    ],
)
def test_wrong_arrays_are_refused_with_their_shape(fuser: Fuser, ir: Image8, vis: Image8) -> None:
    with pytest.raises(DataError, match=r"uint8 \(H, W\)"):
        fuser.fuse(ir, vis)


def test_options_change_the_result() -> None:
    ir, vis = textured((64, 80), 10), textured((64, 80), 11)
    for name, changes in {
        "average": [{"ir_weight": 0.2}],
        "laplacian": [
            {"levels": 2},
            {"select": "max_abs"},
            {"window": 9},
            {"ir_base": 0.0},
            {"cold_limit": 255},
        ],
        "guided": [
            {"base_window": 9},
            {"base_radius": 8},
            {"base_epsilon": 0.001},
            {"detail_radius": 2},
            {"detail_epsilon": 0.1},
        ],
    }.items():
        kind = FUSERS.load(name)
        default = kind(kind.Options()).fuse(ir, vis)
        for change in changes:
            changed = kind(kind.Options(**change)).fuse(ir, vis)
            assert (changed != default).any(), f"{name} ignores {change}"


def correlation(a: Image8, b: Image8) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def sharpness(image: Image8) -> float:
    return float(np.abs(np.diff(image.astype(np.float32), axis=1)).mean())


def test_on_real_pairs_each_fuser_does_what_it_is_for(shared_data: Path) -> None:
    """The order that published figures on the same pictures give: pyramids keep detail, means lose it."""
    root = shared_data / "data" / "roadscene" / "test_public"
    kinds: dict[str, Callable[[Image8, Image8], Image8]] = {
        name: FUSERS.load(name)(FUSERS.load(name).Options()).fuse for name in KINDS
    }
    detail: dict[str, list[float]] = {name: [] for name in kinds}
    shared: dict[str, list[float]] = {name: [] for name in kinds}
    for path in sorted((root / "ir").glob("*.png")):
        ir = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        vis = cv2.imread(str(root / "vis" / path.name), cv2.IMREAD_GRAYSCALE)
        assert ir is not None
        assert vis is not None
        for name, fuse in kinds.items():
            out = fuse(ir, vis)
            detail[name].append(sharpness(out))
            shared[name].append((correlation(out, ir) + correlation(out, vis)) / 2)
    means = {name: float(np.mean(values)) for name, values in detail.items()}
    assert means["laplacian"] > means["guided"] > means["max"] > means["average"]
    kept = {name: float(np.mean(values)) for name, values in shared.items()}
    assert max(kept, key=kept.__getitem__) == "average"
    assert min(kept.values()) > 0.45, f"a source is lost: {kept}"


def test_live_decisions_settle_and_are_forgotten_by_reset() -> None:
    kind = FUSERS.load("live")
    fuser = kind(kind.Options())
    fuser._decisions._network = taking(visible=9.0)
    first = textured((64, 80), 20), textured((64, 80), 21)
    taken = fuser.fuse(*first)
    fuser._decisions._network = taking(visible=-9.0)
    followed = [fuser.fuse(*first) for _ in range(12)]
    np.testing.assert_array_equal(followed[0], taken, "one frame decides nothing")
    np.testing.assert_allclose(followed[-1], np.maximum(*first), atol=3)
    fuser._decisions._network = taking(visible=9.0)
    fuser.reset()
    np.testing.assert_array_equal(fuser.fuse(*first), taken)


def taking(*, visible: float) -> LiveFusion:
    network = LiveFusion().eval()
    assert network.leave.bias is not None
    with torch.no_grad():
        network.leave.weight.zero_()
        network.leave.bias.copy_(torch.tensor([visible, -9.0, -9.0]))
    return network


def test_live_calms_noise_and_lets_everything_else_pass_at_once() -> None:
    kind = FUSERS.load("live")
    fuser = kind(kind.Options())
    fuser._decisions._network = taking(visible=-9.0)
    vis = (textured((64, 80), 20) // 2 + 100).astype(np.uint8)
    dark = np.zeros_like(vis)
    first = fuser.fuse(dark, vis)
    np.testing.assert_array_equal(first, vis)
    noisy = vis + 2
    noisy[8:16, 8:16] = 250
    again = fuser.fuse(dark, noisy)
    moved = noisy - vis > 3
    np.testing.assert_array_equal(again[moved], noisy[moved])
    np.testing.assert_array_equal(again[~moved], vis[~moved] + 1)
    fuser.reset()
    np.testing.assert_array_equal(fuser.fuse(dark, noisy), noisy)


@pytest.mark.parametrize("name", ["live", "people"])
def test_marked_people_are_shown_as_the_infrared_does_and_texture_as_the_maximum_does(
    shared_data: Path, name: str
) -> None:
    learned, maximum = (FUSERS.load(kind)(FUSERS.load(kind).Options()) for kind in (name, "max"))
    people: list[float] = []
    for scene in scenes(shared_data / "data"):
        learned.reset()
        fused = [fuser.fuse(scene.ir, scene.vis) for fuser in (learned, maximum)]
        ours, theirs = (texture_kept(scene.ir, scene.vis, f) for f in fused)
        assert ours > 0.98 * theirs
        for box in scene.boxes:
            marked = warm_mask(scene.ir, box)
            ours, theirs = (warm_contrast(scene.ir, scene.vis, f, marked=marked) for f in fused)
            assert ours > 0.95 * theirs
            people.append(ours)
    assert np.mean(people) > 0.8


def test_no_dark_smudges_in_a_bright_sky() -> None:
    """Trees before the sky: bright against it in the infrared, dark in the visible. The sky keeps its light
    beside them; a cold thing on ground that is no brighter than it is warm still shows."""
    tree, pit = (np.zeros((240, 320), np.uint8) for _ in range(2))
    cv2.circle(tree, (160, 100), 50, 255, -1)
    cv2.circle(pit, (260, 210), 20, 255, -1)
    ir, vis = np.full_like(tree, 20), np.full_like(tree, 220)
    ir[tree > 0], vis[tree > 0] = 200, 130
    ir[170:], vis[170:] = 120, 110
    ir[pit > 0] = 40
    beside = cv2.subtract(cv2.dilate(tree, np.ones((25, 25))), cv2.dilate(tree, np.ones((7, 7)))) > 0
    beside[150:] = False
    darker = {}
    for limit in (40, 255):
        fused = LaplacianFuser(LaplacianOptions(cold_limit=limit)).fuse(ir, vis)
        darker[limit] = float(np.median(fused[:60, :60])) - fused[beside].mean()
        assert fused[pit > 0].mean() < fused[200:, 20:200].mean() - 30
    assert darker[40] < 8 < 25 < darker[255]


def test_people_is_laplacian_where_nobody_is_seen_and_never_darker() -> None:
    by_name = {name: FUSERS.load(name)(FUSERS.load(name).Options()) for name in ("people", "laplacian")}
    for bias, least in ((-50, 0.0), (50, 0.2)):
        by_name["people"].reset()
        with torch.no_grad():
            by_name["people"]._decisions._network.leave.bias[2] = bias
        ir, vis = textured((96, 128), 1), textured((96, 128), 2)
        people, plain = (by_name[name].fuse(ir, vis) for name in ("people", "laplacian"))
        assert (people >= plain).all()
        assert (np.mean(people != plain) > least) if bias > 0 else (people == plain).all()


@pytest.mark.parametrize("clip", ["0111_1716", "1230_1202"])
def test_live_is_as_steady_as_the_maximum(shared_data: Path, clip: str) -> None:
    fuser = FUSERS.load("live")(FUSERS.load("live").Options())
    meter = SteadinessMeter()
    readers = [
        cv2.VideoCapture(str(next((shared_data / "data" / "m2vd" / kind).glob(f"*{clip}*.mp4"))))
        for kind in ("infrared", "visible")
    ]
    for _ in range(8):
        ir, vis = (cv2.cvtColor(reader.read()[1], cv2.COLOR_BGR2GRAY) for reader in readers)
        meter.add(ir, vis, {"live": fuser.fuse(ir, vis)})
    assert meter.result()["live"].warp_error_ratio < 1


# ---- the colour transform ----------------------------------------------------------------------------


@given(
    arrays(np.uint8, (3, 4, 3), elements=st.integers(0, 255)),
    arrays(np.uint8, (3, 4), elements=st.integers(0, 255)),
)
@settings(max_examples=200, deadline=None)
def test_replaced_luma_is_the_luma_asked_for_and_hue_stays(rgb: Image8, y: Image8) -> None:
    out = replace_luma(rgb, y)
    assert np.abs(luma(out).astype(int) - y.astype(int)).max() <= 1
    old_chroma = rgb.astype(float) - luma(rgb).astype(float)[..., None]
    new_chroma = out.astype(float) - y.astype(float)[..., None]
    # Chroma keeps its direction and never grows: new = s * old, 0 <= s <= 1, up to what one grey level of
    # luma means in blue (1 / 0.114) and rounding.
    norm = np.square(old_chroma).sum(-1)
    scale = (old_chroma * new_chroma).sum(-1) / np.maximum(norm, 1e-9)
    assert np.abs(new_chroma - scale[..., None] * old_chroma).max() <= 10
    strong = norm > 2500
    assert (scale[strong] <= 1.15).all()
    assert (scale[strong] >= -0.15).all()


def test_colour_round_trip_is_exact(rng: np.random.Generator) -> None:
    rgb = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(replace_luma(rgb, luma(rgb)), rgb)


def test_luma_is_bt601_full_range(rng: np.random.Generator) -> None:
    rgb = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    exact = rgb.astype(float) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma(rgb) - exact).max() <= 0.51


def test_grey_passes_through_the_colour_transform() -> None:
    grey = textured((20, 30), 12)
    assert luma(grey) is grey
    np.testing.assert_array_equal(replace_luma(grey, 255 - grey), np.dstack([255 - grey] * 3))


def test_colour_transform_names_wrong_arrays() -> None:
    with pytest.raises(DataError, match=r"float32 \(4, 5, 3\)"):
        luma(np.zeros((4, 5, 3), np.float32))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"\(4, 5\).*\(5, 4\)"):
        replace_luma(np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), np.uint8))


@pytest.mark.parametrize("seen_from", [5, 12, 20])
def test_where_a_dark_infrared_ends_nobody_is_seen(seen_from: int) -> None:
    """Bright ground beyond its border is no warm body, however much the network suspects people there."""
    shape = (240, 320)
    ir, vis = 22 + textured(shape, 1) // 24, 120 + textured(shape, 2) // 10
    valid = np.full(shape, 255, np.uint8)
    valid[:, :seen_from] = 0
    pictures = []
    for mask in (None, valid):
        kind = FUSERS.load("live")
        fuser = kind(kind.Options(precision="float32"), device="cpu")
        fuser._decisions._network.leave.bias.data[2] += 50
        pictures.append(fuser.fuse(ir, vis, valid=mask))
    whole, partly = pictures
    assert (cv2.subtract(partly, cv2.max(whole, vis)) <= 1).all()


def test_fill_is_visible_outside_and_infrared_well_inside() -> None:
    vis, ir = textured((80, 80), 13), textured((80, 80), 14)
    valid = np.zeros((80, 80), np.uint8)
    valid[20:, 20:] = 255
    out = prepare_infrared(ir, vis, valid)
    np.testing.assert_array_equal(out[valid == 0], vis[valid == 0])
    deep = slice(20 + 2 * FEATHER_PX + 1, None)
    np.testing.assert_array_equal(out[deep, deep], ir[deep, deep])
    assert prepare_infrared(ir, vis, None) is ir
