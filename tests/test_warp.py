"""The one resampling of the infrared picture."""

import cv2
import numpy as np
import pytest

from streamfuse.calibration.calibration import Intrinsics, RigCalibration
from streamfuse.errors import CalibrationError, DataError
from streamfuse.frame import Registration, Status
from streamfuse.warp import warp_infrared

SIZE = (160, 120)
SHAPE = (120, 160)
PLAIN = RigCalibration.identity(ir_size=SIZE, vis_size=SIZE)


def by_matrix(matrix: np.ndarray) -> Registration:
    return Registration(status=Status.OK, confidence=1.0, matrix=matrix)


def by_flow(dx: float, dy: float) -> Registration:
    flow = np.zeros((*SHAPE, 2), np.float32)
    flow[...] = dx, dy
    return Registration(status=Status.OK, confidence=1.0, flow=flow)


def picture(rng: np.random.Generator, dtype: type) -> np.ndarray:
    top = np.iinfo(dtype).max
    coarse = rng.integers(0, top, (16, 21)).astype(np.float32)
    smooth = cv2.resize(coarse, SIZE, interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth, 0, top).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("registration", [by_matrix(np.eye(3)), by_flow(0, 0)], ids=["matrix", "flow"])
def test_nothing_moved_is_the_same_picture(
    rng: np.random.Generator, dtype: type, registration: Registration
) -> None:
    ir = rng.integers(0, np.iinfo(dtype).max, SHAPE).astype(dtype)
    image, valid = warp_infrared(ir, registration, PLAIN, SHAPE)
    np.testing.assert_array_equal(image, ir)
    assert valid.all()


@pytest.mark.parametrize("kind", ["matrix", "flow"])
def test_pull_by_whole_pixels_is_exact_and_says_what_is_not_covered(
    rng: np.random.Generator, kind: str
) -> None:
    ir = rng.integers(0, 255, SHAPE).astype(np.uint8)
    matrix = np.array([[1, 0, 7.0], [0, 1, -4.0], [0, 0, 1]])
    registration = by_matrix(matrix) if kind == "matrix" else by_flow(7, -4)
    image, valid = warp_infrared(ir, registration, PLAIN, SHAPE)
    np.testing.assert_array_equal(image[4:, :-7], ir[:-4, 7:])
    assert valid[4:, :-7].all()
    assert not valid[:4].any()
    assert not valid[:, -7:].any()
    np.testing.assert_array_equal(image[10, -7:], np.full(7, ir[6, -1]))


def test_calibration_and_residual_are_one_resampling(rng: np.random.Generator) -> None:
    ir = picture(rng, np.uint8)
    rig = np.array([[0.5, 0.0, 3.0], [0.0, 0.5, 1.0], [0, 0, 1]])
    calibration = RigCalibration.from_matrix(rig, ir_size=SIZE, vis_size=(320, 240))
    residual = np.vstack([cv2.getRotationMatrix2D((160, 120), 1.0, 1.0), [0, 0, 1]])
    image, valid = warp_infrared(ir, by_matrix(residual), calibration, (240, 320))
    once = cv2.warpPerspective(
        ir,
        rig @ residual,
        (320, 240),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    inside = valid > 0
    assert inside.mean() > 0.9
    assert np.abs(image.astype(int) - once)[inside].mean() < 0.5
    flow = np.zeros((240, 320, 2), np.float32)
    grid = np.stack(np.meshgrid(np.arange(320.0), np.arange(240.0)), -1)
    flow[...] = grid @ residual[:2, :2].T + residual[:2, 2] - grid
    dense, _ = warp_infrared(
        ir, Registration(status=Status.OK, confidence=1.0, flow=flow), calibration, (240, 320)
    )
    assert np.abs(dense.astype(int) - image)[inside].mean() < 0.5


def test_the_result_is_as_sharp_as_the_input(rng: np.random.Generator) -> None:
    ir = cv2.GaussianBlur(rng.integers(0, 255, SHAPE).astype(np.uint8), (0, 0), 0.8)
    turn = np.vstack([cv2.getRotationMatrix2D((80, 60), 1.0, 1.0), [0, 0, 1]])
    image, _ = warp_infrared(ir, by_matrix(turn), PLAIN, SHAPE)
    inner = np.s_[10:-10, 10:-10]
    before, after = (np.abs(np.diff(picture[inner].astype(float), axis=1)).mean() for picture in (ir, image))
    assert after > 0.95 * before


def test_a_residual_on_a_bent_lens_is_one_lookup(rng: np.random.Generator) -> None:
    lens = Intrinsics(fx=150, fy=150, cx=79.5, cy=59.5, distortion=(-0.2, 0.05, 0.0, 0.0))
    bent = PLAIN.model_copy(update={"ir_intrinsics": lens})
    ir = picture(rng, np.uint8)
    plain, _ = warp_infrared(ir, by_matrix(np.eye(3)), bent, SHAPE)
    moved, valid = warp_infrared(ir, by_flow(9, -5), bent, SHAPE)
    assert np.abs(moved[5:, :-9].astype(int) - plain[:-5, 9:]).max() <= 1
    by_hand, _ = warp_infrared(ir, by_matrix(np.array([[1, 0, 9.0], [0, 1, -5.0], [0, 0, 1]])), bent, SHAPE)
    np.testing.assert_array_equal(by_hand, moved)
    assert valid[40:80, 40:80].all()


def test_lens_distortion_is_followed(rng: np.random.Generator) -> None:
    lens = Intrinsics(fx=150, fy=150, cx=79.5, cy=59.5, distortion=(-0.2, 0.05, 0.0, 0.0))
    straight = RigCalibration(ir_size=SIZE, vis_size=SIZE, homography=((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    bent = straight.model_copy(update={"ir_intrinsics": lens})
    ir = picture(rng, np.uint8)
    image, _ = warp_infrared(ir, by_matrix(np.eye(3)), bent, SHAPE)
    camera = np.array([[150, 0, 79.5], [0, 150, 59.5], [0, 0, 1.0]])
    wanted = cv2.undistort(ir, camera, np.array([-0.2, 0.05, 0.0, 0.0]))
    assert np.abs(image.astype(int) - wanted)[10:-10, 10:-10].mean() < 1.0


def test_sizes_that_do_not_fit_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match="160x120"):
        warp_infrared(picture(rng, np.uint8), by_matrix(np.eye(3)), PLAIN, (240, 320))
    with pytest.raises(CalibrationError):
        warp_infrared(np.zeros((60, 80), np.uint8), by_flow(1, 0), PLAIN, SHAPE)
    flow = Registration(status=Status.OK, confidence=1.0, flow=np.zeros((10, 10, 2), np.float32))
    with pytest.raises(DataError):
        warp_infrared(picture(rng, np.uint8), flow, PLAIN, SHAPE)
