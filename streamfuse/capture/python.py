"""Pictures from Python: any iterable, or a callable that is asked for one picture after the other."""

from collections.abc import Iterable, Iterator, Sized
from decimal import Decimal
from fractions import Fraction
from importlib import import_module
from inspect import isgeneratorfunction
from itertools import chain, repeat
from numbers import Rational
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, field_serializer

from streamfuse.capture._av import SensorUnit
from streamfuse.capture.conditioning import LAYOUTS, wrong_layout
from streamfuse.capture.options import SourceOptions
from streamfuse.clock import NS_PER_S, Clock
from streamfuse.errors import SourceError, StreamfuseError
from streamfuse.frame import Image8, Image16, RawFrame, SourceInfo

DEFAULT_FPS = 25.0
"""For pictures that come without time stamps: pairing needs a distance in time."""
MAX_RATE_DENOMINATOR = 1001
"""A rate is given as a float and means the simple fraction nearest to it."""
NS_TIME_BASE = Fraction(1, NS_PER_S)


class PythonOptions(SourceOptions):
    """Pictures made by Python code."""

    frames: Any = Field(
        description="an iterable, a generator function, or a callable that returns the next picture and None "
        "at the end; or 'package.module:name' of one. A picture is an array, (seconds, array) or a RawFrame",
        repr=False,
    )
    live: bool = Field(False, description="pictures come in real time and cannot wait")
    fps: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None,
        description=f"rate of pictures without a time; null: {DEFAULT_FPS:g}, live: their arrival",
    )
    unit: SensorUnit = Field("counts", description="what the values of uint16 arrays mean")

    @field_serializer("frames")
    def _name(self, frames: Any) -> str:
        return frames if isinstance(frames, str) else repr(frames)


class PythonSource:
    """Wraps Python code as a source.

    Arrays: uint8 (H, W) or (H, W, 3) RGB, or uint16 (H, W); other layouts are refused, naming the picture.
    They are copied, so a camera may use its buffer again; what a RawFrame holds is not.
    Errors of the wrapped code end the stream as SourceError; it may raise SourceInterrupted itself to be
    opened again. `close` cannot interrupt code that blocks. A live iterator that is opened again goes on.
    """

    Options: ClassVar[type[PythonOptions]] = PythonOptions

    def __init__(self, options: PythonOptions, *, clock: Clock) -> None:
        self.live = options.live
        self._options = options
        self._clock = clock
        frames = options.frames
        self._name = getattr(frames, "__qualname__", type(frames).__name__)
        if isinstance(frames, str):
            self._name = repr(frames)
        self._read_before: Iterator[Any] | None = None
        self._pictures: Iterator[RawFrame] = iter(())

    def open(self) -> SourceInfo:
        """Take the first picture.

        Raises:
            SourceError: the code cannot be found, gives no picture, or is an iterator that was read before
                and is not live.
        """
        items = self._items()
        first = next(items, None)
        if first is None:
            raise SourceError(f"python source {self._name}: gave not one picture")
        if isinstance(first, np.ndarray) and not self.live:
            fps = self._options.fps or DEFAULT_FPS
        else:
            fps = self._options.fps or 0.0
        rate = Fraction(fps).limit_denominator(MAX_RATE_DENOMINATOR)
        pictures = (self._picture(i, item, rate) for i, item in enumerate(chain([first], items)))
        picture = next(pictures)
        self._pictures = chain([picture], pictures)
        frames = self._options.frames
        return SourceInfo(
            width=picture.image.shape[1],
            height=picture.image.shape[0],
            fps=fps,
            frame_count=len(frames) if isinstance(frames, Sized) and not isinstance(frames, str) else None,
            time_base=picture.time_base,
        )

    def read(self) -> RawFrame | None:
        return next(self._pictures, None)

    def close(self) -> None:
        self._pictures = iter(())

    def _items(self) -> Iterator[Any]:
        """What the code gives, with its exceptions as SourceErrors."""
        try:
            items = self._begin(_resolve(self._options.frames))
            while (item := next(items, None)) is not None:
                yield item
        except StreamfuseError:
            raise
        except Exception as error:  # foreign code may raise anything
            raise SourceError(f"python source {self._name}: {type(error).__name__}: {error}") from error

    def _begin(self, frames: Any) -> Iterator[Any]:
        if isgeneratorfunction(frames):
            return iter(frames())
        if isinstance(frames, Iterable):
            items = iter(frames)
            if items is self._read_before and not self.live:
                raise SourceError(f"python source {self._name}: an iterator can be read only once")
            self._read_before = items
            return items
        if callable(frames):
            return (frames() for _ in repeat(None))
        raise SourceError(f"python source {self._name}: neither an iterable nor callable")

    def _picture(self, index: int, item: Any, rate: Fraction) -> RawFrame:
        if isinstance(item, RawFrame):
            self._check(index, item.image)
            return item
        t_arrival = self._clock.now_ns()
        pts: int | None = None
        time_base: Fraction | None = None
        if isinstance(item, tuple) and len(item) == 2:
            time_s, item = item
            pts, time_base = self._nanoseconds(index, time_s), NS_TIME_BASE
        elif rate:
            pts, time_base = index, 1 / rate
        image = self._checked(index, item)
        return RawFrame(
            image=image,
            t_arrival=t_arrival,
            pts=pts,
            time_base=time_base,
            unit="agc8" if image.dtype == np.uint8 else self._options.unit,
        )

    def _nanoseconds(self, index: int, time_s: Any) -> int:
        if isinstance(time_s, bool | np.bool_):
            raise SourceError(
                f"python source {self._name}: picture {index} comes with {time_s!r}; must be seconds. Of "
                "what cv2.VideoCapture.read returns, give the picture alone, as RGB, and None at the end"
            )
        try:
            # Exact where it can be; NumPy's floats are no Fractions.
            exact = isinstance(time_s, Rational | Decimal)
            return round(Fraction(time_s if exact else float(time_s)) * NS_PER_S)
        except (TypeError, ValueError, OverflowError) as error:
            raise SourceError(
                f"python source {self._name}: picture {index} is dated {time_s!r:.40}; must be seconds"
            ) from error

    def _checked(self, index: int, item: Any) -> Image8 | Image16:
        if isinstance(item, np.ndarray) and item.ndim == 3 and item.shape[2] == 1:
            item = item[:, :, 0]
        self._check(index, item)
        return np.array(item, order="C")

    def _check(self, index: int, picture: Any) -> None:
        if wrong := wrong_layout(picture):
            raise SourceError(f"python source {self._name}: picture {index} is {wrong}; must be {LAYOUTS}")


def _resolve(frames: Any) -> Any:
    """The object itself, or what 'package.module:name' names."""
    if not isinstance(frames, str):
        return frames
    module, colon, name = frames.partition(":")
    if not colon:
        raise SourceError(f"python source {frames!r}: must read 'package.module:name'")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SourceError(f"python source {frames!r}: {error}") from error
