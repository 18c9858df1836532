"""Weight files: found by name or path, verified, written with where they come from.

A weight file is NAME.safetensors with NAME.json beside it, its provenance: `model` (the network it fits),
`sha256` of the weight file, and whatever says how it was made (source file; data, terms, command, seed,
steps, commit, validation). The files of the package lie in `weights/` beside this module.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from streamfuse.errors import WeightsError

BUNDLED = Path(__file__).with_name("weights")
SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """A weight file whose checksum is right. provenance: {} when there is no record beside it."""

    path: Path
    size: int
    sha256: str
    provenance: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.path.stem

    def __repr__(self) -> str:
        return f"WeightsFile({self.path}, {self.size} bytes)"


def bundled_names() -> list[str]:
    """Names of the weights that come with the package, sorted."""
    return sorted(path.stem for path in BUNDLED.glob(f"*{SUFFIX}"))


def find_weights(name_or_path: str | Path) -> WeightsFile:
    """Find a weight file and verify it.

    Args:
        name_or_path: name of bundled weights, or path of any checkpoint file; a path that exists wins.

    Raises:
        WeightsError: there is no such file, its provenance record is damaged, or its checksum is not the
            recorded one. Bundled weights must have a record; other files may.
    """
    path = Path(name_or_path)
    bundled = BUNDLED / f"{name_or_path}{SUFFIX}"
    is_bundled = not path.is_file() and str(name_or_path) in bundled_names()
    if is_bundled:
        path = bundled
    if not path.is_file():
        known = ", ".join(bundled_names()) or "none"
        raise WeightsError(f"no weights {str(name_or_path)!r}: no such file, and no bundled name ({known})")
    record = path.with_suffix(".json")
    if is_bundled and not record.is_file():
        raise WeightsError(f"{path}: its provenance record {record.name} is missing")
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    # A .json beside a checkpoint of another program is that program's.
    provenance = _read_provenance(record) if path.suffix == SUFFIX and record.is_file() else {}
    if provenance and provenance["sha256"] != sha256:
        raise WeightsError(
            f"{path}: wrong checksum, the file is damaged or not the one that {record.name} describes "
            f"(sha256 {sha256}, recorded {provenance['sha256']})"
        )
    return WeightsFile(path=path, size=len(data), sha256=sha256, provenance=provenance)


def save_weights(
    tensors: Mapping[str, Tensor],
    path: Path,
    *,
    model: str,
    provenance: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> WeightsFile:
    """Write a weight file and its provenance record beside it, each at once or not at all.

    Args:
        tensors: parameters and buffers by name.
        path: ends in `.safetensors`; replaced when it exists.
        model: the network they fit.
        provenance: how they came to be; `model` and `sha256` are added.
        dtype: of the floating-point tensors in the file; None: as they are.

    Raises:
        WeightsError: the path has another suffix or cannot be written.
    """
    if path.suffix != SUFFIX:
        raise WeightsError(f"{path}: weights are written as {SUFFIX} files")
    stored = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None, copy=True).contiguous()
        for name, tensor in tensors.items()
    }
    data = save(stored, metadata={"format": "pt", "model": model})
    sha256 = hashlib.sha256(data).hexdigest()
    record = {"model": model, "sha256": sha256, **provenance}
    _write(path, data)
    _write(path.with_suffix(".json"), (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())
    return WeightsFile(path=path, size=len(data), sha256=sha256, provenance=record)


def _read_provenance(record: Path) -> dict[str, Any]:
    try:
        provenance = json.loads(record.read_bytes())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{record}: the provenance record cannot be read: {error}") from error
    if not isinstance(provenance, dict) or not {"model", "sha256"} <= provenance.keys():
        raise WeightsError(f"{record}: a provenance record is a JSON object with model and sha256")
    return provenance


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise WeightsError(f"cannot write {path}: {error.strerror}") from error
