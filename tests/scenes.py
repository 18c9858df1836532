"""Rendered scenes for tests."""

from typing import Any

import cv2
import numpy as np

from streamfuse.synth.options import (
    RigOptions,
    SceneOptions,
)
from streamfuse.synth.scene import Scene

SCENE = SceneOptions(seed=3)


def scene_of(**rig: Any) -> Scene:
    return Scene(SCENE, RigOptions(**rig))


def resized(ir: np.ndarray, vis: np.ndarray) -> np.ndarray:
    return np.asarray(
        cv2.resize(ir, (vis.shape[1], vis.shape[0]), interpolation=cv2.INTER_LINEAR), np.float32
    )
