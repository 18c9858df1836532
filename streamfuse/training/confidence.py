"""What a fit is worth: the confidence of the `live` registrar, calibrated on pairs with known answers.

A logistic regression from the evidence of the fit to "the mean error is below GOOD pixels", over pairs
deformed near and far, pairs that do not belong together, and pictures with nothing in them.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from streamfuse.frame import Image8
from streamfuse.nn.live_registration import LiveRegistration
from streamfuse.registration.live import LiveOptions, LiveRegistrar
from streamfuse.registration.working import pixel_grid, sample
from streamfuse.training.data import Pair
from streamfuse.training.deform import invert, random_field
from streamfuse.training.registration_cases import CASE_SHAPE, distance, field_of, stretched
from streamfuse.training.registration_samples import FAR, NEAR

GOOD = 3.0
"""Pixels of mean error up to which a registration is of use, at a working size of 400 x 304."""
CASES = 240
DECAY = 1e-3
STEPS = 400


def _case(
    pairs: Sequence[Pair], number: int, rng: np.random.Generator
) -> tuple[Image8, Image8, bool, np.ndarray]:
    """Infrared, visible, whether they belong together, and the field that then registers them."""
    pair, other = (stretched(pairs[int(rng.integers(len(pairs)))]) for _ in range(2))
    field = random_field(CASE_SHAPE, rng, FAR if number % 2 else NEAR)
    ir, vis = pair.ir, pair.vis
    kind = number % 6
    if kind == 4:
        ir = other.ir
    elif kind == 5:
        blank = rng.normal(rng.uniform(40, 200), rng.uniform(0.5, 4), CASE_SHAPE)
        smoke = cv2.GaussianBlur(vis, (0, 0), 25) if number % 4 == 1 else np.zeros(CASE_SHAPE)
        vis = np.clip(0.5 * smoke + 0.5 * blank, 0, 255).astype(np.uint8)
    moved = sample(ir, pixel_grid(CASE_SHAPE) + field, border=cv2.BORDER_CONSTANT)
    together = kind < 4
    return np.asarray(moved, np.uint8), vis, together, invert(field)


def calibrate_confidence(network: LiveRegistration, pairs: Sequence[Pair], *, seed: int) -> dict[str, float]:
    """Set `network.confidence`. Returns how well it separates: accuracy, and mean confidence of either
    kind.
    """
    registrar = LiveRegistrar(LiveOptions(), network=network)
    rows, labels = [], []
    for number in range(CASES):
        rng = np.random.default_rng([seed, 77, number])
        ir, vis, together, truth = _case(pairs, number, rng)
        attempt = registrar.attempt(ir, vis)
        error = distance(field_of(registrar.registration(attempt, ir.shape)), truth).mean()
        rows.append(attempt.evidence)
        labels.append(together and error < GOOD)
    evidence, good = torch.stack(rows), torch.tensor(labels, dtype=torch.float32)
    weight, bias = logistic(evidence, good)
    with torch.no_grad():
        network.confidence.weight.copy_(weight[None])
        network.confidence.bias.copy_(bias[None])
    trust = torch.sigmoid(evidence @ weight + bias)
    return {
        "good_below_px": GOOD,
        "cases": float(CASES),
        "accuracy": float(((trust > 0.5) == (good > 0.5)).float().mean()),
        "mean_confidence_good": float(trust[good > 0.5].mean()),
        "mean_confidence_bad": float(trust[good < 0.5].mean()),
    }


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
