"""Rendered pairs for training: a street seen by two cameras in one place, so that truth is exact.

Real pairs are aligned by hand to a pixel or two; these add what only exact labels can teach, and the light
that real sets lack. They are written as any other data set: ir/ and vis/ with equal file stems; people/ holds
the masks of people, 255 on them, which the fusion network learns to show.
"""

from pathlib import Path

import numpy as np

from streamfuse.pictures import write_picture
from streamfuse.synth.options import MotionOptions, RigOptions, SceneOptions, SmokeOptions
from streamfuse.synth.scene import Scene

WIDTH, HEIGHT = 480, 360
PEOPLE = "people"
"""Folder of the masks."""
SMOKY = 0.2
"""Share of the streets with smoke, up to where the visible camera sees little."""


def render_pairs(folder: Path, *, count: int, seed: int) -> None:
    """Write `count` pairs into `folder`, each of another street; the same for the same seed."""
    for stream in ("ir", "vis", PEOPLE):
        (folder / stream).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        scene = Scene(_street(rng), _rig(rng))
        at_s = float(rng.uniform(1, 20))
        vis = scene.render_visible(at_s, noise_ns=number)
        ir = scene.infrared_view(scene.render_infrared(at_s, noise_ns=number))
        write_picture(folder / "ir" / f"{number:05d}.png", ir)
        write_picture(folder / "vis" / f"{number:05d}.png", vis)
        write_picture(folder / PEOPLE / f"{number:05d}.png", scene.truth(at_s).person)


def _street(rng: np.random.Generator) -> SceneOptions:
    smoke = float(rng.uniform(0.2, 0.7)) if rng.random() < SMOKY else 0.0
    return SceneOptions(
        seed=int(rng.integers(2**31)),
        light=("day", "dusk", "night")[int(rng.integers(3))],
        people=int(rng.integers(0, 14)),
        cars=int(rng.integers(0, 6)),
        parked=int(rng.integers(0, 7)),
        trees=bool(rng.random() < 0.7),
        smoke=SmokeOptions(density=smoke),
        motion=MotionOptions(pan_deg=8, tilt_deg=3, roll_deg=2),
    )


def _rig(rng: np.random.Generator) -> RigOptions:
    """Two cameras in one place with one view: nothing to register."""
    return RigOptions(
        vis_width=WIDTH,
        vis_height=HEIGHT,
        vis_fov_deg=float(rng.uniform(35, 75)),
        vis_noise=float(rng.uniform(0.5, 5)),
        exposure=float(rng.uniform(0.6, 1.8)),
        ir_width=WIDTH,
        ir_height=HEIGHT,
        fov_ratio=1.0,
        shift_px=(0.0, 0.0),
        roll_deg=0.0,
        elastic_px=0.0,
        baseline_m=(0.0, 0.0),
        ir_blur_px=float(rng.uniform(0.3, 1.5)),
        netd_mk=float(rng.uniform(20, 120)),
    )
