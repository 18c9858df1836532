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

from streamfuse.clock import NS_PER_MS
from streamfuse.frame import STREAMS, DropCause, Frame, FramePair, OffsetSource, Stream
from streamfuse.pairing.limits import Limits
from streamfuse.pairing.options import PairingOptions
from streamfuse.pairing.statistics import MatcherStatistics
from streamfuse.pairing.track import Entry, Track

# Live frames waiting for a driver longer than this will see none: transports differ by less.
RETENTION_NS = 1000 * NS_PER_MS
RING_CAPACITY = 64


class Matcher:
    """Pairs two streams; pure policy, driven by `push`, `end` and `poll`.

    Args:
        options: fixed values, or null for those to be learnt.
        live: whether deadlines exist. Offline `poll` ignores its time.
        default_driver: what `driver: auto` stands for here.
        capacity: live frames kept per stream; offline the caller reads what `wants` names, which keeps
            the look-ahead at the shortest that decides.
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
        self._capacity = capacity
        self._tracks: dict[Stream, Track] = {stream: Track() for stream in STREAMS}
        self._offset_source: OffsetSource = "config"
        if isinstance(options.offset_ms, float):
            self._tracks["ir"].offset_ns = round(options.offset_ms * NS_PER_MS)
        self._other: Stream = "vis" if self.driver == "ir" else "ir"
        self._lead = self._tracks[self.driver]
        self._follow = self._tracks[self._other]
        self._limits = Limits(options, lead=self._lead, follow=self._follow)
        # Interpolation needs the later neighbour, nearest or not.
        self._look_ahead = options.motion == "interpolate" and self.driver == "vis"
        self._decided_t: int | None = None
        self._first_arrival: int | None = None
        self._pairs = self._held = self._without_ir = 0
        self._dt_sum_ns = self._dt_count = 0

    @property
    def wait_budget_ns(self) -> int | None:
        """Upper bound of the learnt deadline: the latency budget less what the stages behind the matcher
        need. May be changed at any time; None: no bound."""
        return self._limits.wait_budget_ns

    @wait_budget_ns.setter
    def wait_budget_ns(self, budget_ns: int | None) -> None:
        self._limits.wait_budget_ns = budget_ns

    def set_offset(self, offset_ns: int) -> None:
        """The offset measured between the streams, for infrared frames pushed from now on. What changes it
        must change it by less than the time between two of them, or frames seem to go back in time."""
        self._tracks["ir"].offset_ns = offset_ns
        self._offset_source = "auto"

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
        return self._lead.entries[0].frame.t_arrival + self._limits.deadline_ns()

    @property
    def period_ns(self) -> int | None:
        """Usual time between the driver's frames, None while unknown."""
        return self._lead.period_ns

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
            window_ns=self._limits.window_ns(),
            hold_max_ns=self._limits.hold_max_ns(),
            deadline_ns=self._limits.deadline_ns() if self.live else None,
            offset_ns=tracks["ir"].offset_ns,
            period_ns={s: t.period_ns for s, t in tracks.items()},
            delay_p50_ns={s: t.delay_ns(0.5) for s, t in tracks.items()},
            delay_p99_ns={s: t.delay_ns(0.99) for s, t in tracks.items()},
        )

    # -- when ----------------------------------------------------------------------------------

    def _missing(self) -> Stream | None:
        """The stream whose next frame the oldest driver frame needs to be decided on data alone."""
        if not self._lead.entries:
            return self.driver
        t = self._lead.entries[0].t
        if not self._follow.ended and not self._enclosed(t):
            return self._other
        # The later infrared neighbour belongs to the result, so it must not depend on the push order.
        infrared = self._tracks["ir"]
        partner = self._lead.entries[0] if self.driver == "ir" else self._nearest(t)
        if partner is not None and partner is infrared.entries[-1] and not infrared.ended:
            return "ir"
        return None

    def _enclosed(self, t: int) -> bool:
        """Whether a frame that may still be a partner lies at or after t, so the nearest one is known."""
        return bool(self._follow.entries) and self._follow.entries[-1].t >= t

    def _proven(self) -> bool:
        """Whether no frame still to come could be a better partner of the oldest driver frame."""
        t = self._lead.entries[0].t
        if self._follow.ended or self._enclosed(t):
            return True
        if self._look_ahead:
            return False
        newest, step = self._follow.newest_t, self._follow.shortest_period_ns
        return newest is not None and step is not None and newest + step > t + self._limits.window_ns()

    def _silent(self, now_ns: int) -> bool:
        """Whether the other stream has been away for so long that waiting for it is pointless."""
        since = self._follow.newest_arrival
        if since is None:
            since = self._first_arrival
        assert since is not None, "a driver frame is waiting, so one has arrived"
        return now_ns - since > self._limits.patience_ns()

    def _ready(self, now_ns: int) -> bool:
        head = self._lead.entries[0]
        if not self.live and (self._learning() or self._missing() is not None):
            return False
        for track in self._tracks.values():
            track.learn_until(head.t)
        overdue = now_ns >= head.frame.t_arrival + self._limits.deadline_ns()
        return not self.live or self._proven() or overdue or self._silent(now_ns)

    def _learning(self) -> bool:
        return any(track.learning for track in self._tracks.values())

    # -- what ----------------------------------------------------------------------------------

    def _nearest(self, t: int) -> Entry | None:
        # min() returns the first of equals: the earlier frame wins a tie.
        return min(self._follow.entries, key=lambda entry: abs(entry.t - t), default=None)

    def _decide(self, *, proven: bool) -> FramePair | None:
        self._trim_older_than_head()
        return self._decide_ir(proven=proven) if self.driver == "ir" else self._decide_vis(proven=proven)

    def _partner(self, head: Entry) -> tuple[Entry | None, int]:
        """The nearest frame of the other stream if it lies in the window, and that window."""
        window = self._limits.window_ns()
        nearest = self._nearest(head.t)
        if nearest is None:
            return None, window
        distance = abs(nearest.t - head.t)
        if not self.live and self._limits.rateless:
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
        """The last infrared frame if it is young enough, else why there is none.

        One that has been used, a little before its time, is not followed by an older one.
        """
        last = next((e for e in reversed(self._follow.entries) if e.used or e.t <= head.t), None)
        if last is None:
            return None, "no infrared frame yet"
        age, limit = max(0, head.t - last.t), self._limits.hold_max_ns()
        cause = DropCause.OUT_OF_WINDOW if proven else DropCause.DEADLINE
        account = f"{cause}: last infrared frame {age / NS_PER_MS:.0f} ms old"
        return (last, account) if age <= limit else (None, f"{account}, {limit / NS_PER_MS:.0f} ms allowed")

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
            offset_ns=self._tracks["ir"].offset_ns if ir is None else ir.offset_ns,
            offset_source=self._offset_source,
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
            if self.live or not self._learning():
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
        near = min(abs(t - entry.t) for t in neighbours) <= self._limits.reach_ns()
        return DropCause.SUPERSEDED if near else DropCause.NO_PARTNER
