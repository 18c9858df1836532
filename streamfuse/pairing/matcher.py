"""Which infrared frame belongs to which visible frame, and when that is certain enough to say.

Problem. Pairing "newest with newest" leaves 60..170 ms between partners on real rigs; the first pair
under a threshold is not the best one; a deadline shorter than the difference of the two transport
delays yields no pair at all.

Design. One stream drives: each of its frames asks for the nearest frame of the other stream. The
question is answered when the answer is proven: the other stream has shown a stamp at or after the
driver's, or cannot deliver one within the window any more (its shortest period says so), or has ended.
Live, a learnt deadline bounds the wait; offline there is none, and the result depends on the stamps
alone, not on the order in which the two streams were pushed.

Trade-off. Waiting for proof costs up to one period of the other stream and halves the mean |dt|.
"""

from collections import Counter
from dataclasses import dataclass

from streamfuse.clock import NS_PER_MS
from streamfuse.frame import STREAMS, DropCause, Frame, FramePair, Stream
from streamfuse.pairing.options import PairingOptions
from streamfuse.pairing.track import Entry, Track

# More than half a period, because with exactly half both neighbours of a driver frame are rejected as
# soon as the real rates differ a little from each other (OrbbecSDK_v2#117).
WINDOW_PERIODS = 0.55
# Stamps known worse than that say nothing about neighbourhood: a wider window would pair strangers.
UNCERTAINTY_PERIODS_MAX = 0.5
# A held frame may bridge one missing frame of the slower stream and its jitter, not two.
HOLD_PERIODS = 1.6
# What scheduling and delivery add to a percentile of measured delays.
DEADLINE_MARGIN_NS = 5 * NS_PER_MS
# Until periods and delays are known (live): 25 fps, and the patience for the slower transport to begin.
START_PERIOD_NS = 40 * NS_PER_MS
START_WAIT_NS = 300 * NS_PER_MS
# librealsense calls a stream inactive after seven missed periods; from then on nobody waits for it.
SILENT_PERIODS = 7
# A frame further than this from every driver frame met a gap of the driver, not its slower rate.
GAP_PERIODS = 0.8
# Live frames waiting for a driver longer than this will see none: transports differ by less.
RETENTION_NS = 1000 * NS_PER_MS
RING_CAPACITY = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MatcherStatistics:
    """What the matcher has counted and learnt. Times in ns, None while unknown.

    Per stream: pushed = used + sum of drops + buffered. `held` counts pairs with a held infrared frame,
    `without_ir` pairs with none. `dt_mean_ns`: mean |dt| over pairs that are not held.
    """

    driver: Stream
    pushed: dict[Stream, int]
    used: dict[Stream, int]
    drops: dict[Stream, dict[DropCause, int]]
    buffered: dict[Stream, int]
    pairs: int
    held: int
    without_ir: int
    dt_mean_ns: int | None
    window_ns: int
    hold_max_ns: int
    deadline_ns: int | None
    offset_ns: int
    period_ns: dict[Stream, int | None]
    delay_p50_ns: dict[Stream, int | None]
    delay_p99_ns: dict[Stream, int | None]


class Matcher:
    """Pairs two streams; pure policy, driven by `push`, `end` and `poll`.

    Args:
        options: fixed values, or null for those to be learnt.
        live: whether deadlines exist. Offline `poll` ignores its time.
        default_driver: what `driver: auto` stands for here.
        capacity: live frames kept per stream; offline the caller reads what `wants` names, which keeps
            the look-ahead at the shortest that decides.

    Attributes:
        wait_budget_ns: upper bound of the learnt deadline: the latency budget less what the stages
            behind the matcher need. May be changed at any time; None: no bound.
    """

    def __init__(
        self,
        options: PairingOptions,
        *,
        live: bool,
        default_driver: Stream,
        capacity: int = RING_CAPACITY,
    ) -> None:
        self.driver: Stream = default_driver if options.driver == "auto" else options.driver
        self.live = live
        self.wait_budget_ns: int | None = None
        self._options = options
        self._capacity = capacity
        self._offset_ns = round((options.offset_ms or 0.0) * NS_PER_MS)
        self._tracks: dict[Stream, Track] = {
            "ir": Track(offset_ns=self._offset_ns),
            "vis": Track(offset_ns=0),
        }
        self._other: Stream = "vis" if self.driver == "ir" else "ir"
        self._lead = self._tracks[self.driver]
        self._follow = self._tracks[self._other]
        self._decided_t: int | None = None
        self._first_arrival: int | None = None
        self._pairs = self._held = self._without_ir = 0
        self._dt_sum_ns = self._dt_count = 0

    # -- in ------------------------------------------------------------------------------------

    def push(self, frame: Frame) -> None:
        """Take a frame; stamps of one stream must rise, frames that do not are counted as dropped."""
        track = self._tracks[frame.stream]
        if track.ended:
            raise ValueError(f"{frame!r} pushed after the end of its stream")
        if self._first_arrival is None:
            self._first_arrival = frame.t_arrival
        entry = track.push(frame)
        if entry is None:
            return
        if track is self._follow and self._decided_t is not None:
            entry.late = self.live and entry.t <= self._decided_t
        if self.live and len(track.entries) > self._capacity:
            track.remove_first(DropCause.OVERRUN if track is self._lead else DropCause.NO_PARTNER)

    def end(self, stream: Stream) -> None:
        """No more frames of this stream will come. May be called twice."""
        self._tracks[stream].ended = True

    def wants(self) -> Stream | None:
        """Offline, after `poll`: the stream whose next frame is needed; None: all decided."""
        if not self._lead.entries and self._lead.ended:
            return None
        for stream in STREAMS:
            if self._tracks[stream].learning:
                return stream
        return self._missing() or self.driver

    # -- out -----------------------------------------------------------------------------------

    def poll(self, now_ns: int = 0) -> list[FramePair]:
        """All pairs that can be decided by now, in order of the driver's capture times."""
        pairs = []
        while self._lead.entries and self._ready(now_ns):
            pair = self._decide(proven=self._proven())
            if pair is not None:
                pairs.append(pair)
        self._trim(now_ns)
        return pairs

    def flush(self) -> list[FramePair]:
        """End both streams and decide all that is left; nothing stays buffered."""
        for stream in STREAMS:
            self.end(stream)
        return self.poll()

    def next_deadline_ns(self) -> int | None:
        """When `poll` should be called even if nothing is pushed; None: no frame is waiting."""
        if not self.live or not self._lead.entries:
            return None
        return self._lead.entries[0].frame.t_arrival + self._deadline_ns()

    @property
    def drops(self) -> dict[Stream, Counter[DropCause]]:
        return {stream: track.drops for stream, track in self._tracks.items()}

    @property
    def used(self) -> dict[Stream, int]:
        """Frames that are part of at least one pair."""
        return {stream: track.used for stream, track in self._tracks.items()}

    def statistics(self) -> MatcherStatistics:
        """A snapshot."""
        tracks = self._tracks
        return MatcherStatistics(
            driver=self.driver,
            pushed={s: t.pushed for s, t in tracks.items()},
            used=self.used,
            drops={s: dict(t.drops) for s, t in tracks.items()},
            buffered={s: t.buffered for s, t in tracks.items()},
            pairs=self._pairs,
            held=self._held,
            without_ir=self._without_ir,
            dt_mean_ns=self._dt_sum_ns // self._dt_count if self._dt_count else None,
            window_ns=self._window_ns(),
            hold_max_ns=self._hold_max_ns(),
            deadline_ns=self._deadline_ns() if self.live else None,
            offset_ns=self._offset_ns,
            period_ns={s: t.period_ns for s, t in tracks.items()},
            delay_p50_ns={s: t.delay_ns(50) for s, t in tracks.items()},
            delay_p99_ns={s: t.delay_ns(99) for s, t in tracks.items()},
        )

    # -- limits --------------------------------------------------------------------------------

    def _periods(self) -> list[int]:
        return [t.period_ns for t in self._tracks.values() if t.period_ns is not None]

    def _window_ns(self) -> int:
        if self._options.window_ms is not None:
            return round(self._options.window_ms * NS_PER_MS)
        fastest = min(self._periods(), default=START_PERIOD_NS)
        residual = sum(track.uncertainty_ns for track in self._tracks.values())
        return round(WINDOW_PERIODS * fastest + min(residual, UNCERTAINTY_PERIODS_MAX * fastest))

    def _hold_max_ns(self) -> int:
        if self._options.hold_max_ms is not None:
            return round(self._options.hold_max_ms * NS_PER_MS)
        return round(HOLD_PERIODS * max(self._periods(), default=START_PERIOD_NS))

    def _deadline_ns(self) -> int:
        if self._options.deadline_ms is not None:
            return round(self._options.deadline_ms * NS_PER_MS)
        slow, usual = self._follow.delay_ns(99), self._lead.delay_ns(50)
        if slow is None or usual is None:
            wait = START_WAIT_NS
        else:
            wait = slow - usual + (self._follow.period_ns or START_PERIOD_NS) // 2 + DEADLINE_MARGIN_NS
        if self.wait_budget_ns is not None:
            wait = min(wait, self.wait_budget_ns)
        return max(0, wait)

    # -- when ----------------------------------------------------------------------------------

    def _missing(self) -> Stream | None:
        """The stream whose next frame the oldest driver frame needs to be decided on data alone."""
        if not self._lead.entries:
            return self.driver
        t = self._lead.entries[0].t
        if not self._follow.ended and (self._follow.newest_t is None or self._follow.newest_t < t):
            return self._other
        # The later infrared neighbour belongs to the result, so it must not depend on the push order.
        infrared = self._tracks["ir"]
        partner = self._lead.entries[0] if self.driver == "ir" else self._nearest(t)
        if partner is not None and partner is infrared.entries[-1] and not infrared.ended:
            return "ir"
        return None

    def _proven(self) -> bool:
        """Whether no frame still to come could be a better partner of the oldest driver frame."""
        t = self._lead.entries[0].t
        newest, step = self._follow.newest_t, self._follow.shortest_period_ns
        if self._follow.ended or (newest is not None and newest >= t):
            return True
        return newest is not None and step is not None and newest + step > t + self._window_ns()

    def _silent(self, now_ns: int) -> bool:
        """Whether the other stream has been away for so long that waiting for it is pointless."""
        if self._follow.newest_arrival is not None:
            patience = SILENT_PERIODS * (self._follow.period_ns or START_PERIOD_NS)
            return now_ns - self._follow.newest_arrival > max(patience, START_WAIT_NS)
        assert self._first_arrival is not None, "a driver frame is waiting, so one has arrived"
        return now_ns - self._first_arrival > START_WAIT_NS

    def _ready(self, now_ns: int) -> bool:
        head = self._lead.entries[0]
        if not self.live:
            if any(track.learning for track in self._tracks.values()) or self._missing() is not None:
                return False
            self._learn(head.t)
            return True
        self._learn(head.t)
        return self._proven() or now_ns >= head.frame.t_arrival + self._deadline_ns() or self._silent(now_ns)

    def _learn(self, t: int) -> None:
        for track in self._tracks.values():
            track.learn_until(t)

    # -- what ----------------------------------------------------------------------------------

    def _nearest(self, t: int) -> Entry | None:
        # min() returns the first of equals: the earlier frame wins a tie.
        return min(self._follow.entries, key=lambda entry: abs(entry.t - t), default=None)

    def _decide(self, *, proven: bool) -> FramePair | None:
        self._trim_older_than_head()
        return self._decide_ir(proven=proven) if self.driver == "ir" else self._decide_vis(proven=proven)

    def _partner(self, head: Entry) -> tuple[Entry | None, int]:
        """The nearest frame of the other stream if it lies in the window, and that window."""
        window = self._window_ns()
        nearest = self._nearest(head.t)
        if nearest is None:
            return None, window
        distance = abs(nearest.t - head.t)
        if not self._periods() and not self.live and self._options.window_ms is None:
            # Two still pictures: without a rate nothing could tell partners from strangers.
            window = max(window, distance)
        return (nearest if distance <= window else None), window

    def _decide_ir(self, *, proven: bool) -> FramePair | None:
        head = self._lead.entries[0]
        partner, window = self._partner(head)
        before = self._lead.previous
        self._decided_t = head.t
        if partner is None:
            if not self._follow.entries:
                cause = DropCause.NO_PARTNER
            else:
                cause = DropCause.OUT_OF_WINDOW if proven else DropCause.DEADLINE
            self._lead.remove_first(cause)
            return None
        self._lead.use(head)
        self._lead.remove_first()
        self._follow.use(partner)
        while self._follow.entries[0] is not partner:
            self._follow.remove_first(DropCause.SUPERSEDED)
        self._follow.remove_first()
        after = self._lead.entries[0].frame if self._lead.entries else None
        return self._pair(partner, head, window=window, before=before, after=after)

    def _decide_vis(self, *, proven: bool) -> FramePair:
        head = self._lead.entries[0]
        partner, window = self._partner(head)
        reason = ""
        held = False
        if partner is None:
            partner, reason = self._hold(head, proven=proven)
            held = partner is not None
        self._decided_t = head.t
        self._lead.use(head)
        self._lead.remove_first()
        if partner is None:
            return self._pair(head, None, window=window, reason=reason)
        held = held or partner.used
        self._follow.use(partner)
        index = self._follow.entries.index(partner)
        before = self._follow.entries[index - 1].frame if index else self._follow.previous
        after = self._follow.entries[index + 1].frame if index + 1 < len(self._follow.entries) else None
        return self._pair(head, partner, window=window, held=held, before=before, after=after, reason=reason)

    def _hold(self, head: Entry, *, proven: bool) -> tuple[Entry | None, str]:
        """The last infrared frame if it is young enough, else why there is none."""
        last = next((e for e in reversed(self._follow.entries) if e.t <= head.t), None)
        if last is None:
            return None, "no infrared frame yet"
        age, limit = head.t - last.t, self._hold_max_ns()
        cause = DropCause.OUT_OF_WINDOW if proven else DropCause.DEADLINE
        if age <= limit:
            return last, f"{cause}: infrared frame held for {age / NS_PER_MS:.0f} ms"
        return (
            None,
            f"{cause}: last infrared frame is {age / NS_PER_MS:.0f} ms old, {limit / NS_PER_MS:.0f} at most",
        )

    def _pair(
        self,
        vis: Entry,
        ir: Entry | None,
        *,
        window: int,
        held: bool = False,
        before: Frame | None = None,
        after: Frame | None = None,
        reason: str = "",
    ) -> FramePair:
        self._pairs += 1
        self._held += held
        self._without_ir += ir is None
        dt = 0 if ir is None else ir.t - vis.t
        if ir is not None and not held:
            self._dt_sum_ns += abs(dt)
            self._dt_count += 1
        epoch = None if ir is None else ir.frame.epoch
        return FramePair(
            vis=vis.frame,
            ir=None if ir is None else ir.frame,
            driver=self.driver,
            dt_ns=dt,
            window_ns=window,
            offset_ns=self._offset_ns,
            held=held,
            ir_before=before if before is not None and before.epoch == epoch else None,
            ir_after=after if after is not None and after.epoch == epoch else None,
            reason=reason,
        )

    # -- what is left over ---------------------------------------------------------------------

    def _trim_older_than_head(self) -> None:
        """Let go of frames that no driver frame can be nearest to: a newer one lies before the head."""
        entries = self._follow.entries
        while len(entries) > 1 and entries[1].t <= self._lead.entries[0].t:
            self._follow.remove_first(self._unused_cause(entries[0]))

    def _trim(self, now_ns: int) -> None:
        entries = self._follow.entries
        if self._lead.entries:
            if not any(track.learning for track in self._tracks.values()) or self.live:
                self._lead.learn_until(self._lead.entries[0].t)
                self._trim_older_than_head()
            return
        if self._lead.ended:
            while entries:
                self._follow.remove_first(self._unused_cause(entries[0]))
        elif self.live:
            while len(entries) > 1 and now_ns - entries[0].frame.t_arrival > RETENTION_NS:
                self._follow.remove_first(self._unused_cause(entries[0]))

    def _unused_cause(self, entry: Entry) -> DropCause:
        """Why a frame of the other stream stays unused: passed over, come too late, or nobody was there."""
        if entry.late:
            return DropCause.LATE
        neighbours = [] if self._decided_t is None else [self._decided_t]
        if self._lead.entries:
            neighbours.append(self._lead.entries[0].t)
        if not neighbours:
            return DropCause.NO_PARTNER
        reach = GAP_PERIODS * (self._lead.period_ns or START_PERIOD_NS)
        near = min(abs(t - entry.t) for t in neighbours) <= reach
        return DropCause.SUPERSEDED if near else DropCause.NO_PARTNER
