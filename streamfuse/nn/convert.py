"""Checkpoints of others, brought to a weight file of ours."""

from dataclasses import dataclass
from pathlib import Path

from streamfuse import __version__
from streamfuse.errors import WeightsError
from streamfuse.nn.checkpoint import read_checkpoint
from streamfuse.nn.models import MODELS, fit_checkpoint, recognise
from streamfuse.nn.weights import SUFFIX, WeightsFile, find_weights, save_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import has written. values: numbers in the file. unused, counters: see `Fitted`."""

    weights: WeightsFile
    model: str
    format: str
    tensors: int
    values: int
    unused: list[str]
    counters: list[str]


def import_weights(
    source: Path, output: Path | None = None, *, model: str | None = None, overwrite: bool = False
) -> Imported:
    """Convert a checkpoint, without executing anything in it, and write its provenance beside the result.

    Args:
        source: a checkpoint in any format that `read_checkpoint` knows.
        output: a `.safetensors` path; None: `source` with that suffix.
        model: the network it is of; None: recognised by its tensors.
        overwrite: replace `output` when it exists.

    Raises:
        ConfigError: unknown network.
        WeightsError: unreadable or unsafe file, tensors that do not fit, or the result cannot be written.
    """
    output = output or source.with_suffix(SUFFIX)
    if output.exists() and (not overwrite or output.samefile(source)):
        hint = "give another one with -o" if output.samefile(source) else "give another one, or --force"
        raise WeightsError(f"{output} exists already; {hint}")
    if model is not None:
        MODELS.load(model)
    checkpoint = read_checkpoint(source)
    fitted = fit_checkpoint(checkpoint, network=model or recognise(checkpoint))
    provenance = {
        "what": f"converted from a checkpoint of another program by streamfuse {__version__}",
        "source": source.name,
        "source_sha256": find_weights(source).sha256,
        "source_format": checkpoint.format,
        "dropped_as_unused": fitted.unused,
    }
    return Imported(
        weights=save_weights(fitted.tensors, output, model=fitted.model, provenance=provenance),
        model=fitted.model,
        format=checkpoint.format,
        tensors=len(fitted.tensors),
        values=sum(tensor.numel() for tensor in fitted.tensors.values()),
        unused=fitted.unused,
        counters=fitted.counters,
    )
