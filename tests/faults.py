"""Cameras and sinks that go wrong in the ways real ones do, at a frame of the test's choosing."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from streamfuse.capture.options import SourceOptions
from streamfuse.clock import NS_PER_S, Clock
from streamfuse.errors import SinkError, SourceError, SourceInterrupted
from streamfuse.frame import DropCause, FusedFrame, Image8, RawFrame, SourceInfo
from streamfuse.registry import Options

WIDTH, HEIGHT = 48, 32


def picture(index: int, *, width: int = WIDTH, height: int = HEIGHT) -> Image8:
    """Noise, different for each index: uint8 (H, W, 3)."""
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)


@dataclass
class Camera:
    """The device behind the sources made from one set of options: outlives each of them."""

    opened: int = 0
    closed: int = 0
    release: threading.Event = field(default_factory=threading.Event)
    hanging: threading.Event = field(default_factory=threading.Event)


class FaultOptions(SourceOptions):
    camera: Any = Field(default_factory=Camera)
    frames: int = 1000
    fps: int = 100
    live: bool = True
    at: int = Field(10, description="first frame of a connection that goes wrong")


class SoundSource:
    """`frames` pictures at `fps` by the clock; nothing goes wrong here."""

    Options: ClassVar[type[FaultOptions]] = FaultOptions

    def __init__(self, options: FaultOptions, *, clock: Clock) -> None:
        self.live = options.live
        self.drops: Counter[DropCause] = Counter()
        self.options: Any = options
        self._camera: Camera = options.camera
        self._clock = clock
        self._closing = threading.Event()
        self._index = 0
        self._opened_ns = 0

    def open(self) -> SourceInfo:
        self._camera.opened += 1
        self._closing.clear()
        self._index = 0
        self._opened_ns = self._clock.now_ns()
        return SourceInfo(width=WIDTH, height=HEIGHT, fps=self.options.fps)

    def read(self) -> RawFrame | None:
        index = self._index
        self._index += 1
        if index >= self.options.frames:
            return None
        # By its own clock, as a camera does: on a busy machine a period each would fall behind for good.
        due_ns = self._opened_ns + (index + 1) * NS_PER_S // self.options.fps
        if self.live and self._clock.sleep_ns(max(0, due_ns - self._clock.now_ns()), self._closing):
            raise SourceInterrupted("closed")
        return self.make(index)

    def make(self, index: int) -> RawFrame:
        return self.frame(index)

    def frame(self, index: int, *, image: Image8 | None = None, pts: int | None = None) -> RawFrame:
        return RawFrame(
            image=picture(index) if image is None else image,
            t_arrival=self._clock.now_ns(),
            pts=index if pts is None else pts,
            time_base=Fraction(1, self.options.fps),
        )

    def close(self) -> None:
        self._camera.closed += 1
        self._closing.set()


class StallOptions(FaultOptions):
    deaf: bool = Field(False, description="a hanging read is freed by camera.release only, not by close")
    once: bool = Field(True, description="only the first connection stalls")


class StallingSource(SoundSource):
    """The read of frame `at` hangs."""

    Options: ClassVar[type[FaultOptions]] = StallOptions

    def make(self, index: int) -> RawFrame:
        if index == self.options.at and (self._camera.opened == 1 or not self.options.once):
            self._camera.hanging.set()
            if self.options.deaf:
                self._camera.release.wait()
            else:
                self._closing.wait()
                raise SourceInterrupted("closed while waiting for data")
        return self.frame(index)


class BelatedSource(SoundSource):
    """The read of frame `at` hangs until the connection is closed, and then gives the frame; after that a
    closed connection has no more."""

    def read(self) -> RawFrame | None:
        return None if self._closing.is_set() else super().read()

    def make(self, index: int) -> RawFrame:
        if index == self.options.at and self._camera.opened == 1:
            self._camera.hanging.set()
            self._closing.wait()
        return self.frame(index)


class DisconnectOptions(FaultOptions):
    times: int = Field(1, description="how many connections break")
    refusals: int = Field(0, description="attempts to open refused after the first one")


class DisconnectingSource(SoundSource):
    """The connection breaks before frame `at`; the server then refuses some attempts."""

    Options: ClassVar[type[FaultOptions]] = DisconnectOptions

    def open(self) -> SourceInfo:
        info = super().open()
        if 1 < self._camera.opened <= 1 + self.options.refusals:
            raise SourceError("not there (404)")
        return info

    def make(self, index: int) -> RawFrame:
        connection = max(1, self._camera.opened - self.options.refusals)
        if index == self.options.at and connection <= self.options.times:
            raise SourceInterrupted("connection lost")
        return self.frame(index)


class BrokenSource(SoundSource):
    """Raises what no source should, at frame `at`."""

    def make(self, index: int) -> RawFrame:
        if index == self.options.at:
            raise RuntimeError("driver bug")
        return self.frame(index)


class PtsJumpOptions(FaultOptions):
    jump: int = Field(-100_000, description="frames by which the stamps jump")


class PtsJumpSource(SoundSource):
    """The device's clock jumps at frame `at`."""

    Options: ClassVar[type[FaultOptions]] = PtsJumpOptions

    def make(self, index: int) -> RawFrame:
        jump = self.options.jump if index >= self.options.at else 0
        return self.frame(index, pts=index + jump)


class RepeatOptions(FaultOptions):
    copies: int = 3


class RepeatingSource(SoundSource):
    """Every picture is sent several times, as small thermal cores do."""

    Options: ClassVar[type[FaultOptions]] = RepeatOptions

    def make(self, index: int) -> RawFrame:
        return self.frame(index, image=picture(index // self.options.copies))


class ResolutionChangeSource(SoundSource):
    """Pictures are twice as large from frame `at` on."""

    def make(self, index: int) -> RawFrame:
        factor = 2 if index >= self.options.at else 1
        return self.frame(index, image=picture(index, width=factor * WIDTH, height=factor * HEIGHT))


class CorruptSource(SoundSource):
    """Every `at`-th picture is one the decoder had to patch up."""

    def make(self, index: int) -> RawFrame:
        sound = self.frame(index)
        return RawFrame(
            image=sound.image,
            t_arrival=sound.t_arrival,
            pts=sound.pts,
            time_base=sound.time_base,
            corrupt=index % self.options.at == 0,
        )


class FaultySinkOptions(Options):
    at: int = 3
    delay_s: float = 0.0


class SlowSink:
    """Takes `delay_s` for each frame and keeps the numbers of those it got."""

    Options: ClassVar[type[FaultySinkOptions]] = FaultySinkOptions

    def __init__(self, options: FaultySinkOptions, *, clock: Clock) -> None:
        self.written: list[int] = []
        self.closed = 0
        self._options = options
        self._clock = clock

    def open(self) -> None:
        pass

    def write(self, frame: FusedFrame) -> None:
        self._clock.sleep_ns(round(self._options.delay_s * NS_PER_S))
        self.written.append(frame.seq)

    def close(self) -> None:
        self.closed += 1


class FailingSink(SlowSink):
    """Breaks at its frame number `at`, with an exception no sink should raise."""

    def write(self, frame: FusedFrame) -> None:
        if len(self.written) == self._options.at:
            raise RuntimeError("encoder broke")
        super().write(frame)


class NoSpaceSink(SlowSink):
    """Its disk is full from frame number `at` on: the system's own error, from /dev/full."""

    def write(self, frame: FusedFrame) -> None:
        if len(self.written) >= self._options.at:
            try:
                with open("/dev/full", "wb", buffering=0) as disk:
                    disk.write(frame.image.tobytes())
            except OSError as error:
                raise SinkError(f"/dev/full: {error.strerror}") from error
        super().write(frame)
