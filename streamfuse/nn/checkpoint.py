"""Reads parameters from checkpoint files without running anything in them.

Known formats, told apart by content: safetensors; the zip files of `torch.save` (a state dict, a training
checkpoint around one, or a whole pickled module of classes that need not exist here); the stream that
PyTorch wrote before 1.6; a bare pickle of numpy arrays, as Jittor writes with a checksum behind it.
Pickles are read as data, see `pickle_data`.
"""

import hashlib
import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from streamfuse.errors import WeightsError
from streamfuse.nn.pickle_data import read_pickle
from streamfuse.nn.pickle_values import ArrayData, LazyTensor, ModuleState, Refused, Storage

KNOWN_FORMATS = (
    "safetensors, PyTorch (.pth: state dict or whole module, zip or legacy), or a pickle of numpy arrays"
)

_SAFETENSORS_HEADER = 8
"""Bytes before the JSON header, its length."""
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError),
    *(EOFError, KeyError, OverflowError, ValueError, struct.error),
)
"""What zipfile raises on damaged or hostile files."""
_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""What `torch.save` pickled first before version 1.6."""
_LEGACY_PROTOCOL = 1001
_JITTOR_TRAILER = b"HCAJSLHD"
"""Jittor appends the SHA-1 of the pickle (20 bytes) and this mark."""
_SHA1_BYTES = 20
_TAR_MAGIC = (257, b"ustar")

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "params_ema", "params")
"""Where training checkpoints keep the parameters, in order of preference."""
_PREFIXES = ("module.", "_orig_mod.")
"""Added to every name by DataParallel and by torch.compile."""

_MAX_DEPTH = 64
_MAX_MODULES = 100_000
"""Bounds of a module tree that loops back on itself or branches without end; real ones have far less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Parameters and buffers by name, in the types of the file, and which kind of file it was."""

    path: Path
    tensors: dict[str, Tensor]
    format: str

    def __repr__(self) -> str:
        return f"Checkpoint({self.path}, {self.format}, {len(self.tensors)} tensors)"


class _Content(NamedTuple):
    """A parsed file: `fetch` returns the bytes of a storage that a tensor of `value` lies in."""

    value: Any
    format: str
    fetch: Callable[[Storage], bytes]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the parameters in a file. Nothing in it is executed, and no package of its writer is needed.

    Raises:
        WeightsError: the file is missing, damaged, of no known format, or asks for anything but tensors,
            arrays and containers (the message names what).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    try:
        content = _parse(data)
        tensors = _strip_prefixes(_load_tensors(content))
    except Refused as error:
        raise WeightsError(
            f"{path}: refused, because the pickle holds {error}; only tensors, arrays and containers are "
            "read, and nothing was run"
        ) from error
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    return Checkpoint(path=path, tensors=tensors, format=content.format)


def _parse(data: bytes) -> _Content:
    if data.startswith(_ZIP_MAGIC):
        return _parse_zip(data)
    if data[_SAFETENSORS_HEADER : _SAFETENSORS_HEADER + 1] == b"{":
        return _parse_safetensors(data)
    start, magic = _TAR_MAGIC
    if data[start : start + len(magic)] == magic:
        raise WeightsError(
            "a tar archive of PyTorch before 0.1.10 is not read; save it again with a later one"
        )
    if data.endswith(_JITTOR_TRAILER):
        return _parse_jittor(data)
    if not data.startswith(pickle.PROTO) and not data.endswith(pickle.STOP):
        raise WeightsError(f"no checkpoint; known are {KNOWN_FORMATS}")
    stream = io.BytesIO(data)
    try:
        value, storages = read_pickle(stream)
    except Refused:
        raise
    except WeightsError as error:
        raise WeightsError(f"no checkpoint ({error}); known are {KNOWN_FORMATS}") from error
    if value == _LEGACY_MAGIC:
        return _parse_legacy(stream)
    if storages:
        raise WeightsError("a pickle whose tensors lie elsewhere; the whole file of torch.save is needed")
    return _Content(value, "pickle", _no_storage)


def _parse_safetensors(data: bytes) -> _Content:
    try:
        return _Content(load_safetensors(data), "safetensors", _no_storage)
    except SafetensorError as error:
        raise WeightsError(f"damaged safetensors file: {error}") from error


def _parse_jittor(data: bytes) -> _Content:
    end = len(data) - len(_JITTOR_TRAILER) - _SHA1_BYTES
    pickled, checksum = data[:end], data[end : end + _SHA1_BYTES]
    if hashlib.sha1(pickled, usedforsecurity=False).digest() != checksum:
        raise WeightsError("the Jittor checksum does not match, the file is damaged")
    return _Content(read_pickle(io.BytesIO(pickled)).value, "Jittor pickle", _no_storage)


def _no_storage(storage: Storage) -> bytes:
    raise WeightsError(f"the storage {storage.key} is not in the file")


def _parse_zip(data: bytes) -> _Content:
    """`torch.save` stores data.pkl and data/KEY for each storage, uncompressed, under one folder."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        members = _plain_members(archive, len(data))
        pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise WeightsError(f"a zip file with {len(pickles)} data.pkl is no checkpoint of torch.save")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in members:
            raise WeightsError("a TorchScript program; save the state dict of the module instead")
        if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != b"little":
            raise WeightsError("a checkpoint with big-endian numbers is not read")
        pickled = archive.read(pickles[0])
    except _ZIP_ERRORS as error:
        raise WeightsError(f"damaged zip file: {error}") from error

    def fetch(storage: Storage) -> bytes:
        name = f"{folder}data/{storage.key}"
        try:
            return archive.read(name)
        except _ZIP_ERRORS as error:
            raise WeightsError(f"the storage {name} is missing or damaged: {error}") from error

    return _Content(read_pickle(io.BytesIO(pickled)).value, "PyTorch zip", fetch)


def _plain_members(archive: zipfile.ZipFile, file_size: int) -> set[str]:
    infos = archive.infolist()
    names = {info.filename for info in infos}
    if len(names) != len(infos):
        raise WeightsError("a zip file with two members of one name")
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        raise WeightsError("a compressed zip file; torch.save does not compress")
    if sum(info.file_size for info in infos) > file_size:
        raise WeightsError("a zip file whose members claim more bytes than it has")
    return names


def _parse_legacy(stream: io.BytesIO) -> _Content:
    """Behind the magic number: protocol, system, the object, the storage keys, then the storages."""
    protocol, system = read_pickle(stream).value, read_pickle(stream).value
    if protocol != _LEGACY_PROTOCOL or type(system) is not dict or system.get("little_endian") is not True:
        raise WeightsError("a legacy checkpoint of unknown protocol or with big-endian numbers")
    value, storages = read_pickle(stream)
    keys = read_pickle(stream).value
    if type(keys) is not list or not all(type(key) is str and key in storages for key in keys):
        raise WeightsError("a legacy checkpoint whose storages do not match its tensors")
    found = {}
    for key in keys:
        storage = storages[key]
        header = stream.read(8)
        if len(header) != 8 or struct.unpack("<q", header)[0] != storage.numel:
            raise WeightsError(f"the legacy storage {key} is damaged")
        found[storage] = stream.read(storage.numel * storage.dtype.itemsize)

    def fetch(storage: Storage) -> bytes:
        return found[storage] if storage in found else _no_storage(storage)

    return _Content(value, "PyTorch legacy", fetch)


def _load_tensors(content: _Content) -> dict[str, Tensor]:
    storages: dict[Storage, Tensor] = {}

    def load(value: Any) -> Tensor:
        if type(value) is LazyTensor:
            if value.storage not in storages:
                storages[value.storage] = _typed(content.fetch(value.storage), value.storage)
            return torch.as_strided(storages[value.storage], value.shape, value.stride, value.offset)
        if type(value) is ArrayData:
            if value.array is None:
                raise WeightsError("an array without values, the file is damaged")
            return torch.from_numpy(value.array.astype(value.array.dtype.newbyteorder("=")))
        assert isinstance(value, Tensor)
        return value

    found = {name: load(value) for name, value in _named(_parameters_in(content.value))}
    if not found:
        raise WeightsError(f"{content.format} without any tensor")
    return found


def _typed(raw: bytes, storage: Storage) -> Tensor:
    if len(raw) != storage.numel * storage.dtype.itemsize:
        raise WeightsError(
            f"the storage {storage.key} has {len(raw)} bytes, not {storage.numel} {storage.dtype}"
        )
    # A copy, because tensors must be writable.
    return (
        torch.frombuffer(bytearray(raw), dtype=storage.dtype) if raw else torch.empty(0, dtype=storage.dtype)
    )


def _is_leaf(value: Any) -> bool:
    return isinstance(value, Tensor) or type(value) in (LazyTensor, ArrayData)


def _holds_parameters(value: Any) -> bool:
    if type(value) is dict:
        return any(_is_leaf(entry) for entry in value.values())
    return type(value) is ModuleState


def _parameters_in(value: Any) -> Any:
    """The module or state dict that the file is about, wherever a training script put it."""
    if _holds_parameters(value):
        return value
    inner = (
        {name: entry for name, entry in value.items() if _holds_parameters(entry)}
        if type(value) is dict
        else {}
    )
    for name in _WRAPPERS:
        if name in inner:
            return inner[name]
    if len(inner) != 1:
        raise WeightsError(f"no state dict or module in it, or several: {sorted(map(str, inner))}")
    return next(iter(inner.values()))


def _named(value: Any) -> Iterator[tuple[str, Any]]:
    """Leaves by dotted name: the entries of a state dict, or what walking a module finds."""
    if type(value) is dict:
        yield from ((str(name), leaf) for name, leaf in value.items() if _is_leaf(leaf))
        return
    pending: list[tuple[tuple[str, ...], ModuleState]] = [((), value)]
    count = 0
    while pending:
        path, module = pending.pop()
        count += 1
        if len(path) > _MAX_DEPTH or count > _MAX_MODULES:
            raise WeightsError("the module tree has no end, the file is damaged")
        leaves = {**(module.parameters or {}), **(module.buffers or {})}
        for name, leaf in leaves.items():
            if _is_leaf(leaf) and name not in module.non_persistent:
                yield ".".join((*path, str(name))), leaf
        for name, child in (module.modules or {}).items():
            if type(child) is ModuleState:
                pending.append(((*path, str(name)), child))


def _strip_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        while all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
