"""The field carried along by the infrared's own motion. Pictures made here, motions known."""

import cv2
import numpy as np
import pytest

from streamfuse.clock import NS_PER_MS
from streamfuse.frame import Image8
from streamfuse.registration.creep import STILL_LOOKS, Creep
from streamfuse.registration.own_motion import OwnMotion
from streamfuse.sampling import apply_matrix

SHAPE = (480, 640)
PLACES = np.stack(np.meshgrid([40.0, 320, 600], [40.0, 240, 440]), axis=-1).astype(np.float32)
SETTLED = 14


def texture(seed: int) -> Image8:
    """With room around it, for pictures that move."""
    rng = np.random.default_rng(seed)
    image = np.zeros((560, 720), np.float32)
    for sigma in (4, 12):
        noise = cv2.GaussianBlur(rng.standard_normal(image.shape).astype(np.float32), (0, 0), sigma)
        image += 30 * noise / noise.std()
    return np.clip(image + 128, 0, 255).astype(np.uint8)


def seen(scene: Image8, matrix: np.ndarray) -> Image8:
    """The scene as a camera sees it whose points have moved by `matrix`."""
    shift = np.array([[1, 0, -40], [0, 1, -40], [0, 0, 1.0]])
    return np.asarray(
        cv2.warpAffine(scene, (matrix @ shift)[:2], SHAPE[::-1], flags=cv2.INTER_CUBIC), np.uint8
    )


def motion(dx: float, *, roll_deg: float = 0.0) -> np.ndarray:
    matrix = np.vstack([cv2.getRotationMatrix2D((320, 240), roll_deg, 1.0), [0, 0, 1]])
    matrix[0, 2] += dx
    return matrix


def apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(apply_matrix(one, PLACES) - apply_matrix(other, PLACES), axis=-1).mean())


def smoke(rng: np.random.Generator) -> Image8:
    cloud = cv2.resize(
        rng.normal(150, 25, (6, 8)).astype(np.float32), SHAPE[::-1], interpolation=cv2.INTER_CUBIC
    )
    return np.clip(cloud + rng.normal(0, 2, SHAPE), 0, 255).astype(np.uint8)


def test_a_picture_is_followed_through_gain_noise_and_somebody_walking(rng: np.random.Generator) -> None:
    scene, follower = texture(1), OwnMotion()
    for frame in range(30):
        true = motion(0.2 * frame, roll_deg=0.02 * frame)
        picture = seen(scene, true) * (1 - 0.01 * frame) + frame + rng.normal(0, 4, SHAPE)
        picture[150:, 18 * frame : 18 * frame + 90] = 240
        found = follower.update(np.clip(picture, 0, 255).astype(np.uint8))
        assert found is not None
        assert apart(found, true) < 0.3
    assert follower.update(texture(2)[:480, :640]) is None
    assert follower.update(np.full(SHAPE, 90, np.uint8)) is None


class Mount:
    """Two cameras on one scene; counts what the field is carried by."""

    def __init__(self) -> None:
        self.creep, self.carried = Creep(), np.eye(3)
        self.ir, self.vis, self.looks = texture(3), texture(4), 0

    def frame(self, ir: np.ndarray, vis: np.ndarray | None, cover: Image8 | None = None) -> None:
        pictures = seen(self.ir, ir), seen(self.vis, vis) if vis is not None else cover
        step = self.creep.step(*pictures, t_ns=self.looks * 130 * NS_PER_MS)
        self.looks += 1
        if step is not None:
            self.carried = step @ self.carried


def test_what_creeps_alone_is_followed_also_in_smoke(rng: np.random.Generator) -> None:
    mount = Mount()
    for _ in range(SETTLED):
        mount.frame(motion(0), motion(0))
    for k in range(40):
        mount.frame(motion(0.15 * k, roll_deg=0.01 * k), None, smoke(rng))
    assert apart(mount.carried, motion(0.15 * 39, roll_deg=0.01 * 39)) < 0.5


@pytest.mark.parametrize("length_px", [0.15, 2.0], ids=["slowly", "fast"])
def test_a_rig_that_moves_as_a_whole_carries_nothing(length_px: float, rng: np.random.Generator) -> None:
    mount = Mount()
    for k in range(30):
        mount.frame(motion(length_px * k % 30), motion(length_px * k % 30))
    assert apart(mount.carried, np.eye(3)) < 0.7


def test_a_knock_is_no_creep_and_a_still_rig_stays(rng: np.random.Generator) -> None:
    mount = Mount()
    for k in range(SETTLED + 10):
        mount.frame(motion(0), motion(0), None if k < SETTLED else smoke(rng))
    assert apart(mount.carried, np.eye(3)) < 0.05
    for _ in range(STILL_LOOKS - 2):
        mount.frame(motion(9), None, smoke(rng))
    assert apart(mount.carried, np.eye(3)) < 0.05
