"""Measures the live fusion network beside the other fusers, on pairs that it has not seen."""

from collections.abc import Sequence

from streamfuse.evaluation.judge import MAXIMUM
from streamfuse.evaluation.models import Pair as EvaluationPair
from streamfuse.evaluation.models import evaluate_models, make_fuser
from streamfuse.evaluation.results import Evaluation
from streamfuse.metrics.panel import METRICS
from streamfuse.training.data import Pair
from streamfuse.training.fusion import ratio_to_maximum, required

OURS = "live"
OTHERS = ("people", "laplacian", "guided")
SAMPLES = 6
"""Pairs that a report shows."""


def compare_fusers(weights: str, pairs: Sequence[Pair], *, samples: int = 0) -> Evaluation:
    """The fusion metrics of the network, the classical fusers and the trivial ones, on aligned pairs.

    Args:
        weights: name of bundled weights, or a weight file.
        samples: so many pairs are kept as pictures.
    """
    fusers = {OURS: make_fuser(OURS, weights=weights), **{name: make_fuser(name) for name in OTHERS}}
    shown = [EvaluationPair(name=pair.name, ir=pair.ir, vis=pair.vis) for pair in pairs]
    return evaluate_models(
        shown, fusers=fusers, families=("fusion", "film"), name="held back", samples=samples, jobs=1
    )


def below_bar(evaluation: Evaluation) -> dict[str, float]:
    """The metrics in which the network is not as good as asked for, with their ratio to the maximum's."""
    means = evaluation.means()
    ours, trivial = means[OURS]["fusion"], means[MAXIMUM]["fusion"]
    ratios = {name: ratio_to_maximum(name, ours[name], trivial[name]) for name in METRICS["fusion"]}
    return {name: ratio for name, ratio in ratios.items() if ratio < required(name)}
