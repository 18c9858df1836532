"""What must hold for any picture: ranges, symmetry, bounds, and finite values for degenerate input."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.metrics import structural_similarity

from streamfuse.errors import DataError
from streamfuse.metrics import film, mepma, registration, standard, temporal
from streamfuse.metrics.panel import METRICS, epe_panel, fusion_panel, registration_panel, temporal_panel
from streamfuse.metrics.picture import Picture, grey_from_rgb

SIZE = (48, 56)
grey = arrays(np.uint8, SIZE)


def scene(rng: np.random.Generator, height: int = 176, width: int = 200) -> np.ndarray:
    """A picture with structure at all scales."""
    spectrum = 1 / np.maximum(
        np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]), 1 / max(height, width)
    )
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((height, width))) * spectrum).real
    noise = (noise - noise.min()) / np.ptp(noise)
    return np.rint(noise * 255).astype(np.uint8)


@settings(max_examples=15, deadline=None)
@given(ir=grey, vis=grey, fused=grey)
def test_any_triple_gives_finite_values_in_range(ir: np.ndarray, vis: np.ndarray, fused: np.ndarray) -> None:
    panels = fusion_panel(ir, vis, fused)
    values = panels["fusion"] | panels["film"]
    assert all(math.isfinite(value) for value in values.values()), values
    for name in ("Q_ABF", "Qabf_std", "Q_CB"):
        assert 0 <= values[name] <= 1
    assert 0 <= values["EN"] <= 8
    assert values["MI_ir"] <= 8
    assert values["MI_vis"] <= 8
    assert values["SSIM_min"] <= values["SSIM"] <= 1
    assert values["MI_min"] <= values["Q_MI"] / 2
    assert min(values["Q_VIF"], values["VIF_std"], values["VIFF"], values["Q_CV"]) >= 0
    assert values["Q_MI"] == pytest.approx(values["MI_ir"] + values["MI_vis"])
    assert values["SSIM"] == pytest.approx((values["SSIM_ir"] + values["SSIM_vis"]) / 2)


@settings(max_examples=15, deadline=None)
@given(a=grey, b=grey)
def test_mutual_information_is_symmetric(a: np.ndarray, b: np.ndarray) -> None:
    assert standard.mi(a, b) == pytest.approx(standard.mi(b, a), abs=1e-9)


@settings(max_examples=10, deadline=None)
@given(ir=grey, vis=grey, fused=grey)
def test_swapping_the_sources_changes_only_the_named_sides(
    ir: np.ndarray, vis: np.ndarray, fused: np.ndarray
) -> None:
    one, other = (fusion_panel(a, b, fused) for a, b in ((ir, vis), (vis, ir)))
    swapped = {"MI_ir": "MI_vis", "MI_vis": "MI_ir", "SSIM_ir": "SSIM_vis", "SSIM_vis": "SSIM_ir"}
    for family in ("fusion", "film"):
        for name, value in one[family].items():
            # VIFF takes the second source on a tie of the gains, where variances may differ; warmth is of the
            # infrared, texture of the visible.
            if name not in ("VIFF", "warm_contrast", "texture_kept"):
                assert other[family][swapped.get(name, name)] == pytest.approx(value, rel=1e-9, abs=1e-9), (
                    name
                )


@pytest.mark.parametrize("metric", ["SD", "SF", "AG", "EN"])
def test_single_picture_metrics_know_mirroring_and_offset_do_not_matter(
    metric: str, rng: np.random.Generator
) -> None:
    function = METRICS["fusion"][metric].function
    picture = scene(rng) // 2
    value = function(picture, picture, picture)
    for changed in (np.fliplr(picture), np.flipud(picture), picture + 100):
        assert function(changed, changed, changed) == pytest.approx(value, rel=0.01)


@pytest.mark.parametrize("level", [0, 1, 77, 255])
def test_constant_pictures_have_finite_documented_values(level: int) -> None:
    flat = np.full((176, 180), level, np.uint8)
    panels = fusion_panel(flat, flat, flat)
    values = panels["fusion"] | panels["film"]
    assert set(values) == set(METRICS["fusion"]) | set(METRICS["film"])
    assert all(math.isfinite(value) for value in values.values()), values
    for name in ("Q_MI", "Q_CE", "Q_CV", "EN", "SD", "SF", "AG", "MI_min", "NCC", "film_MI", "film_SCD"):
        assert values[name] == 0, name
    assert values["Q_CB"] == 1
    assert values["VIF_std"] == 2
    assert values["VIFF"] == pytest.approx(1)
    assert values["film_PSNR"] == film.PSNR_LIMIT_DB
    likeness = registration_panel(flat, flat)
    assert likeness == {"MI": 0, "MS_SSIM": pytest.approx(1), "NCC": 0 if level == 0 else likeness["NCC"]}
    assert math.isfinite(likeness["NCC"])
    error = registration.picture_endpoint_error(flat, flat)
    assert epe_panel(error) == dict.fromkeys(METRICS["epe"], 0.0), "without texture nothing is judged"


def test_a_blank_fused_picture_scores_worse_than_either_source(rng: np.random.Generator) -> None:
    ir, vis = scene(rng), scene(rng)
    flat = np.full_like(ir, 128)
    blank, copy = (fusion_panel(ir, vis, fused, families=["fusion"])["fusion"] for fused in (flat, vis))
    for name in ("Q_MI", "Q_VIF", "Q_ABF", "Qabf_std", "VIF_std", "VIFF", "SSIM", "NCC", "Q_CB"):
        assert blank[name] < copy[name], name


def test_small_pictures_leave_out_what_they_are_too_small_for(rng: np.random.Generator) -> None:
    small = scene(rng, 30, 40)
    panel = fusion_panel(small, small, small)["fusion"]
    assert "MS_SSIM" not in panel
    assert "VIFF" not in panel
    assert panel["SSIM"] == pytest.approx(1)
    with pytest.raises(DataError, match="at least 41 px, got 40x30"):
        standard.viff(small, small, small)
    with pytest.raises(DataError, match="at least 161 px"):
        registration.ms_ssim(small, small)


def test_shared_work_changes_nothing(rng: np.random.Generator) -> None:
    ir, vis, one, other = (scene(rng) for _ in range(4))
    a, b = Picture(ir), Picture(vis)
    for fused in (one, other, one):
        assert fusion_panel(a, b, fused) == fusion_panel(ir, vis, fused)


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (np.zeros((4, 4, 3), np.uint8), r"shape \(H, W\), not \(4, 4, 3\)"),
        (np.full((4, 4), 0.5), "8-bit grey values"),
        (np.full((4, 4), 256, np.int32), "8-bit grey values"),
        (np.full((4, 4), np.nan), "8-bit grey values"),
        (np.full((4, 4), -1, np.int8), "8-bit grey values"),
    ],
)
def test_what_is_not_an_8_bit_grey_picture_is_refused(image: np.ndarray, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        Picture(image)


def test_sizes_must_agree() -> None:
    with pytest.raises(DataError, match="got 60x50, 60x50, 50x60"):
        mepma.q_mi(np.zeros((50, 60), np.uint8), np.zeros((50, 60), np.uint8), np.zeros((60, 50), np.uint8))


def test_grey_is_what_pil_makes() -> None:
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    rgb = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(52, -1, 3)
    exact = rgb.astype(np.int64) @ np.array([19595, 38470, 7471])
    assert np.array_equal(grey_from_rgb(rgb), (exact + 32768) >> 16)
    assert grey_from_rgb(np.full((1, 1, 3), 255, np.uint8))[0, 0] == 255


def test_multi_scale_ssim_has_the_contrast_structure_of_ssim(rng: np.random.Generator) -> None:
    # An offset changes luminance only; at the four finer scales the luminance term must not show.
    picture = scene(rng) // 2
    brighter = picture + 60
    plain = structural_similarity(
        picture, brighter, data_range=255, gaussian_weights=True, use_sample_covariance=False
    )
    assert plain < 0.93
    assert registration.ms_ssim(picture, brighter) > 1 - 0.1333 * (1 - plain) * 2
    assert registration.ms_ssim(picture, picture) == pytest.approx(1)


def test_edge_angles_differ_between_the_two_forms(rng: np.random.Generator) -> None:
    picture = scene(rng)
    negative = 255 - picture
    # A negative has the same edge lines with reversed polarity.
    inner = np.s_[1:-1, 1:-1]
    padded, padded_negative = np.zeros_like(picture), np.zeros_like(picture)
    padded[inner], padded_negative[inner] = picture[inner], negative[inner]
    std = standard.qabf_std(padded, padded, padded_negative)
    assert std > mepma.q_abf(padded, padded, padded_negative) + 0.2


# --- displacement ---------------------------------------------------------------------------------


def shifted(picture: np.ndarray, dx: float, dy: float) -> np.ndarray:
    flow = np.broadcast_to(np.float32([dx, dy]), (*picture.shape, 2))
    return np.rint(registration.pulled(picture.astype(np.float32), flow)).astype(np.uint8)


@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (1.5, 0.0), (-2.0, 3.0)])
def test_displacement_between_pictures_is_measured(dx: float, dy: float, rng: np.random.Generator) -> None:
    picture = scene(rng)
    error = registration.picture_endpoint_error(picture, shifted(picture, dx, dy))
    assert error.mean == pytest.approx(np.hypot(dx, dy), abs=0.15)
    assert error.penalised == pytest.approx(np.hypot(dx, dy), abs=0.3)
    assert error.measured > 0.9


def test_a_blank_registered_picture_cannot_win(rng: np.random.Generator) -> None:
    picture = scene(rng)
    blank = registration.picture_endpoint_error(picture, np.full_like(picture, 128))
    assert blank.penalised >= registration.PENALTY
    assert blank.measured == 0
    assert blank.mean == registration.PENALTY
    noise = registration.picture_endpoint_error(picture, rng.integers(0, 256, picture.shape).astype(np.uint8))
    assert noise.penalised > 6


@given(dx=st.floats(-5, 5), dy=st.floats(-5, 5))
def test_known_displacement_error_is_the_distance(dx: float, dy: float) -> None:
    truth = np.zeros((20, 30, 2), np.float32)
    error = registration.endpoint_error(truth + np.float32([dx, dy]), truth)
    assert error.mean == pytest.approx(np.hypot(dx, dy), abs=1e-5)
    assert error.median == error.p95 == pytest.approx(error.mean)
    assert error.penalised == pytest.approx(error.mean)
    assert error.measured == 1


def test_known_displacement_error_counts_only_the_mask() -> None:
    truth = np.zeros((4, 4, 2), np.float32)
    flow = truth.copy()
    flow[0, 0] = np.nan
    flow[1, 1] = (3, 4)
    judged = np.zeros((4, 4), bool)
    judged[1, 1] = True
    assert registration.endpoint_error(flow, truth, judged=judged).mean == 5
    with pytest.raises(DataError, match="not finite"):
        registration.endpoint_error(flow, truth)
    with pytest.raises(DataError, match="one shape"):
        registration.endpoint_error(flow, truth[:3])


def test_a_mask_may_be_that_of_a_frame(rng: np.random.Generator) -> None:
    """0 and 255, as `FusedFrame.valid`: taken as indices it gave shares of hundreds."""
    truth = scene(rng)
    half = np.zeros(truth.shape, bool)
    half[:, :100] = True
    field = rng.normal(size=(*truth.shape, 2)).astype(np.float32)
    for found in (
        lambda mask: registration.endpoint_error(field, 0 * field, judged=mask),
        lambda mask: registration.picture_endpoint_error(truth, truth, known=mask),
    ):
        assert found(half.astype(np.uint8) * 255) == found(half.astype(np.uint8)) == found(half)
        assert found(half) != found(None) or found(None).mean == 0
        with pytest.raises(DataError, match=r"the mask is \(3, 3\), what it is for is \(176, 200\)"):
            found(np.ones((3, 3), bool))


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 1), np.uint8), np.ones((4, 4, 3))]
)
def test_grey_is_made_of_nothing_but_8_bit_rgb(wrong: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"uint8 \(H, W, 3\) RGB.*not of"):
        grey_from_rgb(wrong)


def test_a_family_that_is_none_is_named(rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match=r"families: must be of \('fusion', 'film'\), got fusin"):
        fusion_panel(*[scene(rng)] * 3, families=("fusin",))  # type: ignore[arg-type]


def test_what_is_not_known_is_not_judged(rng: np.random.Generator) -> None:
    picture = scene(rng)
    half_wrong = picture.copy()
    half_wrong[:, 100:] = shifted(picture, 5, 0)[:, 100:]
    known = np.zeros(picture.shape, bool)
    known[:, :85] = True
    assert registration.picture_endpoint_error(picture, half_wrong).penalised > 1
    assert registration.picture_endpoint_error(picture, half_wrong, known=known).penalised < 0.3


# --- time -----------------------------------------------------------------------------------------


def test_a_steady_clip_of_a_still_scene_has_no_temporal_error(rng: np.random.Generator) -> None:
    ir, vis = scene(rng), scene(rng)
    meter = temporal.SteadinessMeter()
    for _ in range(3):
        meter.add(ir, vis, {"steady": vis})
    steady = meter.result()["steady"]
    assert steady == temporal.Steadiness(frames=3, warp_error=0, warp_error_ratio=1, luma_jitter=0, tc=0)


def test_flicker_is_seen_and_motion_is_forgiven(rng: np.random.Generator) -> None:
    ir, vis = scene(rng), scene(rng)
    meter = temporal.SteadinessMeter()
    for step in range(5):
        moved_ir, moved_vis = shifted(ir, 2.0 * step, 0), shifted(vis, 2.0 * step, 0)
        steady = np.maximum(moved_ir, moved_vis)
        pumping = np.clip(steady.astype(int) + (8 if step % 2 else -8), 0, 255).astype(np.uint8)
        meter.add(moved_ir, moved_vis, {"max": steady, "pumping": pumping})
    result = meter.result()
    assert result["max"].warp_error_ratio == pytest.approx(1)
    assert result["max"].warp_error < 2
    assert result["pumping"].warp_error > 10
    assert result["pumping"].warp_error_ratio > 5
    assert result["pumping"].luma_jitter > 10 > result["max"].luma_jitter
    assert result["pumping"].tc > result["max"].tc
    assert list(temporal_panel(result["max"])) == list(METRICS["temporal"])


def test_what_appears_is_masked(rng: np.random.Generator) -> None:
    background, thing = scene(rng), scene(rng, 60, 60)
    before, now = background.copy(), background.copy()
    before[60:120, 60:120] = thing
    now[60:120, 72:132] = thing
    motion = temporal.visible_motion(before, now)
    assert motion.seen[:40].mean() > 0.98
    assert motion.seen[70:110, 85:115].mean() > 0.9, "the thing itself is seen in both"
    assert motion.flow[70:110, 85:115, 0].mean() == pytest.approx(-12, abs=1)
    assert motion.seen[65:115, 60:72].mean() < 0.5, "uncovered background"


def test_displacement_jitter_is_the_mean_step() -> None:
    still = np.ones((8, 9, 2), np.float32)
    assert temporal.displacement_jitter([still] * 4) == 0
    assert temporal.displacement_jitter([still, still + np.float32([3, 4]), still]) == pytest.approx(5)
    assert temporal.displacement_jitter([still]) == 0
    with pytest.raises(DataError, match="change size"):
        temporal.displacement_jitter([still, still[:4]])


def test_the_methods_of_a_clip_must_stay(rng: np.random.Generator) -> None:
    picture = scene(rng, 48, 56)
    meter = temporal.SteadinessMeter()
    meter.add(picture, picture, {"one": picture})
    with pytest.raises(DataError, match="methods changed"):
        meter.add(picture, picture, {"two": picture})


def test_one_frame_has_no_temporal_error(rng: np.random.Generator) -> None:
    picture = scene(rng, 48, 56)
    meter = temporal.SteadinessMeter()
    meter.add(picture, picture, {"one": picture})
    assert meter.result()["one"].warp_error == 0
