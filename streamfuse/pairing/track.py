"""One stream as the matcher sees it: a ring of waiting frames, and what their stamps teach."""

from collections import Counter, deque
from dataclasses import dataclass
from statistics import median_low

from streamfuse.frame import DropCause, Frame

# Long enough to ride over the 32/32/36 ms wobble of webcams and a shutter event, short enough to follow
# an exposure-driven change of rate within a few seconds.
INTERVALS_KEPT = 64
DELAYS_KEPT = 256

LEARN_FROM = 9
"""Stamps that make a usable period: a median of eight intervals shrugs off three bad ones."""


@dataclass(slots=True, eq=False)
class Entry:
    """A waiting frame; `t` is its capture time on the common (visible) time line."""

    frame: Frame
    t: int
    offset_ns: int
    used: bool = False
    late: bool = False


@dataclass(frozen=True, slots=True)
class _Stamp:
    t: int
    epoch: int
    uncertainty_ns: int


class Track:
    """Frames of one stream between `push` and their use or drop.

    Periods are learnt only from stamps handed over by `learn_until`, so that a decision about time t
    rests on stamps up to t and not on what happened to have been pushed already.

    Attributes:
        offset_ns: what is added to the capture times of frames pushed from now on.
    """

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        self.ended = False
        self.pushed = 0
        self.used = 0
        self.drops: Counter[DropCause] = Counter()
        self.newest_t: int | None = None
        self.newest_arrival: int | None = None
        self.previous: Frame | None = None
        self.offset_ns = 0
        self._epoch = 0
        self._unlearnt: deque[_Stamp] = deque()
        self._learnt: _Stamp | None = None
        self._learnt_count = 0
        self._intervals: deque[int] = deque(maxlen=INTERVALS_KEPT)
        self._delays: deque[int] = deque(maxlen=DELAYS_KEPT)
        self._sorted_delays: list[int] = []
        self._period_ns: int | None = None

    # -- the ring ------------------------------------------------------------------------------

    def push(self, frame: Frame) -> Entry | None:
        """Append a frame; None when its stamp does not follow the newest one (counted)."""
        self.pushed += 1
        t = frame.t_capture + self.offset_ns
        if self.newest_t is not None and t <= self.newest_t:
            self.drops[DropCause.LATE if frame.epoch == self._epoch else DropCause.EPOCH_RESET] += 1
            return None
        self.newest_t, self.newest_arrival, self._epoch = t, frame.t_arrival, frame.epoch
        self._unlearnt.append(_Stamp(t, frame.epoch, frame.stamp_uncertainty_ns))
        self._delays.append(frame.t_arrival - t)
        self._sorted_delays = []
        entry = Entry(frame, t, self.offset_ns)
        self.entries.append(entry)
        return entry

    def use(self, entry: Entry) -> None:
        """Count a frame as used; a second use of the same one is not counted again."""
        if not entry.used:
            entry.used = True
            self.used += 1

    def remove_first(self, cause: DropCause | None = None) -> None:
        """Take the oldest frame out of the ring; when it was never used, `cause` says why."""
        entry = self.entries.popleft()
        self.previous = entry.frame
        if not entry.used:
            assert cause is not None, "an unused frame leaves only with a cause"
            self.drops[cause] += 1

    @property
    def buffered(self) -> int:
        """Frames neither used nor dropped yet."""
        return sum(not entry.used for entry in self.entries)

    # -- what is learnt ------------------------------------------------------------------------

    @property
    def learning(self) -> bool:
        """Whether more frames could still be needed for a first estimate of the period."""
        return not self.ended and self._learnt_count + len(self._unlearnt) < LEARN_FROM

    def learn_until(self, t: int) -> None:
        """Learn from all stamps up to t, and from the first LEARN_FROM ones in any case."""
        learnt_before = self._learnt_count
        while self._unlearnt and (self._unlearnt[0].t <= t or self._learnt_count < LEARN_FROM):
            stamp = self._unlearnt.popleft()
            if self._learnt is not None and stamp.epoch == self._learnt.epoch:
                self._intervals.append(stamp.t - self._learnt.t)
            self._learnt = stamp
            self._learnt_count += 1
        if self._learnt_count != learnt_before and self._intervals:
            self._period_ns = median_low(self._intervals)

    @property
    def period_ns(self) -> int | None:
        """Median interval between frames, None before two frames have been learnt."""
        return self._period_ns

    @property
    def shortest_period_ns(self) -> int | None:
        """Lower bound of the time to the next frame (the inter-message bound of ROS)."""
        return min(self._intervals) if len(self._intervals) >= LEARN_FROM - 1 else None

    @property
    def uncertainty_ns(self) -> int:
        """Stamp uncertainty of the newest frame learnt."""
        return 0 if self._learnt is None else self._learnt.uncertainty_ns

    def delay_ns(self, quantile: float) -> int | None:
        """Quantile (0..1) of arrival minus `t` over recent frames, None before the first one."""
        if not self._delays:
            return None
        if not self._sorted_delays:
            self._sorted_delays = sorted(self._delays)
        return self._sorted_delays[round(quantile * (len(self._sorted_delays) - 1))]
