"""What a checkpoint's pickle may hold, and how the few calls it is made of are answered.

Every function here takes arguments chosen by whoever wrote the file, checks them and builds plain data.
Raised inside: `Refused` for what is not wanted, ValueError and TypeError for what is damaged.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from streamfuse.errors import WeightsError


class Refused(WeightsError):
    """The pickle asks for something that is no tensor, array or container; the message names it."""


@dataclass(frozen=True, slots=True, order=True)
class Global:
    """A name in the pickle, `module.name`, never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Storage(NamedTuple):
    """Numbers kept outside the pickle: `numel` of `dtype` under `key`."""

    key: str
    dtype: torch.dtype
    numel: int


class LazyTensor(NamedTuple):
    """A tensor whose storage is not read yet; it lies wholly within it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(slots=True, eq=False)
class ModuleState:
    """What is left of an object of a class we neither have nor need: the state of an `nn.Module`."""

    cls: Global
    parameters: dict[str, Any] | None = None
    buffers: dict[str, Any] | None = None
    modules: dict[str, Any] | None = None
    non_persistent: frozenset[str] = frozenset()

    def fill(self, state: Any) -> None:
        parts = [state.get(name) for name in _MODULE_PARTS] if type(state) is dict else []
        if len(parts) != len(_MODULE_PARTS) or any(type(part) is not dict for part in parts):
            raise Refused(f"an object of {self.cls}, which is no nn.Module")
        self.parameters, self.buffers, self.modules = parts
        self.non_persistent = frozenset(state.get("_non_persistent_buffers_set") or ())


@dataclass(slots=True, eq=False)
class DtypeData:
    """A numpy dtype of plain numbers; the byte order follows in its state."""

    code: str
    order: str = "|"

    def fill(self, state: Any) -> None:
        _, order, subtype, names, fields, *_ = state
        if order not in ("<", ">", "|", "=") or (subtype, names, fields) != (None, None, None):
            raise Refused("a numpy dtype with fields")
        self.order = order

    def resolve(self) -> "np.dtype[Any]":
        return np.dtype(self.order + self.code)


@dataclass(slots=True, eq=False)
class ArrayData:
    """A numpy array of plain numbers; the values follow in its state."""

    array: npt.NDArray[Any] | None = None

    def fill(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        self.array = _filled_array(raw, dtype, shape, fortran=bool(fortran))


_MODULE_PARTS = ("_parameters", "_buffers", "_modules")

_KEY_TYPES = (str, int, float, bool, bytes, type(None))
"""Keys of dicts and members of sets. Hashing a deeply nested tuple would overflow the C stack."""

_NUMBER_CODE = re.compile(r"b1|[iu][1248]|f[248]")
"""numpy's codes of plain numbers. No objects ('O'), which are pickles again, no records, no strings."""

_MAX_DIMENSIONS = 16

STORAGE_DTYPES = {
    Global("torch", "DoubleStorage"): torch.float64,
    Global("torch", "FloatStorage"): torch.float32,
    Global("torch", "HalfStorage"): torch.float16,
    Global("torch", "BFloat16Storage"): torch.bfloat16,
    Global("torch", "LongStorage"): torch.int64,
    Global("torch", "IntStorage"): torch.int32,
    Global("torch", "ShortStorage"): torch.int16,
    Global("torch", "CharStorage"): torch.int8,
    Global("torch", "ByteStorage"): torch.uint8,
    Global("torch", "BoolStorage"): torch.bool,
}

NDARRAY = Global("numpy", "ndarray")


def describe(value: Any) -> str:
    """For messages. Never the repr of a container, whose size the writer of the file chooses."""
    if type(value) is Global:
        return str(value)
    if type(value) in (str, bytes):
        return repr(value[:60])
    return f"a {type(value).__name__}"


def key(value: Any) -> Any:
    if type(value) not in _KEY_TYPES:
        raise Refused(f"{describe(value)} as key of a dict or member of a set")
    return value


def new_dict(*args: Any) -> dict[Any, Any]:
    return {key(k): value for k, value in (args[0] if args else ())}


def new_set(*args: Any) -> set[Any]:
    return {key(value) for value in (args[0] if args else ())}


def persistent(pid: Any) -> Storage | Global:
    """The object behind a persistent id: a storage, or a class that the legacy format wraps."""
    if type(pid) is tuple and len(pid) == 4 and pid[0] == "module" and type(pid[1]) is Global:
        return pid[1]
    if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
        raise Refused(f"the persistent object {describe(pid)}")
    _, kind, storage_key, _, numel, *view = pid
    if view not in ([], [None]):
        raise Refused("a view of a storage (PyTorch before 0.4)")
    if type(kind) is not Global or kind not in STORAGE_DTYPES:
        raise Refused(f"a storage of type {describe(kind)}")
    if type(storage_key) is not str or not (storage_key.isascii() and storage_key.isdecimal()):
        raise Refused(f"a storage under the key {describe(storage_key)}")
    return Storage(storage_key, STORAGE_DTYPES[kind], _size(numel))


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{describe(value)} as a size, offset or stride")
    return value


def _sizes(values: Any) -> tuple[int, ...]:
    if type(values) not in (tuple, list) or len(values) > _MAX_DIMENSIONS:
        raise ValueError(f"{describe(values)} as a shape")
    return tuple(_size(value) for value in values)


def _tensor(held_in: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> LazyTensor:
    if type(held_in) is not Storage:
        raise ValueError("a tensor without storage")
    shape, stride, offset = _sizes(shape), _sizes(stride), _size(offset)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    # More values than the storage holds can only come from strides of 0: a small file, a huge tensor.
    if prod(shape) > held_in.numel or (prod(shape) and last >= held_in.numel):
        raise ValueError(f"a tensor reaches beyond its storage of {held_in.numel} values")
    return LazyTensor(held_in, offset, shape, stride)


def _parameter(data: Any, *_: Any) -> LazyTensor:
    if type(data) is not LazyTensor:
        raise ValueError("a parameter without tensor")
    return data


def _filled_array(raw: Any, dtype: Any, shape: Any, *, fortran: bool) -> npt.NDArray[Any]:
    if type(dtype) is not DtypeData:
        raise ValueError("an array without dtype")
    if type(raw) is str:  # Python 2 wrote bytes as text
        raw = raw.encode("latin-1")
    if type(raw) not in (bytes, bytearray):
        raise Refused(f"an array filled from {describe(raw)}")
    return np.frombuffer(raw, dtype.resolve()).reshape(_sizes(shape), order="F" if fortran else "C")


def _array(cls: Any, *_: Any) -> ArrayData:
    if cls != NDARRAY:
        raise Refused(f"an array of class {describe(cls)}")
    return ArrayData()


def _array_from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> ArrayData:
    return ArrayData(_filled_array(raw, dtype, shape, fortran=order == "F"))


def _dtype(code: Any, *_: Any) -> DtypeData:
    if type(code) is not str or not _NUMBER_CODE.fullmatch(code):
        raise Refused(f"a numpy dtype {describe(code)}")
    return DtypeData(code)


def _scalar(dtype: Any, raw: Any) -> Any:
    return _filled_array(raw, dtype, (), fortran=False).item()


def _encode(text: Any, encoding: Any) -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise Refused(f"_codecs.encode to {describe(encoding)}")
    return text.encode("latin-1")


def _empty_bytes() -> bytes:
    return b""


def _device(*_: Any) -> None:
    """Where a tensor once lay says nothing about what it holds."""


REBUILDERS: dict[Global, Callable[..., Any]] = {
    Global("collections", "OrderedDict"): new_dict,
    Global("_codecs", "encode"): _encode,
    Global("torch", "Size"): _sizes,
    Global("torch", "device"): _device,
    Global("torch._utils", "_rebuild_tensor"): _tensor,
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Global("torch._utils", "_rebuild_parameter"): _parameter,
    Global("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    Global("numpy", "dtype"): _dtype,
}
"""The only names that may be called, and what is called in their place."""

for _builtins in ("builtins", "__builtin__"):
    REBUILDERS[Global(_builtins, "set")] = new_set
    REBUILDERS[Global(_builtins, "bytes")] = _empty_bytes
for _core in ("numpy.core", "numpy._core"):
    REBUILDERS[Global(f"{_core}.multiarray", "_reconstruct")] = _array
    REBUILDERS[Global(f"{_core}.multiarray", "scalar")] = _scalar
    REBUILDERS[Global(f"{_core}.numeric", "_frombuffer")] = _array_from_buffer

KNOWN_NAMES = REBUILDERS.keys() | STORAGE_DTYPES.keys() | {NDARRAY}
"""All names a pickle may hold beside the classes of its modules."""
