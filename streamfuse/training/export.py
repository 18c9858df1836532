"""The best weights of a run, as a weight file with the record of where they come from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file

from streamfuse.errors import DataError
from streamfuse.nn.models import own_state
from streamfuse.nn.network import Network
from streamfuse.nn.weights import WeightsFile, save_weights
from streamfuse.training.data import Pair
from streamfuse.training.provenance import commit


class TrainingConfig(Protocol):
    """What the configurations of all trainings have in common."""

    @property
    def folders(self) -> list[str]: ...

    @property
    def drop(self) -> tuple[str, ...]: ...

    @property
    def terms(self) -> str: ...


def load_best(network: Network, run: Path) -> None:
    """Give `network` the best weights of the run in a folder. Raises DataError."""
    best = run / "best.safetensors"
    if not best.is_file():
        raise DataError(f"{run}: no best.safetensors, the run has not been validated yet")
    network.load_state_dict(load_file(best))


def write_weights(
    network: Network,
    to: Path,
    *,
    summary: str,
    config: TrainingConfig,
    configuration: dict[str, Any],
    held: Sequence[Pair],
    command: str,
    seed: int,
    steps: int,
    validation: dict[str, Any],
    **more: Any,
) -> WeightsFile:
    """Write what `network` holds, in half precision.

    Args:
        summary: which network. configuration: `config` as plain data, as far as it is to be told. held: the
            validation pairs. steps: of the run. validation: `what` was measured and its `curve` by step.
        more: further entries of the record.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "what": f"weights of {summary}, trained by streamfuse",
        "data": config.folders,
        "terms": config.terms,
        "dropped_from_training": sorted(config.drop),
        "held_back": sorted(pair.name for pair in held),
        "command": command,
        "configuration": configuration,
        "seed": seed,
        "steps": steps,
        "commit": commit(),
        "validation": validation,
    }
    return save_weights(
        own_state(network), to, model=network.NAME, dtype=torch.float16, provenance=record | more
    )
