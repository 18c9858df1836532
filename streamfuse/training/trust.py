"""The confidence of a registrar, fitted and judged on short films with known answers.

Pairs of pictures (real ones, and frames of rendered streets) get a known extra deformation as a rig has it
(mostly affine, a little bend) and become a few frames of a film: behind smoke that drifts by, in the dark,
noisy or out of focus. Now and then the rig is knocked between two frames, so that a field that was right is
wrong; some pairs do not belong together. Every frame is registered cold and, as a run would, in time: what
the confidence of a warm field rests on is what the frames before it have seen as well. A field is good when
its mean error is below GOOD_PX, relative to what the registrar finds on the undeformed, unspoilt pair: what a
pair is off by itself, nobody knows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from streamfuse.clock import NS_PER_S
from streamfuse.flow import compose, invert, to_flow
from streamfuse.frame import Flow, Image8, Registration, Status
from streamfuse.fusion.colour import luma
from streamfuse.metrics.reliability import calibration_error, reliability_curve
from streamfuse.registration.options import TemporalOptions
from streamfuse.registration.registrar import Registrar, search
from streamfuse.registration.temporal import TemporalRegistration
from streamfuse.registration.trust import GOOD_PX
from streamfuse.registration.working import sample
from streamfuse.sampling import pixel_grid
from streamfuse.synth.options import RigOptions, SceneOptions
from streamfuse.synth.scene import Scene
from streamfuse.training.data import Pair
from streamfuse.training.deform import DeformationRange, random_field

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
FRAMES = 4
"""Of each film: enough for smoke to pass, and for a warm field to rest on others that were warm."""
FRAME_NS = NS_PER_S // 25
FOREIGN, KNOCKED, SPOILT = 0.08, 0.2, 0.6
"""Shares of the films: of pairs that do not belong together, with a knock, with something between camera and
scene. Chances in use are higher; the fit needs both answers."""
KNOCKS_PX = (2.0, 20.0)
"""Deviations of a knock, one of them, at 640 columns."""
SPARE = 8
"""Every n-th place of a field is judged: fields are smooth."""
FIT_SEEDS, JUDGE_SEEDS = range(100, 109), range(200, 206)
"""Streets that are rendered: those fitted on and those judged on."""
RENDERED_FRAMES = 4
RENDERED_EVERY_S = 0.8
PAIR_FILMS, STREET_FILMS, JUDGED_FILMS = 1, 3, 4
"""Films of each training pair, of each frame of a street, of each pair that judges."""
MAX_ERROR = 0.1
DECAY = 1e-3
STEPS = 400
LIGHTS = ("day", "dusk", "night")


@dataclass(frozen=True, slots=True)
class Judged:
    """One case: what the registrar said of a field, and its error in pixels of a 640-pixel picture."""

    warm: bool
    evidence: tuple[float, ...]
    confidence: float
    error_px: float

    @property
    def good(self) -> bool:
        return self.error_px < GOOD_PX


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
    """`rounds` films of each pair, each time deformed and spoilt anew."""
    for number, pair in enumerate(pairs):
        own = registrar.register(pair.ir, pair.vis)
        if own.status is Status.OFF:
            continue
        own_field = to_flow(registrar.register(pair.ir, pair.vis, prior=own), pair.ir.shape)
        other = pairs[(number * 7 + 3) % len(pairs)]
        for turn in range(rounds):
            yield from _film(registrar, pair, own_field, other, np.random.default_rng([seed, number, turn]))


def _film(
    registrar: Registrar, pair: Pair, own: Flow, other: Pair, rng: np.random.Generator
) -> Iterator[Judged]:
    shape = (pair.ir.shape[0], pair.ir.shape[1])
    foreign = rng.random() < FOREIGN
    ir = np.asarray(cv2.resize(other.ir, shape[::-1]), np.uint8) if foreign else pair.ir
    knock_at = int(rng.integers(1, FRAMES)) if rng.random() < KNOCKED else 0
    field = random_field(shape, rng, RIG)
    views = [Spoiler(shape, rng, smoke=smoke) for smoke in (False, True)]
    state = TemporalRegistration(TemporalOptions(), calibrated=True)
    for frame in range(FRAMES):
        if frame in (0, knock_at):
            knock = rng.normal(0, rng.choice(KNOCKS_PX), 2) * (frame > 0) * max(shape) / 640
            field = field + knock.astype(np.float32)
            truth = compose(invert(field), own) + np.float32(1e3 * foreign)
            at = pixel_grid(shape) + field
            moved = np.asarray(sample(ir, at), np.uint8)
            seen = np.asarray(sample(np.full(shape, 255, np.uint8), at, border=cv2.BORDER_CONSTANT), np.uint8)
            valid = np.where(seen == 255, 255, 0).astype(np.uint8)
        infrared, visible = views[0](moved, frame), views[1](pair.vis, frame)
        found: list[Registration] = []

        def run(prior: Registration | None) -> Registration:
            found.append(registrar.register(infrared, visible, valid=valid, prior=prior))  # noqa: B023
            return found[-1]  # noqa: B023

        t_ns = frame * FRAME_NS
        state.look(infrared, visible, t_ns=t_ns, epochs=(0, 0))
        state.register(
            infrared,
            visible,
            run,
            lambda: search(registrar, infrared, visible, valid=valid),  # noqa: B023
            t_ns=t_ns,
            valid=valid,
        )
        if all(registration.warm for registration in found):
            run(None)
        for registration in found:
            yield Judged(
                warm=registration.warm,
                evidence=registration.evidence,
                confidence=registration.confidence,
                error_px=_error(registration, truth),
            )


def _error(found: Registration, truth: Flow) -> float:
    """Mean, pixels of a 640-pixel picture."""
    places = np.s_[SPARE // 2 :: SPARE, SPARE // 2 :: SPARE]
    shape = (truth.shape[0], truth.shape[1])
    error = np.linalg.norm((to_flow(found, shape) - truth)[places], axis=-1).mean()
    return float(error * 640 / max(shape))


class Spoiler:
    """What is between one camera and the scene during a film: nothing, blur, darkness, smoke, or noise.

    smoke: this camera is one that smoke hides the scene from. Smoke drifts through the picture sideways,
    thicker on one side, so that some of the scene is seen now and other of it later.
    """

    def __init__(self, shape: tuple[int, int], rng: np.random.Generator, *, smoke: bool) -> None:
        self._rng, self._unit = rng, max(shape) / 640
        kinds = ("blur", "dark", "noise") + ("smoke",) * 3 * smoke
        self._kind = str(rng.choice(kinds)) if rng.random() < SPOILT else "nothing"
        self._strength = rng.uniform(0, 1)
        rows, columns = shape
        wide = (2 * columns, rows)
        bank = np.tanh(np.linspace(-1, 1, 9) * rng.uniform(1, 4) * rng.choice((-1, 1)))
        cloud, thickness = (
            cv2.resize(rng.normal(mean, deviation, (4, 9)) + lean, wide, interpolation=cv2.INTER_CUBIC)
            for mean, deviation, lean in (
                (150, 25, np.zeros(9)),
                (2.5 * self._strength - 0.5, 1.0, rng.uniform(0, 3) * bank),
            )
        )
        self._cloud, self._opaque = cloud, 0.995 / (1 + np.exp(-4 * thickness))
        self._drift = rng.uniform(0, 1) * columns / (FRAMES - 1)

    def __call__(self, image: Image8, frame: int) -> Image8:
        """A picture of the film, spoilt. uint8 (H, W)."""
        if self._kind == "nothing":
            return image
        plane: Any = image.astype(np.float32)
        if self._kind == "blur":
            plane = cv2.GaussianBlur(plane, (0, 0), 0.3 + 5 * self._strength * self._unit)
        elif self._kind == "dark":
            plane *= 1 - 0.97 * self._strength
        elif self._kind == "smoke":
            from_column = round(frame * self._drift)
            part = np.s_[:, from_column : from_column + image.shape[1]]
            plane = (1 - self._opaque[part]) * plane + self._opaque[part] * self._cloud[part]
        sigma = 1.0 + (25 * self._strength if self._kind == "noise" else 0)
        noisy = plane + self._rng.normal(0, sigma, image.shape)
        return np.asarray(np.clip(np.rint(noisy), 0, 255), np.uint8)


def training_cases(registrar: Registrar, pairs: Sequence[Pair], *, seed: int) -> list[Judged]:
    """What a confidence is fitted on: films of training pairs and of rendered streets. Two minutes."""
    streets = list(rendered_pairs(FIT_SEEDS, frames=RENDERED_FRAMES))
    return [
        *judged_cases(registrar, pairs, rounds=PAIR_FILMS, seed=seed),
        *judged_cases(registrar, streets, rounds=STREET_FILMS, seed=seed + 1),
    ]


def trust_lines(cases: Sequence[Judged]) -> list[str]:
    """The weights for a registrar whose confidence is written in its module, cold and warm by themselves."""
    lines = []
    for warm in (False, True):
        chosen = [c for c in cases if c.warm == warm and c.evidence]
        if chosen:
            weights, bias = fit_trust(chosen)
            lines.append(f"{'warm' if warm else 'cold'}: Trust({weights}, {bias})  # {len(chosen)} cases")
    return lines


def reliability_lines(registrar: Registrar, held: Sequence[Pair]) -> tuple[list[str], bool]:
    """The reliability of the confidence as the registrar has it now, on pairs and streets never fitted on;
    whether that is calibrated to MAX_ERROR. Two minutes."""
    streets = list(rendered_pairs(JUDGE_SEEDS, frames=RENDERED_FRAMES))
    judged = [
        *judged_cases(registrar, held, rounds=JUDGED_FILMS, seed=3),
        *judged_cases(registrar, streets, rounds=STREET_FILMS, seed=4),
    ]
    lines, passed = [], True
    for name, cases in (
        ("cold", [c for c in judged if not c.warm]),
        ("warm", [c for c in judged if c.warm]),
        ("all", judged),
    ):
        curve = reliability_curve([c.confidence for c in cases], [c.good for c in cases])
        error = calibration_error(curve)
        lines += [name, *(f"  {part}" for part in curve)]
        lines.append(f"  expected calibration error {error:.3f} over {len(cases)} cases, <= {MAX_ERROR}")
        passed &= error <= MAX_ERROR
    return lines, passed


def fit_trust(cases: Sequence[Judged]) -> tuple[tuple[float, ...], float]:
    """Weights and bias of the logistic from the evidence of cases to whether they are good."""
    evidence = torch.tensor([case.evidence for case in cases], dtype=torch.float32)
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
