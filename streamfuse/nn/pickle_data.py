"""Reads a pickle as data. Nothing it names is imported, nothing in it is called.

A pickle is a program for a small stack machine, and the standard library runs it: whatever it names is
imported and called. Filtering names in a subclass of `pickle.Unpickler` still leaves `__setstate__`,
attribute writes and calls of whatever lies on the stack. Here the machine is our own and has no
instruction that imports, calls or sets an attribute. Names stay names; the few calls a checkpoint is
made of are answered by `pickle_values`, which checks every argument; everything else is refused by
naming it. `pickletools` of the standard library splits the bytes into instructions and executes nothing.
"""

import pickletools
import re
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

from streamfuse.errors import WeightsError
from streamfuse.nn.pickle_values import (
    KNOWN_NAMES,
    REBUILDERS,
    ArrayData,
    DtypeData,
    Global,
    ModuleState,
    Refused,
    Storage,
    describe,
    key,
    new_set,
    persistent,
)


class Unpickled(NamedTuple):
    """What a pickle holds.

    value: None, numbers, strings, bytes, dict, list, tuple, set, `LazyTensor`, `ArrayData`, `ModuleState`,
    nested in any way. storages: those its tensors lie in, by key.
    """

    value: Any
    storages: dict[str, Storage]


def read_pickle(stream: BinaryIO) -> Unpickled:
    """Read one pickle and leave `stream` behind it.

    Raises:
        Refused: it asks for anything else; the message names it. Nothing has been run.
        WeightsError: it is damaged, or no pickle.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.step(opcode.name, argument)
        return machine.result()
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error) as error:
        raise WeightsError(f"damaged pickle: {error}") from error


_IDENTIFIER = re.compile(r"[\w.<>]+")

_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_TEXTS = {
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
}
_PUSH_ARGUMENT = _NUMBERS | _TEXTS | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_PUSH_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NO_EFFECT = frozenset({"PROTO", "FRAME", "STOP"})


class _Machine:
    """The stack machine; an instruction it has no method for is refused."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._names: set[Global] = set()
        self._modules: list[ModuleState] = []
        self._storages: dict[str, Storage] = {}

    def step(self, op: str, argument: Any) -> None:
        if op in _PUSH_ARGUMENT:
            self._stack.append(argument)
        elif op in _PUSH_NEW:
            self._stack.append(_PUSH_NEW[op]())
        elif op in _SHORT_TUPLES:
            self._stack.append(tuple(self._take(_SHORT_TUPLES[op])))
        elif op in _HANDLERS:
            _HANDLERS[op](self, argument)
        elif op not in _NO_EFFECT:
            raise Refused(f"the pickle instruction {op} ({describe(argument)})")

    def result(self) -> Unpickled:
        unfilled = [module.cls for module in self._modules if module.modules is None]
        unused = self._names - KNOWN_NAMES - {module.cls for module in self._modules}
        if unfilled or unused:
            raise Refused(", ".join(sorted(str(name) for name in {*unfilled, *unused})))
        (value,) = self._stack
        return Unpickled(value, self._storages)

    def _take(self, count: int) -> list[Any]:
        start = len(self._stack) - count
        if start < (self._marks[-1] if self._marks else 0):
            raise IndexError("stack underflow")
        return self._take_from(start)

    def _take_to_mark(self) -> list[Any]:
        return self._take_from(self._marks.pop())

    def _take_from(self, start: int) -> list[Any]:
        taken = self._stack[start:]
        del self._stack[start:]
        return taken

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _pop(self, _: Any) -> None:
        self._take(1)

    def _pop_mark(self, _: Any) -> None:
        self._take_to_mark()

    def _dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._take_to_mark()))

    def _list(self, _: Any) -> None:
        self._stack.append(self._take_to_mark())

    def _dict(self, _: Any) -> None:
        self._stack.append(_pairs(self._take_to_mark()))

    def _frozenset(self, _: Any) -> None:
        self._stack.append(new_set(self._take_to_mark()))

    def _append(self, _: Any) -> None:
        values = self._take(1)
        self._top(list).extend(values)

    def _appends(self, _: Any) -> None:
        values = self._take_to_mark()
        self._top(list).extend(values)

    def _setitem(self, _: Any) -> None:
        items = self._take(2)
        self._top(dict).update(_pairs(items))

    def _setitems(self, _: Any) -> None:
        items = self._take_to_mark()
        self._top(dict).update(_pairs(items))

    def _additems(self, _: Any) -> None:
        values = self._take_to_mark()
        self._top(set).update(new_set(values))

    def _top(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise Refused(f"filling {describe(self._stack[-1])} as if it were a {kind.__name__}")
        return self._stack[-1]

    def _global(self, argument: str) -> None:
        self._name(*argument.split(" ", 1))

    def _stack_global(self, _: Any) -> None:
        self._name(*self._take(2))

    def _name(self, module: Any, name: Any) -> None:
        if not all(type(part) is str and _IDENTIFIER.fullmatch(part) for part in (module, name)):
            raise Refused(f"a name made of {describe(module)} and {describe(name)}")
        named = Global(module, name)
        self._names.add(named)
        self._stack.append(named)

    def _reduce(self, _: Any) -> None:
        function, args = self._take(2)
        if type(function) is not Global or function not in REBUILDERS or type(args) is not tuple:
            raise Refused(f"a call of {describe(function)}")
        self._stack.append(REBUILDERS[function](*args))

    def _newobj(self, _: Any) -> None:
        cls, args = self._take(2)
        if type(cls) is not Global or cls in KNOWN_NAMES or args != ():
            raise Refused(f"an object of {describe(cls)} made from arguments")
        module = ModuleState(cls)
        self._modules.append(module)
        self._stack.append(module)

    def _build(self, _: Any) -> None:
        (state,) = self._take(1)
        target = self._stack[-1]
        if type(target) in (ModuleState, DtypeData, ArrayData):
            target.fill(state)
        elif type(target) is not dict or type(state) is not dict:
            # The OrderedDict of a state dict carries format versions as an attribute, of no use here.
            raise Refused(f"setting the state of {describe(target)}")

    def _persistent(self, _: Any) -> None:
        (pid,) = self._take(1)
        found = persistent(pid)
        if type(found) is Storage and self._storages.setdefault(found.key, found) != found:
            raise ValueError(f"two different storages under the key {found.key}")
        self._stack.append(found)


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return {key(k): value for k, value in zip(items[::2], items[1::2], strict=True)}


_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    "POP": _Machine._pop,
    "POP_MARK": _Machine._pop_mark,
    "DUP": _Machine._dup,
    "PUT": _Machine._put,
    "BINPUT": _Machine._put,
    "LONG_BINPUT": _Machine._put,
    "MEMOIZE": _Machine._memoize,
    "GET": _Machine._get,
    "BINGET": _Machine._get,
    "LONG_BINGET": _Machine._get,
    "TUPLE": _Machine._tuple,
    "LIST": _Machine._list,
    "DICT": _Machine._dict,
    "FROZENSET": _Machine._frozenset,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._setitem,
    "SETITEMS": _Machine._setitems,
    "ADDITEMS": _Machine._additems,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._newobj,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
}
