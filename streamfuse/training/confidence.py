"""What a fit is worth: the confidence of the `live` registrar, fitted when its weights are exported.

One logistic regression for cold and warm starts together, on the cases of `training/trust.py`: the network
carries it, as it belongs to the features the evidence comes from.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from streamfuse.nn.live_registration import LiveRegistration
from streamfuse.nn.models import own_state
from streamfuse.nn.weights import WeightsFile, find_weights, save_weights
from streamfuse.registration.live import LiveOptions, LiveRegistrar
from streamfuse.registration.trust import GOOD_PX
from streamfuse.training.data import Pair
from streamfuse.training.trust import fit_trust, training_cases


def calibrate_confidence(network: LiveRegistration, pairs: Sequence[Pair], *, seed: int) -> dict[str, float]:
    """Set `network.confidence`. Returns how well it separates: accuracy, and mean confidence of either
    kind.
    """
    cases = training_cases(LiveRegistrar(LiveOptions(), network=network), pairs, seed=seed)
    weights, bias = fit_trust(cases)
    with torch.no_grad():
        network.confidence.weight.copy_(torch.tensor(weights)[None])
        network.confidence.bias.fill_(bias)
    evidence = torch.tensor([case.evidence for case in cases])
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


def save_calibrated(
    network: LiveRegistration, source: str, to: Path, *, calibration: dict[str, float], command: str
) -> WeightsFile:
    """Write the weights `source` with the confidence that `network` has now, and say so in their record."""
    record = {key: value for key, value in find_weights(source).provenance.items() if key != "sha256"}
    return save_weights(
        own_state(network),
        to,
        model=LiveRegistration.NAME,
        dtype=torch.float16,
        provenance={**record, "confidence": calibration, "confidence_command": command},
    )
