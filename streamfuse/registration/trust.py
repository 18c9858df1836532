"""From evidence to the chance that a field is good."""

import math
from dataclasses import dataclass

GOOD_PX = 2.0
"""Mean error, pixels of a picture of 640 columns, up to which a field is good."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Logistic: the chance that the mean error is below GOOD_PX, given evidence.

    Made by `streamfuse train confidence`, which prints weights and bias and how well they are calibrated.
    """

    weights: tuple[float, ...]
    bias: float

    def __call__(self, evidence: tuple[float, ...]) -> float:
        score = self.bias + sum(w * x for w, x in zip(self.weights, evidence, strict=True))
        return 1 / (1 + math.exp(-max(-50.0, min(50.0, score))))
