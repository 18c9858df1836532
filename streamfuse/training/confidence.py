"""What a fit is worth: the confidence of the `live` registrar, fitted when its weights are exported.

One logistic regression for cold and warm starts together, on the cases of `training/trust.py`: the network
carries it, as it belongs to the features the evidence comes from.
"""

from collections.abc import Sequence

import torch

from streamfuse.nn.live_registration import LiveRegistration
from streamfuse.registration.live import LiveOptions, LiveRegistrar
from streamfuse.registration.trust import GOOD_PX
from streamfuse.training.data import Pair
from streamfuse.training.trust import (
    FIT_SEEDS,
    RENDERED_FRAMES,
    Judged,
    fit_trust,
    judged_cases,
    rendered_pairs,
)

ROUNDS, STREET_ROUNDS = 3, 8
"""How often each real pair and each rendered frame is deformed and spoilt anew."""


def calibrate_confidence(network: LiveRegistration, pairs: Sequence[Pair], *, seed: int) -> dict[str, float]:
    """Set `network.confidence`. Returns how well it separates: accuracy, and mean confidence of either
    kind.
    """
    registrar = LiveRegistrar(LiveOptions(), network=network)
    streets = list(rendered_pairs(FIT_SEEDS, frames=RENDERED_FRAMES))
    cases: list[Judged] = [
        *judged_cases(registrar, pairs, rounds=ROUNDS, seed=seed),
        *judged_cases(registrar, streets, rounds=STREET_ROUNDS, seed=seed + 1),
    ]
    weights, bias = fit_trust(cases)
    with torch.no_grad():
        network.confidence.weight.copy_(torch.tensor(weights)[None])
        network.confidence.bias.fill_(bias)
    evidence = torch.tensor([case.found.evidence for case in cases])
    good = torch.tensor([case.good for case in cases])
    trust = torch.sigmoid(evidence @ torch.tensor(weights) + bias)
    return {
        "good_below_px": GOOD_PX,
        "cases": float(len(cases)),
        "good": float(good.float().mean()),
        "accuracy": float(((trust > 0.5) == good).float().mean()),
        "mean_confidence_good": float(trust[good].mean()),
        "mean_confidence_bad": float(trust[~good].mean()),
    }
