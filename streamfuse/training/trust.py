"""The confidence of a registrar, fitted and judged on pairs with known answers.

Pairs of pictures (real ones, and frames of rendered streets) get a known extra deformation as a rig has it
(mostly affine, a little bend), and are spoilt by smoke, darkness, noise and blur; some do not belong
together. A field is good when its mean error is below GOOD_PX, relative to what the registrar finds on the
undeformed, unspoilt pair: what a pair is off by itself, nobody knows. Some cases start cold, some from a
prior near the truth, some from a wrong one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from streamfuse.frame import Image8, Registration, Status
from streamfuse.fusion.colour import luma
from streamfuse.metrics.reliability import calibration_error, reliability_curve
from streamfuse.registration.registrar import Registrar
from streamfuse.registration.trust import GOOD_PX
from streamfuse.registration.warp import to_flow
from streamfuse.registration.working import pixel_grid, sample
from streamfuse.synth.options import RigOptions, SceneOptions
from streamfuse.synth.scene import Scene
from streamfuse.training.data import Pair
from streamfuse.training.deform import DeformationRange, compose, invert, random_field

RIG = DeformationRange(
    rotation_deg=2.0,
    translation=0.03,
    scale=0.02,
    shear=0.01,
    perspective=0.01,
    elastic=0.75,
    elastic_sigma=(40.0, 80.0),
)
"""How far a rig's residual goes beyond its calibration, or a rig without one beyond a plain resize."""
SPARE = 8
"""Every n-th place of a field is judged: fields are smooth."""
FIT_SEEDS, JUDGE_SEEDS = range(100, 109), range(200, 206)
"""Streets that are rendered: those fitted on and those judged on."""
RENDERED_FRAMES = 6
RENDERED_EVERY_S = 0.8
MAX_ERROR = 0.1
DECAY = 1e-3
STEPS = 400
LIGHTS = ("day", "dusk", "night")


@dataclass(frozen=True, slots=True)
class Judged:
    """One case: what the registrar said, the error in pixels of a 640-pixel picture."""

    found: Registration
    error_px: float

    @property
    def good(self) -> bool:
        return self.found.status is not Status.OFF and self.error_px < GOOD_PX


def rendered_pairs(seeds: Sequence[int], *, frames: int) -> Iterator[Pair]:
    """Frames of rendered streets, infrared resized to the visible 640 x 480."""
    for seed in seeds:
        rng = np.random.default_rng([seed, 31])
        rig = RigOptions(shift_px=tuple(rng.uniform(-6, 6, 2).tolist()), roll_deg=float(rng.uniform(0, 0.8)))
        scene = Scene(SceneOptions(seed=seed, light=LIGHTS[seed % len(LIGHTS)]), rig)
        for number in range(frames):
            t = number * RENDERED_EVERY_S
            vis = luma(scene.render_visible(t))
            ir = cv2.resize(scene.infrared_view(scene.render_infrared(t)), (vis.shape[1], vis.shape[0]))
            yield Pair(f"street-{seed}-{number}", np.asarray(ir, np.uint8), vis)


def judged_cases(registrar: Registrar, pairs: Sequence[Pair], *, rounds: int, seed: int) -> Iterator[Judged]:
    """Each pair `rounds` times, each time deformed and spoilt anew."""
    for number, pair in enumerate(pairs):
        own = registrar.register(pair.ir, pair.vis)
        if own.status is Status.OFF:
            continue
        own_field = to_flow(registrar.register(pair.ir, pair.vis, prior=own), pair.ir.shape)
        other = pairs[(number * 7 + 3) % len(pairs)]
        for turn in range(rounds):
            yield _case(registrar, pair, own_field, other, np.random.default_rng([seed, number, turn]))


def _case(registrar: Registrar, pair: Pair, own: np.ndarray, other: Pair, rng: np.random.Generator) -> Judged:
    shape = (pair.ir.shape[0], pair.ir.shape[1])
    unit = max(shape) / 640
    field = random_field(shape, rng, RIG)
    truth = compose(invert(field), own)
    ir = pair.ir
    if rng.random() < 0.08:
        ir = np.asarray(cv2.resize(other.ir, shape[::-1]), np.uint8)
        truth = truth + np.float32(1e3)
    at = pixel_grid(shape) + field
    moved = np.asarray(sample(ir, at), np.uint8)
    valid = np.asarray(sample(np.full(shape, 255, np.uint8), at, border=cv2.BORDER_CONSTANT), np.uint8)
    prior: Registration | None = None
    luck = rng.random()
    if luck > 0.5:
        reach = 2.0 if luck < 0.85 else 20.0
        off = truth + rng.normal(0, reach * unit, 2).astype(np.float32)
        prior = Registration(status=Status.OK, confidence=0.9, flow=off)
    found = registrar.register(
        spoilt(moved, rng), spoilt(pair.vis, rng), valid=np.where(valid == 255, valid, 0), prior=prior
    )
    places = np.s_[SPARE // 2 :: SPARE, SPARE // 2 :: SPARE]
    error = np.linalg.norm((to_flow(found, shape) - truth)[places], axis=-1).mean()
    return Judged(found, float(error) / unit)


def spoilt(image: Image8, rng: np.random.Generator) -> Image8:
    """Half of the pictures as they are, the others behind drifts of smoke, dark, noisy or out of focus."""
    if rng.random() < 0.5:
        return image
    plane: Any = image.astype(np.float32)
    unit = max(image.shape) / 640
    kind, strength = rng.choice(4, p=(0.2, 0.2, 0.4, 0.2)), rng.uniform(0, 1)
    if kind == 0:
        plane = cv2.GaussianBlur(plane, (0, 0), 0.3 + 5 * strength * unit)
    elif kind == 1:
        plane *= 1 - 0.97 * strength
    elif kind == 2:
        cloud, thickness = (
            cv2.resize(rng.normal(mean, deviation, (4, 5)), image.shape[::-1], interpolation=cv2.INTER_CUBIC)
            for mean, deviation in ((150, 25), (2.5 * strength - 0.5, 1.0))
        )
        opaque = 0.995 / (1 + np.exp(-4 * thickness))
        plane = (1 - opaque) * plane + opaque * cloud
    noise = rng.normal(0, 1.0 + (25 * strength if kind == 3 else 0), image.shape)
    return np.asarray(np.clip(np.rint(plane + noise), 0, 255), np.uint8)


def confidence_lines(
    registrar: Registrar, train: Sequence[Pair], held: Sequence[Pair]
) -> tuple[list[str], bool]:
    """Weights fitted on training pairs, and the reliability, on pairs and streets never fitted on, of the
    confidence as the registrar has it now; whether that is calibrated to MAX_ERROR. Minutes."""
    streets = [list(rendered_pairs(seeds, frames=RENDERED_FRAMES)) for seeds in (FIT_SEEDS, JUDGE_SEEDS)]
    lines = []
    fitted = [
        *judged_cases(registrar, train, rounds=4, seed=1),
        *judged_cases(registrar, streets[0], rounds=10, seed=2),
    ]
    for warm in (False, True):
        cases = [c for c in fitted if c.found.warm == warm and c.found.evidence]
        if cases:
            weights, bias = fit_trust(cases)
            lines.append(f"{'warm' if warm else 'cold'}: Trust({weights}, {bias})  # {len(cases)} cases")
    judged = [
        *judged_cases(registrar, held, rounds=14, seed=3),
        *judged_cases(registrar, streets[1], rounds=8, seed=4),
    ]
    curve = reliability_curve([c.found.confidence for c in judged], [c.good for c in judged])
    error = calibration_error(curve)
    lines += [f"  {part}" for part in curve]
    lines.append(f"expected calibration error {error:.3f} over {len(judged)} cases, <= {MAX_ERROR}")
    return lines, error <= MAX_ERROR


def fit_trust(cases: Sequence[Judged]) -> tuple[tuple[float, ...], float]:
    """Weights and bias of the logistic from the evidence of cases to whether they are good."""
    evidence = torch.tensor([case.found.evidence for case in cases], dtype=torch.float32)
    good = torch.tensor([case.good for case in cases], dtype=torch.float32)
    weights, bias = logistic(evidence, good)
    return tuple(round(float(w), 3) for w in weights), round(float(bias), 3)


def logistic(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and bias by full-batch descent on standardised features, folded back."""
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    unit = (features - mean) / deviation
    weight, bias = torch.zeros(features.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    optimiser = torch.optim.Adam([weight, bias], lr=0.05)
    for _ in range(STEPS):
        loss = (
            F.binary_cross_entropy_with_logits(unit @ weight + bias, labels) + DECAY * weight.square().sum()
        )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    folded = weight.detach() / deviation
    return folded, bias.detach() - folded @ mean
