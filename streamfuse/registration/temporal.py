"""Registration in time, around any registrar: where each frame starts from, and whether its field is used.

*Start.* A frame starts warm from the field of the frames before, which is cheaper and steadier, unless a
guard says that the past does not continue: a scene cut in either stream, a gap in time, a new epoch of a
source, a field too old. A warm result of low confidence is tried again cold, at growing intervals while that
fails too. A narrow search cannot find out by itself that it is locked into a wrong field, so every
`key_interval`-th frame is a key frame: refined like any other, and searched cold as well, a piece of that
after each frame from then on, for all at once would make one frame late. What the search has found in
the end is compared with the field in use, where they differ, on the pictures of the frame then at hand
(`comparison`), and the better explanation is where that frame starts from.

*Filter.* What is found goes through a `FieldFilter`: steady on a rig that stands still, a step is followed
within two or three frames, a single wild field is withheld.

*Trust.* Do no harm: a field below `min_confidence` is not used, and after that one must reach
`regain_confidence` to be believed again. Meanwhile the last good field stands in for up to `hold_s`
(`held`), then the rig calibration (`calibration`), then the visible picture alone (`off`). A cut in the
visible stream alone, while the infrared shows the same scene as before, is something that came between, such
as smoke, or a knock at the visible camera: the next frame is a cold key frame, and the past goes on. The
field belongs to the rig, and what moves through the pictures does not move it; a camera that creeps against
the other does (`creep`).

Everything unusual is an `Event`: named in the frame's reason, listed in `Registration.events`, counted in the
statistics.
"""

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum

import numpy as np

from streamfuse.clock import NS_PER_S
from streamfuse.frame import Image8, Mask, Registration, Rung, Status
from streamfuse.registration.comparison import explains_better
from streamfuse.registration.creep import Creep
from streamfuse.registration.field_filter import FieldFilter
from streamfuse.registration.options import TemporalOptions
from streamfuse.registration.registrar import Search
from streamfuse.registration.scene_watch import SceneWatch

GAP_NS = NS_PER_S
"""Frames further apart do not continue one another: in 1 s a panning camera is somewhere else."""
SAME_FIELD = 1.0
"""Pixels at 640 columns: a cold field this close to the one in use agrees with it."""
IDENTITY = np.eye(3)


class Event(StrEnum):
    """What happened to the state in time; the values are counted."""

    FIRST = "cold_first"
    SCENE_CUT_IR = "cold_scene_cut_ir"
    SCENE_CUT_VIS = "cold_scene_cut_vis"
    TIME_GAP = "cold_time_gap"
    EPOCH = "cold_epoch_change"
    EXPIRED = "cold_field_expired"
    LOW_CONFIDENCE = "cold_low_confidence"
    KEY_FRAME = "key_frame"
    OVERRULED = "overruled"
    WITHHELD = "withheld"
    JUMPED = "jumped"
    REUSED = "reused"


REASONS = {
    Event.FIRST: "cold start",
    Event.SCENE_CUT_IR: "cold start: scene cut in the infrared",
    Event.SCENE_CUT_VIS: "cold start: scene cut in the visible",
    Event.TIME_GAP: "cold start: gap in time",
    Event.EPOCH: "cold start: a source began anew",
    Event.EXPIRED: "cold start: the last good field is too old",
    Event.LOW_CONFIDENCE: "tried cold: the warm field was not to be trusted",
    Event.KEY_FRAME: "key frame, searched cold as well",
    Event.OVERRULED: "a cold search explains the pictures better than the field in use",
    Event.WITHHELD: "a sudden change of the field waits to be confirmed",
    Event.JUMPED: "the field changed suddenly, confirmed",
    Event.REUSED: "the field of an earlier frame, to save time",
}


Register = Callable[[Registration | None], Registration]
"""One pass of the registrar over the frame at hand, from a prior or cold."""


def identity(status: Status, reason: str, *, confidence: float = 0.0) -> Registration:
    """No residual displacement."""
    return Registration(status=status, confidence=confidence, matrix=IDENTITY, reason=reason)


class TemporalRegistration:
    """The state in time of one pair of streams. For each frame: `look`, then `register`.

    Args:
        calibrated: there is a rig calibration to fall back on.
        smooth: filter the fields; a caller whose result is baked in with the field cannot have it filtered.
    """

    def __init__(self, options: TemporalOptions, *, calibrated: bool, smooth: bool = True) -> None:
        self._options = options
        self._calibrated = calibrated
        self._smooth = smooth and options.smooth
        self._watches = {"ir": SceneWatch(), "vis": SceneWatch()}
        self._seen: tuple[int, tuple[int, int]] | None = None
        self._filter = FieldFilter()
        self._creep = Creep()
        self.reset(Event.FIRST)

    def reset(self, cause: Event = Event.FIRST) -> None:
        """Forget the field; the next frame starts cold."""
        self._cause = cause
        self._filter.field = None
        self._creep.forget()
        self._good_ns = 0
        self._trusting = True
        self._doubted = False
        self._since_key = 0
        self._search: Search | None = None
        self._searched: Registration | None = None
        self._wait = self._next_wait = 0

    def look(self, ir: Image8, vis: Image8, *, t_ns: int, epochs: tuple[int, int]) -> Event | None:
        """Ask the guards, before a frame is registered.

        Args:
            ir, vis: uint8, any geometry, the same from frame to frame.
            t_ns: capture time. epochs: of the two sources.

        Returns:
            Why the past was dropped; None when it continues, or there was none.
        """
        if not self._options.temporal:
            self.reset()
            return Event.FIRST
        cuts = {stream: self._watches[stream].cut(image) for stream, image in (("ir", ir), ("vis", vis))}
        before, self._seen = self._seen, (t_ns, epochs)
        if before is None:
            return None
        cause: Event | None = None
        if before[1] != epochs:
            cause = Event.EPOCH
        elif abs(t_ns - before[0]) > GAP_NS:
            cause = Event.TIME_GAP
        elif cuts["vis"]:
            cause = Event.SCENE_CUT_VIS
        elif cuts["ir"]:
            cause = Event.SCENE_CUT_IR
        elif self._filter.field is not None and t_ns - self._good_ns > self._options.hold_s * NS_PER_S:
            cause = Event.EXPIRED
        if cause is Event.SCENE_CUT_VIS and not cuts["ir"]:
            self._cause, self._doubted, self._trusting = cause, True, False
        elif cause is not None:
            self.reset(cause)
        return cause

    def register(
        self,
        ir: Image8,
        vis: Image8,
        run: Register,
        search: Callable[[], Search],
        *,
        t_ns: int,
        valid: Mask | None = None,
        rung: Rung = Rung.FULL,
    ) -> Registration:
        """The field to use for a frame.

        Args:
            ir, vis, valid: as a registrar sees them.
            run: registers them; with a prior it only refines.
            search: registers them cold, in pieces that may be done beside later frames.
            t_ns: capture time.
            rung: how much may be spent. `refine`: one warm pass, no piece of a key frame's search, no second
                try (from the rig calibration while there is no field). The rungs below it are `unregistered`.
        """
        if rung is not Rung.FULL and rung is not Rung.REFINE:
            return self.unregistered(rung)
        motion = self._creep.step(ir, vis, t_ns=t_ns, valid=valid) if self._options.temporal else None
        if motion is not None:
            self._filter.carry(motion, (vis.shape[0], vis.shape[1]))
        if rung is Rung.REFINE:
            start = self._filter.field or identity(Status.CALIBRATION, "")
            return self._judge(run(start), (), vis.shape, t_ns)
        found, events = self._estimate(ir, vis, run, search, valid)
        return self._judge(found, events, vis.shape, t_ns)

    def unregistered(self, rung: Rung) -> Registration:
        """What is used on the rungs that look at no picture: `reuse`, `calibration`, `pass_through`."""
        if rung is Rung.PASS_THROUGH:
            return identity(Status.OFF, "passed through, to save time")
        if rung is Rung.REUSE:
            return self._instead(REASONS[Event.REUSED], (Event.REUSED,))
        return self._without_field("the rig calibration alone, to save time")

    def _estimate(
        self, ir: Image8, vis: Image8, run: Register, search: Callable[[], Search], valid: Mask | None
    ) -> tuple[Registration, tuple[Event, ...]]:
        prior = self._filter.field
        if prior is None:
            return run(None), (self._cause,)
        if self._doubted and self._wait == 0:
            self._doubted = False
            self._back_off()
            cold = run(None)
            if not self._overrules(cold, prior, ir, vis, valid):
                return run(prior), (self._cause,)
            self._filter.restart(cold, vis.shape)
            return cold, (self._cause, Event.OVERRULED)
        events: tuple[Event, ...] = ()
        searched, self._searched = self._searched, None
        if searched is not None and self._overrules(searched, prior, ir, vis, valid):
            self._filter.restart(searched, vis.shape)
            prior, events = searched, (*events, Event.OVERRULED)
        self._since_key += 1
        warm = run(prior)
        usable = self._usable(warm)
        due = self._since_key >= self._options.key_interval
        if usable and due and self._search is None and warm.warm:
            self._since_key = 0
            self._search = search()
            events += (Event.KEY_FRAME,)
        self._go_on_searching()
        if usable:
            self._wait = self._next_wait = 0
            return warm, events
        if self._wait > 0:
            self._wait -= 1
            return warm, events
        self._back_off()
        cold = run(None)
        return (cold if cold.confidence > warm.confidence else warm), (*events, Event.LOW_CONFIDENCE)

    def _go_on_searching(self) -> None:
        """One more piece of the key frame's search, if one is under way: a registrar with a thread to spare
        does it while the frame is fused."""
        self._searched = None if self._search is None else next(self._search)
        if self._searched is not None:
            self._search = None

    def _overrules(
        self, found: Registration, held: Registration, ir: Image8, vis: Image8, valid: Mask | None
    ) -> bool:
        """Whether the field of a search is another one than that in use, and a better one."""
        if not self._usable(found) or self._filter.distance(found, vis.shape) <= SAME_FIELD:
            return False
        return explains_better(ir, vis, found, held, valid=valid)

    def _back_off(self) -> None:
        """The next cold try comes later than this one did."""
        self._next_wait = min(2 * self._next_wait + 1, self._options.key_interval)
        self._wait = self._next_wait

    def _usable(self, found: Registration) -> bool:
        """Whether a field would be used."""
        return found.status is not Status.OFF and found.confidence >= self._needed()

    def _needed(self) -> float:
        return self._options.min_confidence if self._trusting else self._options.regain_confidence

    def _judge(
        self, found: Registration, events: tuple[Event, ...], shape: tuple[int, ...], t_ns: int
    ) -> Registration:
        """Use the field found, or the best that can still be trusted."""
        if found.status is Status.CALIBRATION:
            self._filter.restart(found, (shape[0], shape[1]))
            self._good_ns = t_ns
            return found
        needed = self._needed()
        self._trusting = self._usable(found)
        if not self._trusting:
            reason = found.reason or f"confidence {found.confidence:.2f} below {needed:.2f}"
            return self._instead(reason, events, found)
        self._good_ns = t_ns
        if not self._smooth:
            self._filter.restart(found, (shape[0], shape[1]))
            return replace(found, reason=reasons(events), events=tuple(events))
        verdict = self._filter.update(found, (shape[0], shape[1]))
        if verdict == "withheld":
            return self._instead(REASONS[Event.WITHHELD], (*events, Event.WITHHELD), found)
        if verdict == "jumped":
            events = (*events, Event.JUMPED)
        field = self._filter.field
        assert field is not None
        return replace(field, reason=reasons(events), events=tuple(events))

    def _instead(
        self, reason: str, events: tuple[Event, ...], found: Registration | None = None
    ) -> Registration:
        """The last good field, else the rig calibration, else nothing."""
        confidence = 0.0 if found is None else found.confidence
        held = self._filter.field
        if held is None:
            return self._without_field(reason, confidence, events)
        if held.status is Status.CALIBRATION:
            return held
        return replace(
            held,
            status=Status.HELD,
            confidence=held.confidence if found is None else confidence,
            reason=reason,
            warm=found is not None and found.warm,
            events=tuple(events),
        )

    def _without_field(
        self, reason: str, confidence: float = 0.0, events: tuple[Event, ...] = ()
    ) -> Registration:
        status = Status.CALIBRATION if self._calibrated else Status.OFF
        return replace(identity(status, reason, confidence=confidence), events=tuple(events))


def reasons(events: tuple[Event, ...]) -> str:
    """What they say, one after the other."""
    return "; ".join(REASONS[event] for event in events)
