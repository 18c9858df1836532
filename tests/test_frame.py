"""The nouns: they print no pixels, are compared by identity, and say what was put into them wrongly."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from streamfuse.frame import RawFrame, Registration, Status
from streamfuse.pipeline import Pipeline

IR, VIS = np.zeros((48, 64), np.uint8), np.zeros((48, 64, 3), np.uint8)
PLAIN = {"registration": {"model": "none"}, "fusion": {"model": "max"}}


def test_frames_are_compared_by_identity_and_travel() -> None:
    first, second = Pipeline.from_config(PLAIN, ir=[IR, IR], vis=[VIS, VIS])
    for noun in (lambda f: f, lambda f: f.pair, lambda f: f.pair.vis, lambda f: f.registration):
        assert noun(first) == noun(first) != noun(second)
        assert len({noun(first), noun(second)}) == 2
    for twin in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert repr(twin) == repr(first)
        np.testing.assert_array_equal(twin.image, first.image)


def test_a_raw_frame_prints_its_size() -> None:
    raw = RawFrame(image=IR, t_arrival=1_500_000_000, pts=3)
    assert repr(raw) == "RawFrame(64x48 agc8 pts=3 t_arrival=1.5000s)"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"status": "ok"}, "status must be a Status, got 'ok'"),
        ({"confidence": 90}, "confidence must be in 0..1, got 90"),
        ({"matrix": np.eye(2)}, r"matrix must be \(3, 3\), got \(2, 2\)"),
        ({"matrix": None, "flow": np.zeros((2, 4, 4), np.float32)}, r"flow must be float32 \(H, W, 2\)"),
        ({"matrix": None, "flow": np.zeros((4, 4, 2))}, r"got float64 \(4, 4, 2\)"),
        ({"matrix": None}, "exactly one of matrix and flow"),
    ],
)
def test_a_registration_says_what_is_wrong_with_it(wrong: dict[str, Any], says: str) -> None:
    good = {"status": Status.OK, "confidence": 0.9, "matrix": np.eye(3)}
    assert Registration(**good).confidence == 0.9
    with pytest.raises(ValueError, match=says):
        Registration(**good | wrong)
