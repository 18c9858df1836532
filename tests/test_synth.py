"""The renderer: its pictures, and the truth it tells about them."""

from typing import Any

import cv2
import numpy as np
import pytest
from scenes import SCENE, resized, scene_of

from streamfuse.fusion.colour import luma
from streamfuse.synth.geometry import Bend
from streamfuse.synth.noise import spectrum
from streamfuse.synth.options import (
    MotionOptions,
    RigOptions,
    SceneOptions,
    SmokeOptions,
)
from streamfuse.synth.scene import Scene
from streamfuse.synth.sensors import to_counts

STILL = MotionOptions(pan_deg=0, tilt_deg=0, roll_deg=0, sway_m=0)
CLEAN = {"netd_mk": 0.0, "fixed_pattern_mk": 0.0, "vis_noise": 0.0}


def pulled(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    rows, columns = np.mgrid[0 : flow.shape[0], 0 : flow.shape[1]].astype(np.float32)
    return np.asarray(
        cv2.remap(image, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR), np.float32
    )


def grey_of_luma_film(counts: np.ndarray) -> np.ndarray:
    return (counts.astype(np.float32) - to_counts(0)) / (to_counts(0.1) - to_counts(0))


# ---- pictures ----------------------------------------------------------------------------------------


def test_a_picture_depends_on_seed_and_time_alone() -> None:
    one, other = scene_of(), Scene(SCENE, RigOptions())
    other.render_visible(7.0)  # what was asked before does not matter
    other.render_infrared(0.2)
    np.testing.assert_array_equal(one.render_visible(2.5), other.render_visible(2.5))
    np.testing.assert_array_equal(one.render_infrared(2.5), other.render_infrared(2.5))
    np.testing.assert_array_equal(one.truth(2.5).displacement, other.truth(2.5).displacement)
    assert (one.render_visible(2.5) != one.render_visible(2.54)).any()


def test_another_seed_is_another_street() -> None:
    here = scene_of(**CLEAN).render_visible(1.0).astype(int)
    there = Scene(SceneOptions(seed=4), RigOptions(**CLEAN)).render_visible(1.0).astype(int)
    assert np.abs(here - there).mean() > 10


def test_formats_and_ranges() -> None:
    scene = scene_of(vis_width=322, vis_height=242, ir_width=160, ir_height=120)
    vis, ir = scene.render_visible(1.0), scene.render_infrared(1.0)
    assert (vis.shape, vis.dtype) == ((242, 322, 3), np.uint8)
    assert (ir.shape, ir.dtype) == ((120, 160), np.uint16)
    celsius = (ir.astype(float) - to_counts(0)) / (to_counts(1) - to_counts(0))
    assert -25 < celsius.min() < 8, "no cold sky"
    assert 26 < celsius.max() < 60, "nothing warm"
    view = scene.infrared_view(ir)
    assert (view.shape, view.dtype) == ((120, 160), np.uint8)
    assert view.std() > 30
    order = np.argsort(ir.ravel(), kind="stable")
    assert (np.diff(view.ravel()[order].astype(int)) >= 0).all(), "hot must be bright"


def test_people_are_the_warmest_and_the_two_cameras_see_different_things() -> None:
    scene = scene_of(ir_width=640, ir_height=480, **CLEAN)
    truth, ir, vis = scene.truth(13.0), scene.render_infrared(13.0), luma(scene.render_visible(13.0))
    person = cv2.erode(truth.person, np.ones((5, 5))) & truth.valid
    assert np.count_nonzero(person) > 300
    registered = pulled(resized(ir, vis), truth.displacement)
    background = (truth.moving == 0) & (truth.valid > 0)
    assert np.median(registered[person > 0]) > np.percentile(registered[background], 90)
    assert abs(np.corrcoef(registered[background], vis[background].astype(float))[0, 1]) < 0.75
    edges = [
        cv2.magnitude(cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1))
        for image in (
            cv2.GaussianBlur(registered, (0, 0), 2),
            cv2.GaussianBlur(vis.astype(np.float32), (0, 0), 2),
        )
    ]
    strong = [edge > np.percentile(edge[background], 85) for edge in edges]
    both = (strong[0] & strong[1] & background).sum() / (strong[0] & background).sum()
    assert both > 2 * 0.15, "edges are hardly shared"


def test_darkness_is_for_the_visible_camera_only() -> None:
    day = scene_of(**CLEAN)
    dark = Scene(SceneOptions(seed=3, light="night"), RigOptions(**CLEAN))
    assert dark.render_visible(1.0).mean() < 0.4 * day.render_visible(1.0).mean()
    heat = [scene.render_infrared(1.0) for scene in (day, dark)]
    assert heat[1].std() > 0.6 * heat[0].std()
    assert np.corrcoef(heat[0].ravel(), heat[1].ravel())[0, 1] > 0.9, "not the same street"


def test_smoke_blinds_the_visible_camera_only() -> None:
    options = SceneOptions(seed=3, smoke=SmokeOptions(density=1.0, start_s=2.0, ramp_s=1.0, stop_s=4.0))
    scene, clear = Scene(options, RigOptions(**CLEAN)), Scene(SCENE, RigOptions(**CLEAN))

    def detail(image: np.ndarray) -> float:
        return float(np.abs(cv2.Laplacian(image.astype(np.float32), cv2.CV_32F)).mean())

    np.testing.assert_array_equal(scene.render_visible(1.5), clear.render_visible(1.5))
    np.testing.assert_array_equal(scene.render_visible(5.5), clear.render_visible(5.5))
    assert detail(luma(scene.render_visible(3.5))) < 0.3 * detail(luma(clear.render_visible(3.5)))
    assert detail(scene.render_infrared(3.5)) > 0.7 * detail(clear.render_infrared(3.5))
    np.testing.assert_array_equal(scene.truth(3.5).displacement, clear.truth(3.5).displacement)


def test_a_bus_hides_half_of_the_street() -> None:
    scene = Scene(SceneOptions(seed=3, bus_at_s=4.0), RigOptions())
    assert (scene.truth(3.6).moving > 0).mean() > (scene_of().truth(3.6).moving > 0).mean() + 0.1


def test_noise_is_what_the_options_say() -> None:
    noisy, clean = scene_of(netd_mk=80, fixed_pattern_mk=0, vis_noise=3), scene_of(**CLEAN)
    kelvin = (noisy.render_infrared(1.0).astype(float) - clean.render_infrared(1.0)) / (
        to_counts(1) - to_counts(0)
    )
    assert kelvin.std() == pytest.approx(0.080, rel=0.1)
    grey = noisy.render_visible(1.0).astype(float) - clean.render_visible(1.0)
    assert 1.5 < grey.std() < 4.0
    fixed = scene_of(netd_mk=0, fixed_pattern_mk=200, vis_noise=0)
    patterns = [fixed.render_infrared(t).astype(float) - clean.render_infrared(t) for t in (1.0, 5.0)]
    assert np.corrcoef(patterns[0].ravel(), patterns[1].ravel())[0, 1] > 0.95


def test_a_still_rig_sees_the_street_stand_still_and_a_driving_one_does_not() -> None:
    options = SceneOptions(seed=3, people=0, cars=0, wind=0.0, motion=STILL)
    still = Scene(options, RigOptions(**CLEAN))
    np.testing.assert_array_equal(still.render_visible(1.0), still.render_visible(9.0))
    fast = options.model_copy(update={"motion": STILL.model_copy(update={"speed_m_s": 8.0})})
    driving = Scene(fast, RigOptions(**CLEAN))
    assert (driving.render_visible(1.0) != driving.render_visible(1.1)).mean() > 0.2
    # The street repeats every 96 m: after 12 s at 8 m/s the rig is where it began.
    np.testing.assert_array_equal(driving.render_infrared(0.0), driving.render_infrared(12.0))


def test_spectrum_falls_as_asked(rng: np.random.Generator) -> None:
    for slope in (0.5, 1.0, 1.5):
        field = spectrum(rng, 256, 256, slope=slope, tileable=True)
        power = np.abs(np.fft.fft2(field))
        radius = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
        bands = [power[(radius > low) & (radius < low * 1.3)].mean() for low in (0.02, 0.16)]
        assert np.log(bands[0] / bands[1]) / np.log(8) == pytest.approx(slope, abs=0.2)


# ---- truth -------------------------------------------------------------------------------------------

HARD_RIG = {
    "elastic_px": 4.0,
    "ir_distortion": -0.1,
    "baseline_m": (0.06, -0.04),
    "roll_deg": 4.0,
    "fov_ratio": 0.7,
    "shift_px": (12.0, -9.0),
}


@pytest.mark.parametrize(
    "rig",
    [{}, {"ir_width": 640, "ir_height": 480, "fov_ratio": 1.1}, HARD_RIG],
    ids=["plain", "wide", "hard"],
)
@pytest.mark.parametrize("t_s", [1.0, 12.5])
def test_truth_aligns_the_two_cameras_when_both_film_light(rig: dict[str, Any], t_s: float) -> None:
    scene = scene_of(film="luma", **CLEAN, **rig)
    vis = luma(scene.render_visible(t_s)).astype(np.float32)
    ir = resized(grey_of_luma_film(scene.render_infrared(t_s)), vis)
    truth = scene.truth(t_s)
    seen = cv2.erode(truth.valid, np.ones((9, 9))) > 0
    registered = pulled(ir, truth.displacement)
    soft = cv2.GaussianBlur(vis, (0, 0), 1.6)
    before = np.abs(soft - cv2.GaussianBlur(ir, (0, 0), 1.0))[seen].mean()
    after = np.abs(soft - cv2.GaussianBlur(registered, (0, 0), 1.0))[seen].mean()
    assert after < 0.2 * before
    # What is left is blur, not position: a second registration finds nothing to correct. (Away from the
    # outlines of near things, where blur mixes what lies at two depths.)
    kernel = np.ones((3, 3), np.uint8)
    jumps = cv2.morphologyEx(truth.inverse_depth, cv2.MORPH_GRADIENT, kernel) > 0.02
    seen &= cv2.dilate(jumps.astype(np.uint8), kernel, iterations=4) == 0
    warp = np.eye(2, 3, dtype=np.float32)
    mask = seen.astype(np.uint8) * 255
    end = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-5)
    _, warp = cv2.findTransformECC(soft, registered, warp, cv2.MOTION_AFFINE, end, mask, 3)
    rows, columns = np.nonzero(seen)
    share = [5, 50, 95]
    places = np.stack([np.percentile(columns, share), np.percentile(rows, share), np.ones(3)], axis=1)
    assert np.abs(places @ warp.T - places[:, :2]).max() < 0.25


def test_displacement_and_coordinates_say_the_same() -> None:
    scene = scene_of(ir_width=160, ir_height=120)
    truth = scene.truth(1.0)
    x, y = truth.ir_coordinates[200, 300]
    dx, dy = truth.displacement[200, 300]
    assert ((x + 0.5) * 4 - 0.5, (y + 0.5) * 4 - 0.5) == pytest.approx((300 + dx, 200 + dy), abs=1e-3)
    np.testing.assert_array_equal(scene.displacement(1.0), truth.displacement)
    np.testing.assert_array_equal(scene.true_ir_coordinates(1.0), truth.ir_coordinates)
    x, y = truth.ir_coordinates[..., 0], truth.ir_coordinates[..., 1]
    inside = (x >= -0.5) & (x <= 159.5) & (y >= -0.5) & (y <= 119.5)
    np.testing.assert_array_equal(truth.covered > 0, inside)
    assert not ((truth.valid > 0) & ~inside).any()


def test_without_bend_and_parallax_the_homography_is_the_whole_truth() -> None:
    scene = scene_of(elastic_px=0.0, baseline_m=(0.0, 0.0), roll_deg=3.0)
    truth, h = scene.truth(2.0), scene.homography(2.0)
    assert repr(truth) == "Truth(640x480)"
    for x, y in ((10, 20), (320, 240), (600, 470)):
        u, v, w = h @ (x, y, 1.0)
        assert truth.ir_coordinates[y, x] == pytest.approx((u / w, v / w), abs=1e-2)


def test_parallax_grows_with_nearness_as_focal_length_times_baseline() -> None:
    still = SceneOptions(seed=3, motion=STILL)
    rig = {"elastic_px": 0.0, "roll_deg": 0.0, "shift_px": (0.0, 0.0), "fov_ratio": 1.0}
    scene = Scene(still, RigOptions(baseline_m=(0.2, 0.0), **rig))
    truth = scene.truth(2.0)
    focal = 320 / np.tan(np.deg2rad(31.0))
    np.testing.assert_allclose(truth.displacement[..., 0], -focal * 0.2 * truth.inverse_depth, atol=2e-3)
    np.testing.assert_allclose(truth.displacement[..., 1], 0.0, atol=2e-3)
    # The road right ahead, by hand: 1.9 m below the camera, which looks down by one degree.
    angle = np.deg2rad(1.0) + np.arctan((470 - 239.5) / focal)
    depth = 1.9 / np.sin(angle) * np.cos(angle - np.deg2rad(1.0))
    assert 1 / truth.inverse_depth[470, 320] == pytest.approx(depth, rel=1e-3)


def test_the_boresight_creeps_and_is_knocked_when_told() -> None:
    rig = {
        "elastic_px": 0.0,
        "baseline_m": (0.0, 0.0),
        "roll_deg": 0.0,
        "fov_ratio": 1.0,
        "shift_px": (3.0, 0.0),
    }
    scene = scene_of(drift_px_per_s=(1.0, 0.0), knock_at_s=4.0, knock_px=(0.0, 5.0), **rig)

    def centre(t_s: float) -> tuple[float, float]:
        dx, dy = scene.displacement(t_s)[240, 320]
        return float(dx), float(dy)

    assert centre(0.0) == pytest.approx((3.0, 0.0), abs=0.05)
    assert centre(2.0) == pytest.approx((5.0, 0.0), abs=0.05)
    assert centre(4.0) == pytest.approx((7.0, 5.0), abs=0.1)


def test_bend_has_the_length_asked_for_and_an_inverse() -> None:
    options = RigOptions(elastic_px=3.0, ir_distortion=0.05)
    bend = Bend(options, 3, focal=250.0, focal_vis=500.0)
    points = np.random.default_rng(0).uniform((0, 0), (319, 239), (500, 2)).astype(np.float32)
    ideal = bend.inverse(points)
    np.testing.assert_allclose(ideal + bend(ideal), points, atol=5e-3)
    plain = Bend(options.model_copy(update={"ir_distortion": 0.0}), 3, focal=250.0, focal_vis=500.0)
    assert np.linalg.norm(plain(points), axis=1).mean() == pytest.approx(1.5, rel=0.15)


def test_hidden_places_are_not_valid() -> None:
    """Behind the edge of a near thing the infrared camera sees something else."""
    scene = scene_of(baseline_m=(0.4, 0.0))
    truth = scene.truth(1.0)
    hidden = (truth.covered > 0) & (truth.valid == 0)
    assert 0.001 < hidden.mean() < 0.1
    small = scene_of(baseline_m=(0.02, 0.0)).truth(1.0)
    assert ((small.covered > 0) & (small.valid == 0)).mean() < hidden.mean() / 3


# ---- registration works on it as on real pairs --------------------------------------------------------


def normalised_edges(image: np.ndarray) -> np.ndarray:
    soft = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.5)
    edge = cv2.magnitude(cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1))
    return np.asarray(edge / (cv2.GaussianBlur(edge, (0, 0), 12) + 2), np.float32)


def test_edges_register_across_the_modalities() -> None:
    """ECC on normalised edges leaves about half of the error on RoadScene; it does here, too."""
    scene = scene_of(fov_ratio=1.0)
    vis = luma(scene.render_visible(2.0))
    ir = resized(scene.infrared_view(scene.render_infrared(2.0)), vis)
    truth = scene.truth(2.0)
    warp = np.eye(2, 3, dtype=np.float32)
    end = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-5)
    for step in (4, 2, 1):
        size = (640 // step, 480 // step)
        fixed, moving = (
            cv2.resize(normalised_edges(i), size, interpolation=cv2.INTER_AREA) for i in (vis, ir)
        )
        warp[:, 2] /= step
        _, warp = cv2.findTransformECC(fixed, moving, warp, cv2.MOTION_AFFINE, end, None, 5)
        warp[:, 2] *= step
    rows, columns = np.mgrid[0:480, 0:640].astype(np.float32)
    found = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ warp.T - np.stack(
        [columns, rows], axis=-1
    )
    valid = truth.valid > 0
    before = np.linalg.norm(truth.displacement, axis=-1)[valid].mean()
    after = np.linalg.norm(found - truth.displacement, axis=-1)[valid].mean()
    assert before > 4
    assert after < 0.6 * before
