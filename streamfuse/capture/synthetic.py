"""A rendered camera as a source: the known truth behind every picture, offline or live.

Live, a picture is rendered ahead of time and handed over when it would have arrived: capture time plus
transport delay. All synthetic cameras on one clock look at one world, which begins when the first of them
is opened and goes on over reconnects.
"""

import threading
from collections import Counter
from typing import Annotated, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from pydantic import Field

from streamfuse.capture.options import SourceOptions
from streamfuse.clock import NS_PER_MS, NS_PER_S, Clock
from streamfuse.frame import DropCause, RawFrame, SourceInfo, Stream
from streamfuse.synth.film import Film
from streamfuse.synth.noise import generator
from streamfuse.synth.options import CodeOptions, RigOptions, SceneOptions, TimingOptions
from streamfuse.synth.schedule import TIME_BASE, Capture

BUFFERED = 2
"""Frames a camera keeps for a reader that is late; older ones are lost."""

_worlds: "WeakKeyDictionary[Clock, int]" = WeakKeyDictionary()
_worlds_lock = threading.Lock()


class SyntheticOptions(SourceOptions):
    """Options of the `synthetic` source; give both cameras the same scene, rig and timing."""

    stream: Stream = Field("vis", description="which of the two cameras")
    duration_s: Annotated[float, Field(gt=0)] | None = Field(10.0, description="null: for ever")
    start_s: Annotated[float, Field(ge=0)] = Field(
        0.0, description="time of the scene at which filming begins"
    )
    realtime: bool = Field(
        False, description="live: pictures come when they would, and are lost if not taken"
    )
    delay_ms: Annotated[float, Field(ge=0)] = Field(20.0, description="live: from exposure to arrival")
    delay_jitter_ms: Annotated[float, Field(ge=0)] = Field(
        0.0, description="live: sigma of what is added to the delay now and then; order is kept"
    )
    grey: bool = Field(False, description="infrared as an 8-bit view instead of 16-bit counts")
    scene: SceneOptions = SceneOptions()
    rig: RigOptions = RigOptions()
    timing: TimingOptions = TimingOptions()
    code: CodeOptions = CodeOptions()


class SyntheticSource:
    """Delivers the pictures of one rendered camera.

    The number burnt into a picture and `Schedule(options.timing, options.stream).capture` give its true
    capture time; `world_start_ns` puts that on the clock. `drops` counts pictures not taken in time.
    """

    Options: ClassVar[type[SyntheticOptions]] = SyntheticOptions

    def __init__(self, options: SyntheticOptions, *, clock: Clock) -> None:
        self.live = options.realtime
        self.drops: Counter[DropCause] = Counter()
        self._options = options
        self._clock = clock
        self._film: Film | None = None
        self._next = 0
        self._last_arrival = 0
        self._closed = threading.Event()

    def open(self) -> SourceInfo:
        """Paint the street, unless that was done before for the same options."""
        o = self._options
        if self._film is None:
            self._film = Film(
                o.stream, scene=o.scene, rig=o.rig, timing=o.timing, code=o.code, start_s=o.start_s
            )
        self._closed.clear()
        self._next = self._first_delivery(self._film) if self.live else 0
        schedule = self._film.schedule
        count = (
            None if o.duration_s is None else sum(1 for c in schedule.deliveries(o.duration_s) if not c.lost)
        )
        return SourceInfo(
            width=self._film.width,
            height=self._film.height,
            fps=schedule.delivery_fps,
            frame_count=None if self.live else count,
            time_base=TIME_BASE,
            pixel_format=self._pixel_format(),
            codec="rendered",
            detail=f"{o.scene.light} street, seed {o.scene.seed}",
        )

    def read(self) -> RawFrame | None:
        """The next picture that got through; None at the end, or when `close` was called."""
        film = self._film
        while film is not None and not self._closed.is_set():
            capture = film.schedule.capture(self._next)
            duration_s = self._options.duration_s
            if duration_s is not None and capture.t_sent >= duration_s:
                return None
            self._next += 1
            if capture.lost:
                continue
            if not self.live:
                return self._frame(film, capture)
            if self._too_late(film):
                self.drops[DropCause.OVERRUN] += 1
                continue
            return self._wait_for(film, capture)
        return None

    def close(self) -> None:
        self._closed.set()

    def _wait_for(self, film: Film, capture: Capture) -> RawFrame | None:
        """Render now, hand over on arrival."""
        frame = self._frame(film, capture)
        arrival = max(self._arrival_ns(capture), self._last_arrival)
        if self._clock.sleep_ns(arrival - self._clock.now_ns(), self._closed):
            return None
        self._last_arrival = arrival
        return RawFrame(
            image=frame.image,
            t_arrival=self._clock.now_ns(),
            pts=frame.pts,
            time_base=TIME_BASE,
            unit=frame.unit,
        )

    def _too_late(self, film: Film) -> bool:
        """Whether so many newer pictures have arrived that this one is gone from the camera's buffer."""
        newer = film.schedule.capture(self._next + BUFFERED - 1)
        return self._arrival_ns(newer) <= self._clock.now_ns()

    def _frame(self, film: Film, capture: Capture) -> RawFrame:
        image = film.grey(capture) if self._options.grey else film.picture(capture)
        return RawFrame(
            image=image,
            t_arrival=self._clock.now_ns(),
            pts=capture.pts,
            time_base=TIME_BASE,
            unit="counts" if image.dtype == np.uint16 else "agc8",
        )

    def _arrival_ns(self, capture: Capture) -> int:
        o = self._options
        extra_ms = 0.0
        if o.delay_jitter_ms > 0:
            rng = generator(o.timing.seed, "transport", o.stream, capture.delivery)
            extra_ms = abs(float(rng.standard_normal())) * o.delay_jitter_ms
        after_ns = round(capture.t_sent * NS_PER_S + (o.delay_ms + extra_ms) * NS_PER_MS)
        return world_start_ns(self._clock) + after_ns

    def _first_delivery(self, film: Film) -> int:
        """The first delivery that has not arrived yet."""
        elapsed_s = (self._clock.now_ns() - world_start_ns(self._clock)) / NS_PER_S
        delivery = max(0, int((elapsed_s - 1.0) * film.schedule.delivery_fps))
        while self._arrival_ns(film.schedule.capture(delivery)) < self._clock.now_ns():
            delivery += 1
        return delivery

    def _pixel_format(self) -> str:
        if self._options.stream == "vis":
            return "rgb24"
        return "gray" if self._options.grey else "gray16le"


def world_start_ns(clock: Clock) -> int:
    """When the world of the synthetic cameras on a clock began, nanoseconds on that clock."""
    with _worlds_lock:
        return _worlds.setdefault(clock, clock.now_ns())
