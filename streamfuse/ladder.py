"""How much work a live frame gets, so that it is shown in time. Pure policy: no thread, no clock of its own.

Problem. A worker slower than its camera falls behind by the difference with every frame; soon all frames are
late and most are dropped. Doing less for each frame keeps the rate and the latency.

Design. One number decides: the time from capture until the last sink has the frame. Before each frame it is
predicted as the frame's age, plus what its work usually costs, plus the lag of the slowest sink. When it is
beyond the budget, and work at this rung is the reason (it lasts longer than the time between frames, or does
not fit into what capture and sink leave of the budget), the ladder goes down, at once to the best rung that
is known to fit. "Usually" is a median of three: one slow frame, such as a cold start or a hiccup of the
machine, moves nothing, two do.
Up it goes one rung at a time, after a wait, and only when the rung above fits with room to spare. A rung that
is not run any more is not measured any more, so its last cost fades until it is worth a try; each try that
fails doubles the wait and halves the fading.

What no rung can change moves nothing. A sink slower than the frames come fills its own queue and drops from
it whatever the worker does: its lag counts up to one frame period, which is what a sink that keeps up can
reach. A camera that is late beyond the budget by itself leaves only the rate to keep.

Trade-off. A try under lasting overload costs a slow frame or two, at most one every `LONGEST_WAIT_NS`.
"""

import logging
from collections import Counter, deque
from dataclasses import dataclass

from streamfuse.clock import NS_PER_MS, NS_PER_S
from streamfuse.frame import Rung

log = logging.getLogger(__name__)

RUNGS = tuple(Rung)
TYPICAL_OF = 3
"""Measurements in a median: two slow frames in a row show, a single one does not."""
CERTAIN_AFTER = 2
"""Frames on a rung before it can be left downwards."""
BEGIN_AT = 0.9
"""Of the budget: from here on something is done, for a frame that falls behind is late soon."""
ROOM = 0.8
"""A rung is entered when it needs no more than this of the time there is, and left when it needs all."""
AGES_KEPT = 32
"""Frames, about a second: the least of their ages is what capture and pairing take."""
STALE_NS = NS_PER_S
"""A cost not measured for this long begins to fade, and does not count beside newer ones."""
FIRST_WAIT_NS = NS_PER_S
LONGEST_WAIT_NS = 16 * NS_PER_S
"""Between a move and the next one upwards; also the time in which a cost that is not measured halves."""
PROVEN_AFTER_NS = 30 * NS_PER_S
"""A climb that lasted this long was right; a rung left earlier was a failed try."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a frame gets. late: even so it will be late, so a newer one that waits is worth more."""

    rung: Rung
    late: bool = False


class Ladder:
    """Decides for one frame after the other: `choose` before its work, `spent` after it.

    Args:
        budget_ns: from capture until the last sink has the frame.
        reuse_frames: on the rung `reuse`, frames that use an earlier field for each one that is refined.
    """

    def __init__(self, *, budget_ns: int, reuse_frames: int) -> None:
        self.rung = Rung.FULL
        self.reason = ""
        self.moves = 0
        self._budget_ns = budget_ns
        self._reuse_frames = reuse_frames
        self._ages: deque[int] = deque(maxlen=AGES_KEPT)
        self._t_capture_ns: int | None = None
        self._backlog_ns = 0
        self._lag = _Cost()
        self._rest = _Cost()
        self._register = {Rung.FULL: _Cost(), Rung.REFINE: _Cost()}
        self._period_ns = 0
        self._frames = 0
        self._moved_ns: int | None = None
        self._climbed = False
        self._failures: Counter[Rung] = Counter()
        self._since_refined = reuse_frames

    def choose(self, *, now_ns: int, age_ns: int, period_ns: int | None, sink_lag_ns: int) -> Step:
        """The rung for the next frame.

        Args:
            now_ns: monotonic.
            age_ns: of the frame, since capture.
            period_ns: usual time between frames; None while unknown.
            sink_lag_ns: from the end of a recent frame's work until its slowest sink had it.
        """
        self._note_age(now_ns, age_ns)
        if period_ns is None:
            return Step(Rung.FULL, late=age_ns > self._budget_ns)
        self._period_ns = period_ns
        self._lag.add((now_ns, now_ns), min(sink_lag_ns, period_ns))
        if self._moved_ns is None:
            self._moved_ns = now_ns
        certain = self._frames >= (1 if self._climbed else CERTAIN_AFTER)
        if certain and self._lateness(age_ns) > BEGIN_AT * self._budget_ns and self._hopeless(now_ns):
            self._down(now_ns, age_ns)
        elif self.rung is not Rung.FULL:
            self._try_up(now_ns)
        return Step(self._work(), late=self._lateness(age_ns) > self._budget_ns)

    def spent(self, *, now_ns: int, rung: Rung, work_ns: int, register_ns: int, warm: bool) -> None:
        """What a frame cost.

        Args:
            now_ns: the end of its work.
            rung: as chosen for it.
            work_ns: in all. register_ns: of that, for registration.
            warm: the registration was one refinement of an earlier field.
        """
        self._frames += 1
        self._backlog_ns += work_ns
        refined = rung in self._register
        self._since_refined = 0 if refined else self._since_refined + 1
        span = now_ns - work_ns, now_ns
        if rung is not Rung.PASS_THROUGH:
            self._rest.add(span, work_ns - register_ns)
        if refined:
            self._register[rung].add(span, register_ns)
        if rung is Rung.FULL and warm:
            self._register[Rung.REFINE].add(span, register_ns)

    def _note_age(self, now_ns: int, age_ns: int) -> None:
        """Tell what a frame waited for the worker (Lindley's recursion) from what it waited before."""
        t_capture = now_ns - age_ns
        if self._t_capture_ns is not None:
            self._backlog_ns = max(0, self._backlog_ns - (t_capture - self._t_capture_ns))
        self._t_capture_ns = t_capture
        self._ages.append(max(0, age_ns - self._backlog_ns))

    # -- costs ---------------------------------------------------------------------------------

    def _cost(self, rung: Rung, now_ns: int) -> int:
        """Of the dearest usual frame on a rung."""
        if rung is Rung.PASS_THROUGH:
            return 0
        fading = self._wait_ns(rung)
        rest = self._rest.now(now_ns, fading)
        if rung is Rung.CALIBRATION:
            return rest
        return rest + self._register[Rung.FULL if rung is Rung.FULL else Rung.REFINE].now(now_ns, fading)

    def _mean_cost(self, rung: Rung, now_ns: int) -> int:
        """Of a frame, in the long run."""
        if rung is not Rung.REUSE:
            return self._cost(rung, now_ns)
        rest = self._cost(Rung.CALIBRATION, now_ns)
        return rest + (self._cost(rung, now_ns) - rest) // (self._reuse_frames + 1)

    def _lateness(self, age_ns: int) -> int:
        """Predicted time from capture to the last sink of a frame of this age, on the present rung."""
        work = {
            Rung.FULL: self._rest.typical + self._register[Rung.FULL].typical,
            Rung.REFINE: self._rest.typical + self._register[Rung.REFINE].typical,
            Rung.REUSE: self._rest.typical,
            Rung.CALIBRATION: self._rest.typical,
            Rung.PASS_THROUGH: 0,
        }
        return age_ns + work[self._work()] + self._lag.typical

    def _left_ns(self) -> int | None:
        """What capture, pairing and the sinks leave of the budget for work; None: nothing."""
        left = self._budget_ns - min(self._ages) - self._lag.typical
        return left if left > 0 else None

    def _hopeless(self, now_ns: int) -> bool:
        """Whether staying on this rung would make all frames late."""
        left = self._left_ns()
        behind = self._mean_cost(self.rung, now_ns) > self._period_ns
        return behind or (left is not None and self._cost(self.rung, now_ns) > left)

    def _fits(self, rung: Rung, now_ns: int) -> bool:
        left = self._left_ns()
        if self._mean_cost(rung, now_ns) > ROOM * self._period_ns:
            return False
        return left is None or self._cost(rung, now_ns) <= ROOM * left

    # -- moves ---------------------------------------------------------------------------------

    def _work(self) -> Rung:
        """What the next frame gets: on the rung `reuse`, now and then a refinement."""
        due = self.rung is Rung.REUSE and self._since_refined >= self._reuse_frames
        return Rung.REFINE if due else self.rung

    def _wait_ns(self, rung: Rung) -> int:
        """How long a rung must have been left before it is tried again."""
        return int(min(FIRST_WAIT_NS << self._failures[rung], LONGEST_WAIT_NS))

    def _down(self, now_ns: int, age_ns: int) -> None:
        below = RUNGS[RUNGS.index(self.rung) + 1 :]
        if not below:
            return
        assert self._moved_ns is not None
        if self._climbed:
            lasted = now_ns - self._moved_ns >= PROVEN_AFTER_NS
            self._failures[self.rung] = 0 if lasted else self._failures[self.rung] + 1
        late, budget = self._lateness(age_ns) / NS_PER_MS, self._budget_ns / NS_PER_MS
        work, period = self._mean_cost(self.rung, now_ns) / NS_PER_MS, self._period_ns / NS_PER_MS
        reason = (
            f"{self.rung}: {late:.0f} ms from capture to sink of {budget:.0f} allowed; "
            f"work {work:.0f} ms, a frame every {period:.0f} ms"
        )
        target = next((rung for rung in below if self._fits(rung, now_ns)), Rung.PASS_THROUGH)
        self._move(target, now_ns, reason)

    def _try_up(self, now_ns: int) -> None:
        assert self._moved_ns is not None
        above = RUNGS[RUNGS.index(self.rung) - 1]
        stayed = now_ns - self._moved_ns
        if self._climbed and stayed >= PROVEN_AFTER_NS:
            self._failures[self.rung] = 0
        if stayed >= self._wait_ns(above) and self._fits(above, now_ns):
            self._move(above, now_ns, "" if above is Rung.FULL else self.reason)

    def _move(self, rung: Rung, now_ns: int, reason: str) -> None:
        log.info("ladder: %s -> %s (%s)", self.rung, rung, reason or "there is time again")
        self._climbed = RUNGS.index(rung) < RUNGS.index(self.rung)
        self.rung, self.reason = rung, reason
        self.moves += 1
        self._moved_ns, self._frames = now_ns, 0


class _Cost:
    """The latest measurements of one duration."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque(maxlen=TYPICAL_OF)
        self._at_ns = 0

    def add(self, span_ns: tuple[int, int], duration_ns: int) -> None:
        """span_ns: when the frame was worked on."""
        if span_ns[0] - self._at_ns > STALE_NS:
            self._recent.clear()
        self._recent.append(duration_ns)
        self._at_ns = span_ns[1]

    @property
    def typical(self) -> int:
        """The median, of two the lower one, 0 before the first measurement."""
        return sorted(self._recent)[(len(self._recent) - 1) // 2] if self._recent else 0

    def now(self, now_ns: int, half_life_ns: int) -> int:
        """What it may cost by now: `typical` while it is measured, then less and less."""
        stale_ns = max(0, now_ns - self._at_ns - STALE_NS)
        faded: float = 0.5 ** (stale_ns / half_life_ns)
        return round(self.typical * faded)
