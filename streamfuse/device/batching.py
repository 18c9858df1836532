"""Which frames of several rigs go through the device together. Pure policy.

Problem. A batch of frames takes less time than one after the other, but each of its frames is ready only when
all are; and a rig that waited for another one's camera would pay with latency for something that may not
come. Design. Nobody waits for a frame that is not there: while the device has room, what comes goes at once.
Frames that came while it was busy wait for it anyway; of those the most urgent goes next and takes others
with it that get the same work, as many as there is a recording for, provided that a batch of that size was
measured to save time, and that the most urgent one is not late for the sake of the others. Urgent is what has
to be back first, by its rig's own budget; a rig without one (a recording) has `PATIENCE_NS`.

A device does not stop what it has begun. So it is never given more than a frame of any other rig, as they
came last, could wait for without being late: batches are smaller then, and the next one is not queued behind
the one that runs. What remains is one frame of one rig, which always goes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamfuse.clock import NS_PER_S
from streamfuse.device.program import Work

SIZES = (1, 2, 4)
"""Frames in a batch. Three go as two and one: a recording for each size costs memory and start-up time."""
PATIENCE_NS = NS_PER_S
"""Budget of a frame that nobody waits for: it goes after live ones, but does go."""
GONE_NS = NS_PER_S
"""A rig that sent nothing for so long is not reckoned with."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A frame that waits for the device. rig: whose. latest_ns: when it has to be back."""

    rig: int
    work: Work
    latest_ns: int


class Batching:
    """Says who goes next.

    Args:
        rigs: that there may be.
        cost_ns: how long a batch of some size takes on the device; 0 where that is not known.
    """

    def __init__(self, rigs: int, *, cost_ns: Callable[[Work, int], int]) -> None:
        self.sizes = tuple(size for size in SIZES if size <= rigs)
        self._cost_ns = cost_ns
        self._came: dict[int, tuple[int, int]] = {}

    def came(self, frame: Waiting, *, now_ns: int) -> None:
        """A frame begins to wait."""
        self._came[frame.rig] = now_ns, frame.latest_ns - now_ns - self._cost_ns(frame.work, 1)

    def choose(self, waiting: Sequence[Waiting], *, now_ns: int, busy_ns: int) -> list[int]:
        """The next batch, as places in `waiting`, which must not be empty; none: the device is busy enough.

        Args:
            waiting: in the order in which they came; a rig's frames go in that order, one a batch.
            busy_ns: for how long at most the device is busy with what it has; 0: with nothing.
        """
        firsts: dict[int, int] = {}
        for place, frame in enumerate(waiting):
            firsts.setdefault(frame.rig, place)
        urgent = sorted(firsts.values(), key=lambda place: (waiting[place].latest_ns, place))
        work = waiting[urgent[0]].work
        alike = [place for place in urgent if waiting[place].work == work]
        left_ns = waiting[urgent[0]].latest_ns - now_ns - busy_ns
        for size in reversed(self.sizes):
            batch = [waiting[place] for place in alike[:size]]
            spare_ns = self._spare_ns({frame.rig for frame in batch}, now_ns)
            if len(batch) == size and self._good(work, size, left_ns=left_ns, spare_ns=spare_ns):
                # Queued behind what runs, a smaller one might go sooner, but the device would do less.
                waits = busy_ns > 0 and busy_ns + self._cost_ns(work, size) > spare_ns
                return [] if waits else alike[:size]
        raise AssertionError("one can always go")

    def _good(self, work: Work, size: int, *, left_ns: int, spare_ns: float) -> bool:
        """Whether it is good for all that so many go together. left_ns: what the most urgent one has left."""
        alone_ns, together_ns = self._cost_ns(work, 1), self._cost_ns(work, size)
        # One that is late anyway, under overload, is no reason to do less in the same time.
        harms = alone_ns <= left_ns < together_ns
        pays = together_ns <= size * alone_ns
        return size == 1 or (pays and not harms and together_ns <= spare_ns)

    def _spare_ns(self, rigs: set[int], now_ns: int) -> float:
        """For how long the device may be busy without making a frame of any rig but these late."""
        others = (
            spare_ns
            for rig, (came_ns, spare_ns) in self._came.items()
            if rig not in rigs and spare_ns > 0 and now_ns - came_ns < GONE_NS
        )
        return min(others, default=float("inf"))
