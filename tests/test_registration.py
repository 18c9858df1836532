"""One contract over all classical registrars, on pictures and warps that are known."""

import cv2
import numpy as np
import pytest

from streamfuse.errors import DataError
from streamfuse.flow import compose, invert, to_flow
from streamfuse.frame import Image8, Registration, Status
from streamfuse.registration import REGISTRARS

CLASSICAL = ("blocks", "ecc", "none")
SEARCHING = ("blocks", "ecc")


def registrar(kind: str):
    cls = REGISTRARS.load(kind)
    return cls(cls.Options(), device="cpu")


def scene(width: int = 320, height: int = 240, seed: int = 3) -> Image8:
    """Smooth shapes and some texture, as both cameras would show them."""
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.normal(0, 1, (height, width)).astype(np.float32), (0, 0), 2.0) * 60
    for _ in range(25):
        centre = rng.integers(0, width), rng.integers(0, height)
        cv2.circle(image, tuple(map(int, centre)), int(rng.integers(6, 30)), float(rng.normal(0, 60)), -1)
    return np.clip(image + 128, 0, 255).astype(np.uint8)


def moved(image: Image8, matrix: np.ndarray) -> Image8:
    """The picture from which pulling by `matrix` gives `image` back."""
    size = image.shape[1], image.shape[0]
    return cv2.warpPerspective(image, matrix, size, borderMode=cv2.BORDER_REFLECT_101)


def error_px(found: Registration, matrix: np.ndarray, shape: tuple[int, int]) -> float:
    truth = Registration(status=Status.OK, confidence=1.0, matrix=matrix)
    inner = np.s_[20:-20, 20:-20]
    return float(np.linalg.norm(to_flow(found, shape) - to_flow(truth, shape), axis=-1)[inner].mean())


SHIFT = np.array([[1, 0, 5.0], [0, 1, -3.0], [0, 0, 1]])
TURN = np.vstack([cv2.getRotationMatrix2D((160, 120), 1.5, 1.02), [0, 0, 1]])


@pytest.mark.parametrize("kind", SEARCHING)
@pytest.mark.parametrize("matrix", [SHIFT, TURN, np.eye(3)], ids=["shift", "turn and zoom", "nothing"])
def test_a_known_warp_of_the_same_picture_is_found(kind: str, matrix: np.ndarray) -> None:
    vis = scene()
    found = registrar(kind).register(moved(vis, matrix), vis)
    assert found.status is Status.OK
    assert error_px(found, matrix, vis.shape) < 0.5


@pytest.mark.parametrize("kind", SEARCHING)
def test_reversed_polarity_does_not_matter(kind: str) -> None:
    vis = scene()
    found = registrar(kind).register(255 - moved(vis, SHIFT), vis)
    assert error_px(found, SHIFT, vis.shape) < 0.5


@pytest.mark.parametrize("kind", SEARCHING)
def test_blank_pictures_are_off_with_a_reason_and_move_nothing(kind: str) -> None:
    blank = np.full((240, 320), 90, np.uint8)
    for ir, vis in ((blank, scene()), (scene(), blank), (blank, blank)):
        found = registrar(kind).register(ir, vis)
        assert found.status is Status.OFF
        assert found.reason
        assert not to_flow(found, (240, 320)).any()


def test_pictures_that_have_nothing_in_common_are_not_trusted() -> None:
    confident = [registrar("blocks").register(scene(seed=s), scene(seed=s + 50)).confidence for s in range(6)]
    right = [registrar("blocks").register(scene(seed=s), scene(seed=s)).confidence for s in range(6)]
    assert max(confident) < min(right)


@pytest.mark.parametrize("kind", CLASSICAL)
@pytest.mark.parametrize("size", [(101, 77), (64, 48), (333, 251)])
def test_any_size(kind: str, size: tuple[int, int]) -> None:
    vis = scene(*size)
    found = registrar(kind).register(vis, vis)
    assert to_flow(found, vis.shape).shape == (*vis.shape, 2)
    assert 0 <= found.confidence <= 1


@pytest.mark.parametrize("kind", SEARCHING)
def test_what_the_sensor_did_not_see_does_not_count(kind: str) -> None:
    vis = scene()
    ir = moved(vis, SHIFT)
    valid = np.full_like(vis, 255)
    valid[:, :80] = 0
    ir[:, :80] = scene(seed=99)[:, :80]
    found = registrar(kind).register(ir, vis, valid=valid)
    assert error_px(found, SHIFT, vis.shape) < 1.0


@pytest.mark.parametrize("kind", CLASSICAL)
def test_a_prior_is_accepted_and_a_repeat_gives_the_same(kind: str) -> None:
    vis = scene()
    ir = moved(vis, SHIFT)
    prior = Registration(status=Status.OK, confidence=0.9, matrix=SHIFT)
    first, again = (registrar(kind).register(ir, vis, prior=prior) for _ in range(2))
    np.testing.assert_array_equal(to_flow(first, vis.shape), to_flow(again, vis.shape))
    if kind != "none":
        assert error_px(first, SHIFT, vis.shape) < 0.5


@pytest.mark.parametrize("kind", ["blocks", "ecc", "live"])
def test_the_prior_is_where_the_search_begins(kind: str) -> None:
    """A right one helps where a cold search does not reach, a wrong one hurts, and the confidence tells."""
    vis = scene(640, 480)
    far = np.array([[1, 0, 56.0], [0, 1, -30.0], [0, 0, 1]])
    cls = REGISTRARS.load(kind)
    method = cls(cls.Options(**({} if kind == "live" else {"search": 0.15})))
    ir = moved(vis, far)
    priors = {
        name: Registration(status=Status.OK, confidence=0.9, matrix=matrix)
        for name, matrix in (
            ("right", np.array([[1, 0, 58.0], [0, 1, -28.0], [0, 0, 1]])),
            ("wrong", np.linalg.inv(far)),
        )
    }
    found = {name: method.register(ir, vis, prior=prior) for name, prior in priors.items()}
    assert all(result.warm or result.status is Status.OFF for result in found.values())
    assert error_px(found["right"], far, vis.shape) < 1.5
    assert error_px(found["wrong"], far, vis.shape) > 20
    assert found["wrong"].confidence < found["right"].confidence


def test_none_is_the_rig_calibration() -> None:
    found = registrar("none").register(scene(), scene(seed=4))
    assert found.status is Status.CALIBRATION
    assert not to_flow(found, (240, 320)).any()


def test_flow_arithmetic() -> None:
    shape = (120, 160)
    turn = np.vstack([cv2.getRotationMatrix2D((80, 60), 2, 1.0), [0, 0, 1]])
    flow = to_flow(Registration(status=Status.OK, confidence=1.0, matrix=turn), shape)
    around = compose(flow, invert(flow))
    assert np.abs(around[15:-15, 15:-15]).max() < 0.02


@pytest.mark.parametrize("size", [(640, 48), (1000, 50), (50, 700)])
def test_strips_are_registered_or_off(size: tuple[int, int]) -> None:
    wide = REGISTRARS.load("blocks")
    vis = scene(*size)
    found = wide(wide.Options(search=0.25)).register(vis, vis)
    assert np.isfinite(to_flow(found, vis.shape)).all()
    assert np.abs(to_flow(found, vis.shape)).mean() < 0.5


def test_a_wide_search_finds_a_large_move() -> None:
    vis = scene(640, 480)
    far = np.vstack([cv2.getRotationMatrix2D((320, 240), 4.0, 1.05), [0, 0, 1]])
    far[:2, 2] += (48, -30)
    blocks = REGISTRARS.load("blocks")
    found = blocks(blocks.Options(search=0.15)).register(moved(vis, far), vis)
    assert error_px(found, far, vis.shape) < 0.5


@pytest.mark.parametrize("kind", ["blocks", "ecc", "live"])
@pytest.mark.parametrize(
    "wrong", [np.zeros((64, 64)), np.zeros((64, 64, 3), np.uint8), np.zeros((48, 64), np.uint8)]
)
def test_pictures_that_are_not_8_bit_grey_of_one_size_are_named(kind: str, wrong: np.ndarray) -> None:
    """Floats from 0 to 1 gave a field, and `ok` for it."""
    with pytest.raises(DataError, match=rf"infrared is {wrong.dtype} .*visible is uint8 \(64, 64\)"):
        registrar(kind).register(wrong, np.zeros((64, 64), np.uint8))
