"""Networks by name, and how a checkpoint becomes the state of one."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from streamfuse.errors import ConfigError, WeightsError
from streamfuse.nn.checkpoint import Checkpoint, read_checkpoint
from streamfuse.nn.network import Network
from streamfuse.nn.weights import bundled_names, find_weights
from streamfuse.registry import Registry

MODELS = Registry(
    "model",
    {
        "mepma": "streamfuse.nn.mepma.network:MEPMA",
        "live-registration": "streamfuse.nn.live_registration:LiveRegistration",
        "live-fusion": "streamfuse.nn.live_fusion:LiveFusion",
    },
)

_COUNTERS = re.compile(r"(^|\.)(num_batches_tracked|total_ops|total_params)$")
"""Counters of BatchNorm and of the profiler thop: buffers that no computation reads."""

_RECOGNISED = 0.5
"""Share of a network's names that a checkpoint must have to count as one of it."""

_LISTED = 20
"""Names spelt out in an error message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The state of one network out of a checkpoint.

    tensors: by our names, in the types of the file. Dropped, by their names in the file: unused, parameters
    that are known to take no part in the computation; counters, of BatchNorm and profilers.
    """

    model: str
    tensors: dict[str, Tensor]
    unused: list[str]
    counters: list[str]


def build_model(name: str, *, device: str = "cpu") -> Network:
    """A network with random weights in eval mode. Raises ConfigError: unknown network or device."""
    network: Network = MODELS.load(name)()
    return _moved(network, device)


def load_model(name: str, *, weights: str | Path | None = None, device: str = "cpu") -> Network:
    """A network ready for inference: float32, eval mode, on `device`.

    Args:
        name: `mepma`, ...
        weights: name of bundled weights or path of a checkpoint in any known format, the authors' own
            included (read without executing anything in it); None: the bundled weights of that name.
        device: torch device name.

    Raises:
        ConfigError: unknown network or device.
        WeightsError: no such weights, damaged, unsafe, or of another network.
    """
    network = build_model(name)
    if weights is None and name not in bundled_names():
        raise WeightsError(
            f"no weights of {name} come with the package: give the path of a checkpoint, or convert one "
            "once with `streamfuse weights import FILE`"
        )
    found = find_weights(name if weights is None else weights)
    fitted = fit_checkpoint(read_checkpoint(found.path), network=name)
    # Not strict, for the counters: that nothing else is missing has been checked.
    network.load_state_dict({key: tensor.float() for key, tensor in fitted.tensors.items()}, strict=False)
    return _moved(network, device)


def _moved(network: Network, device: str) -> Network:
    try:
        return network.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"cannot use the device {device!r}: {reason}") from error


def own_state(network: Network) -> dict[str, Tensor]:
    """Parameters and buffers that the computation reads, by name: what a weight file holds."""
    return {name: value for name, value in network.state_dict().items() if not _COUNTERS.search(name)}


def recognise(checkpoint: Checkpoint) -> str:
    """Name of the network that a checkpoint is of. Raises WeightsError when it is of none known here."""
    shares = {name: _share(name, checkpoint) for name in MODELS.names()}
    best = max(shares, key=shares.__getitem__)
    if shares[best] < _RECOGNISED:
        raise WeightsError(
            f"{checkpoint.path}: {len(checkpoint.tensors)} tensors of no known network "
            f"({', '.join(shares)}), for example {_listing(checkpoint.tensors, 3)}"
        )
    return best


def fit_checkpoint(checkpoint: Checkpoint, *, network: str) -> Fitted:
    """Bring a checkpoint to the names of a network and check it against what the network needs.

    Raises:
        WeightsError: tensors are missing, unknown, of another shape or not finite; all are listed.
    """
    cls = MODELS.load(network)
    expected = _expected(cls)
    counters = sorted(name for name in checkpoint.tensors if _COUNTERS.search(name))
    unused = sorted(
        name for name in checkpoint.tensors if any(re.search(pattern, name) for pattern in cls.FOREIGN_UNUSED)
    )
    kept = checkpoint.tensors.keys() - {*counters, *unused}
    tensors = {_our_name(cls, name): checkpoint.tensors[name] for name in sorted(kept)}
    problems = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "extra": sorted(tensors.keys() - expected.keys()),
        "misshapen": [
            f"{name}: {tuple(tensors[name].shape)} instead of {tuple(shape)}"
            for name, shape in sorted(expected.items())
            if name in tensors and tensors[name].shape != shape
        ],
        "not finite": sorted(name for name, tensor in tensors.items() if not tensor.isfinite().all()),
    }
    found = [f"{len(names)} {what} ({_listing(names, _LISTED)})" for what, names in problems.items() if names]
    if found:
        raise WeightsError(f"{checkpoint.path}: does not fit {network}: {'; '.join(found)}")
    return Fitted(model=network, tensors=tensors, unused=unused, counters=counters)


def _expected(cls: type[Network]) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: value.shape for name, value in own_state(cls()).items()}


def _our_name(cls: type[Network], name: str) -> str:
    for pattern, replacement in cls.FOREIGN_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _share(network: str, checkpoint: Checkpoint) -> float:
    cls = MODELS.load(network)
    expected = _expected(cls)
    found = {_our_name(cls, name) for name in checkpoint.tensors}
    return len(expected.keys() & found) / len(expected)


def _listing(names: Iterable[str], limit: int) -> str:
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
