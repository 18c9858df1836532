"""The geometry of a rig: its file, its maps, and the check for swapped cameras."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfuse.calibration.calibration import Intrinsics, RigCalibration
from streamfuse.calibration.sanity import looks_swapped
from streamfuse.errors import CalibrationError, DataError
from streamfuse.sampling import pixel_grid, resize_matrix

IR, VIS = (160, 120), (640, 480)
MATRIX = np.array([[0.36, 0.01, -20.0], [-0.01, 0.35, -15.0], [1e-6, -2e-6, 1.0]])
LENS = Intrinsics(fx=500, fy=505, cx=320.5, cy=238.0, distortion=(-0.25, 0.08, 0.001, -0.001))
NARROW = Intrinsics(fx=190, fy=190, cx=80.0, cy=60.0, distortion=(-0.1, 0.02, 0.0, 0.0, 0.001))


def rig(**more: object) -> RigCalibration:
    return RigCalibration.from_matrix(MATRIX, ir_size=IR, vis_size=VIS, **more)


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_file_gives_back_what_was_saved(tmp_path: Path, suffix: str) -> None:
    saved = rig(ir_intrinsics=NARROW, vis_intrinsics=LENS, residual_px=1.25, frames=40, made_by="a test")
    path = tmp_path / f"rig{suffix}"
    saved.save(path)
    assert RigCalibration.load(path) == saved
    text = path.read_text()
    assert (json.loads(text) if suffix == ".json" else yaml.safe_load(text))["calib_id"] == saved.calib_id


def test_the_id_follows_the_geometry_and_nothing_else() -> None:
    assert rig().calib_id == rig(residual_px=2.0, made_by="somebody").calib_id
    assert rig().calib_id != rig(vis_intrinsics=LENS).calib_id
    assert rig().calib_id != RigCalibration.identity(ir_size=IR, vis_size=VIS).calib_id


def good() -> dict[str, object]:
    return rig().model_dump(mode="json", exclude_none=True)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"ir_size": None}, "ir_size"),
        ({"vis_size": [640]}, "vis_size"),
        ({"homography": [[1, 0, 0], [0, 1, 0]]}, "homography"),
        ({"homography": [[1, 0, 0], [0, -1, 0], [0, 0, 1]]}, "homography: .*mirrored"),
        ({"homography": [[1, 0, 0], [0, 1, 0], [0, 0, 0]]}, "homography"),
        ({"homography": [[1, 0, 0], [0, float("nan"), 0], [0, 0, 1]]}, "homography"),
        ({"ir_intrinsics": {"fx": -5, "fy": 5, "cx": 0, "cy": 0}}, r"ir_intrinsics\.fx"),
        (
            {"vis_intrinsics": {"fx": 5, "fy": 5, "cx": 0, "cy": 0, "distortion": [0.1, 0.2]}},
            r"vis_intrinsics\.distortion: .*got 2",
        ),
        ({"homografy": 1}, "homografy"),
    ],
)
def test_a_bad_file_is_named_with_its_key(tmp_path: Path, change: dict[str, object], key: str) -> None:
    path = tmp_path / "rig.yaml"
    data = {name: value for name, value in (good() | change).items() if value is not None}
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(CalibrationError, match=rf"rig\.yaml: {key}"):
        RigCalibration.load(path)


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "{unclosed: [", "\x00\x01"])
def test_what_is_no_calibration_file_is_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rig.yaml"
    path.write_text(text)
    with pytest.raises(CalibrationError, match=r"rig\.yaml"):
        RigCalibration.load(path)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"missing\.yaml: cannot be read"):
        RigCalibration.load(tmp_path / "missing.yaml")
    with pytest.raises(CalibrationError, match="cannot be written"):
        rig().save(tmp_path / "no" / "such" / "folder.yaml")


def test_identity_is_the_plain_resize(rng: np.random.Generator) -> None:
    ir = cv2.GaussianBlur(rng.integers(0, 256, (120, 160), dtype=np.uint8), (0, 0), 2)
    image, valid = RigCalibration.identity(ir_size=IR, vis_size=VIS).bring_infrared(ir)
    assert valid.all()
    assert np.abs(image.astype(int) - cv2.resize(ir, VIS, interpolation=cv2.INTER_LINEAR)).max() <= 1


def test_the_smallest_core_goes_with_the_largest_camera() -> None:
    known = RigCalibration.identity(ir_size=(80, 60), vis_size=(3840, 2160))
    assert known.to_infrared(np.array([[3839.5, 2159.5]], np.float32)) == pytest.approx(
        np.array([[79.5, 59.5]]), abs=0.01
    )
    with pytest.raises(DataError, match=r"infrared 8x8 and visible 3840x2160 .* at most 4096 times apart"):
        RigCalibration.identity(ir_size=(8, 8), vis_size=(3840, 2160))


@pytest.mark.parametrize("shift", [5000.0, -5000.0])
def test_cameras_that_look_elsewhere_are_refused(tmp_path: Path, shift: float) -> None:
    path = tmp_path / "rig.json"
    geometry = {"homography": [[1, 0, shift], [0, 1, 0], [0, 0, 1]]}
    path.write_text(json.dumps({"ir_size": [640, 480], "vis_size": [640, 480]} | geometry))
    with pytest.raises(CalibrationError, match=r"rig\.json: .*the infrared covers no part of the visible"):
        RigCalibration.load(path)


def test_identity_of_equal_sizes_hands_the_picture_on(rng: np.random.Generator) -> None:
    ir = rng.integers(0, 65536, (120, 160), dtype=np.uint16)
    image, valid = RigCalibration.identity(ir_size=IR, vis_size=IR).bring_infrared(ir)
    assert image is ir
    assert valid.all()


def test_much_finer_infrared_is_averaged_not_aliased(rng: np.random.Generator) -> None:
    ir = rng.integers(0, 256, (480, 640), dtype=np.uint8)
    image, valid = RigCalibration.identity(ir_size=VIS, vis_size=IR).bring_infrared(ir)
    assert valid.all()
    wanted = cv2.resize(ir, IR, interpolation=cv2.INTER_AREA)
    assert np.abs(image.astype(int) - wanted).max() <= 1


@given(
    st.floats(-30, 670), st.floats(-30, 510), st.sampled_from([None, LENS]), st.sampled_from([None, NARROW])
)
@settings(deadline=None, max_examples=50)
def test_points_go_through_both_lenses(
    x: float, y: float, vis_lens: Intrinsics | None, ir_lens: Intrinsics | None
) -> None:
    calibration = rig(vis_intrinsics=vis_lens, ir_intrinsics=ir_lens)
    there = calibration.to_infrared(np.array([x, y], np.float32))
    ideal = there if ir_lens is None else ir_lens.undistort(there)
    back = cv2.perspectiveTransform(ideal.reshape(1, 1, 2).astype(np.float64), np.linalg.inv(MATRIX))
    real = back.astype(np.float32) if vis_lens is None else vis_lens.distort(back.astype(np.float32))
    assert np.abs(real.ravel() - (x, y)).max() < 0.2


def test_lens_maps_and_the_mask_follow_the_points(rng: np.random.Generator) -> None:
    calibration = rig(vis_intrinsics=LENS, ir_intrinsics=NARROW)
    # A picture whose grey level is its own column: sampling reads the position back.
    columns = np.tile(np.arange(160, dtype=np.uint16) * 256, (120, 1))
    image, valid = calibration.bring_infrared(columns)
    at = calibration.to_infrared(pixel_grid((480, 640)))
    inside = (at >= -0.5).all(-1) & (at[..., 0] <= 159.5) & (at[..., 1] <= 119.5)
    np.testing.assert_array_equal(valid > 0, inside)
    assert 0.2 < inside.mean() < 1
    assert np.abs(image[inside] / 256 - np.clip(at[inside][:, 0], 0, 159)).max() < 0.05


def test_the_table_agrees_with_the_lenses(rng: np.random.Generator) -> None:
    calibration = rig(vis_intrinsics=LENS, ir_intrinsics=NARROW)
    pixels = rng.uniform((-150, -150), (790, 630), (40, 50, 2)).astype(np.float32)
    assert np.abs(calibration.look_up(pixels) - calibration.to_infrared(pixels)).max() < 0.01


def test_another_picture_size_is_refused() -> None:
    with pytest.raises(CalibrationError, match="160x120, this one is 80x60"):
        rig().bring_infrared(np.zeros((60, 80), np.uint8))


def test_resize_matrix_keeps_the_outer_edges() -> None:
    matrix = resize_matrix(IR, VIS)
    np.testing.assert_allclose(matrix @ (-0.5, -0.5, 1), (-0.5, -0.5, 1))
    np.testing.assert_allclose(matrix @ (639.5, 479.5, 1), (159.5, 119.5, 1))


def test_swapped_cameras_are_noticed_on_real_pictures(shared_data: Path) -> None:
    folder = shared_data / "data" / "msrs" / "aligned_colour"
    stems = sorted(path.name for path in (folder / "ir").iterdir())
    for name in stems:
        ir = cv2.imread(str(folder / "ir" / name), cv2.IMREAD_GRAYSCALE)
        vis = cv2.cvtColor(cv2.imread(str(folder / "vis" / name)), cv2.COLOR_BGR2RGB)
        as_rgb = np.repeat(ir[..., None], 3, axis=2)
        for infrared in (ir, as_rgb):
            assert not looks_swapped(infrared, vis)
            assert looks_swapped(vis, infrared)
        assert not looks_swapped(ir, as_rgb)


@pytest.mark.parametrize(("matrix", "says"), [(np.eye(3)[:2], r"is \(2, 3\)"), (np.zeros((3, 3)), "finite")])
def test_what_is_no_homography_is_named(matrix: np.ndarray, says: str) -> None:
    with pytest.raises(CalibrationError, match=says):
        RigCalibration.from_matrix(matrix, ir_size=(64, 48), vis_size=(64, 48))
