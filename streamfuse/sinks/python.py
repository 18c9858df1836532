"""Any callable as a sink."""

from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, WithJsonSchema

from streamfuse.clock import Clock
from streamfuse.errors import SinkError, StreamfuseError
from streamfuse.frame import FusedFrame
from streamfuse.registry import Options


def _callable(value: Any) -> Callable[[FusedFrame], object]:
    """A callable as it is, or the one that `module:name` means."""
    if isinstance(value, str):
        module, _, name = value.partition(":")
        if not (module and name):
            raise ValueError(f"{value!r} must read 'module:function'")
        try:
            value = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{value} cannot be imported: {error}") from error
    if not callable(value):
        raise ValueError(f"{value!r} cannot be called")
    return value  # type: ignore[no-any-return]


class PythonSinkOptions(Options):
    """Options of the `python` sink."""

    call: Annotated[
        Any,
        BeforeValidator(_callable),
        WithJsonSchema({"type": "string", "pattern": "^[^:]+:[^:]+$"}),
    ] = Field(description="takes each FusedFrame: a callable, or 'module:function' in a file")


class PythonSink:
    """Calls a function with each frame. An object with a `close` method has it called at the end."""

    Options: ClassVar[type[PythonSinkOptions]] = PythonSinkOptions

    def __init__(self, options: PythonSinkOptions, *, clock: Clock) -> None:
        self._call: Callable[[FusedFrame], object] = options.call
        self._name = getattr(self._call, "__qualname__", type(self._call).__name__)
        self._closed = False

    def open(self) -> None:
        """Nothing to acquire."""

    def write(self, frame: FusedFrame) -> None:
        """Hand the frame over. Raises SinkError from whatever the callable raised."""
        self._guard(lambda: self._call(frame), f"frame {frame.seq}")

    def close(self) -> None:
        """Tell the callable, when it can be told."""
        close = getattr(self._call, "close", None)
        if callable(close) and not self._closed:
            self._closed = True
            self._guard(close, "close")

    def _guard(self, action: Callable[[], object], what: str) -> None:
        try:
            action()
        except StreamfuseError:
            raise
        except Exception as error:
            raise SinkError(f"{self._name} failed at {what}: {type(error).__name__}: {error}") from error
