"""When each frame was truly taken, what its stamp says, and whether it got through.

Everything about frame number n follows from the options and n alone, so a frame that turns up at the end
of any chain, its number burnt in, can be judged without a log.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import count

from streamfuse.frame import Stream
from streamfuse.synth.noise import generator
from streamfuse.synth.options import TimingOptions

TIME_BASE = Fraction(1, 90_000)
"""Of the stamps: the tick of RTP and MPEG."""
MAX_JITTER_OF_PERIOD = 0.45
"""Jitter is cut off here: frames never overtake each other."""


@dataclass(frozen=True, slots=True)
class Capture:
    """One frame of a stream.

    number: of the picture, from 0; a repeated picture keeps its number (it is what is burnt in).
    delivery: of the frame on the wire, from 0. t_true: when the picture was taken, seconds on the world's
    clock. t_sent: when the camera delivered it: `t_true`, later for a repeat. pts: the device's stamp of
    the delivery in `TIME_BASE`; may be negative. lost: it never arrived. repeat: the picture was
    delivered before.
    """

    number: int
    delivery: int
    t_true: float
    t_sent: float
    pts: int
    lost: bool
    repeat: bool


class Schedule:
    """All captures of one stream."""

    def __init__(self, options: TimingOptions, stream: Stream) -> None:
        self._stream: Stream = stream
        self._options = options
        infrared = stream == "ir"
        self.fps = options.ir_fps if infrared else options.vis_fps
        """Pictures a second, repeats not counted."""
        self._repeats = options.ir_repeat if infrared else 1
        self._phase_s = options.ir_phase_ms / 1000 if infrared else 0.0
        self._drop = options.ir_drop if infrared else options.vis_drop
        self._rate = 1.0 + options.ir_drift_ppm * 1e-6 if infrared else 1.0
        self._offset_s = options.offset_ms / 1000 if infrared else 0.0

    @property
    def delivery_fps(self) -> float:
        """Frames a second on the wire."""
        return self.fps * self._repeats

    def capture(self, delivery: int) -> Capture:
        """Everything about a delivery. Raises ValueError on a negative number."""
        if delivery < 0:
            raise ValueError(f"deliveries are numbered from 0, got {delivery}")
        number, again = divmod(delivery, self._repeats)
        shown = self._shown(number)
        t_sent = self.t_true(number) + again / self.delivery_fps
        _, stamp, luck = self._dice(delivery)
        label = t_sent * self._rate - self._offset_s + stamp
        return Capture(
            number=shown,
            delivery=delivery,
            t_true=self.t_true(shown),
            t_sent=t_sent,
            pts=round(label / TIME_BASE),
            lost=luck < self._drop,
            repeat=again > 0 or shown != number,
        )

    def t_true(self, number: int) -> float:
        """When picture `number` was taken, seconds."""
        exposure, _, _ = self._dice(number * self._repeats)
        return self._grid(number) + max(exposure, -self._grid(number))

    def deliveries(self, duration_s: float) -> Iterator[Capture]:
        """Every delivery sent before `duration_s`, lost ones included."""
        for delivery in count():
            capture = self.capture(delivery)
            if capture.t_sent >= duration_s:
                return
            yield capture

    def _grid(self, number: int) -> float:
        return self._phase_s + number / self.fps

    def _shown(self, number: int) -> int:
        """The picture delivered in place of `number`: an earlier one during a shutter event."""
        every = self._options.ir_freeze_every_s
        if self._stream != "ir" or every is None:
            return number
        events, within = divmod(self._grid(number), every)
        if events < 1 or within >= self._options.ir_freeze_s:
            return number
        # The last picture on the grid before the event began.
        before = number
        while before > 0 and self._grid(before) >= events * every:
            before -= 1
        return before

    def _dice(self, delivery: int) -> tuple[float, float, float]:
        """(exposure jitter, stamp jitter, seconds; luck 0..1) of a delivery."""
        rng = generator(self._options.seed, self._stream, delivery)
        exposure, stamp = rng.standard_normal(2)
        luck = float(rng.random())
        limit_exposure = MAX_JITTER_OF_PERIOD / self.delivery_fps / 2
        return (
            _clipped(float(exposure) * self._options.exposure_jitter_ms / 1000, limit_exposure),
            _clipped(float(stamp) * self._options.stamp_jitter_ms / 1000, limit_exposure),
            luck,
        )


def _clipped(value: float, limit: float) -> float:
    return max(-limit, min(limit, value))


def schedule(options: TimingOptions, stream: Stream, duration_s: float) -> list[Capture]:
    """All deliveries of a stream up to a time, lost ones included."""
    return list(Schedule(options, stream).deliveries(duration_s))
