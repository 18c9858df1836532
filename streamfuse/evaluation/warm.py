"""Registration in time, measured: warm against cold under a known deformation on top of a clip.

Nobody knows the true field of a real pair, so a known deformation is put on the infrared of every frame and
what the registrar makes of it is judged against what it makes of the undeformed clip, composed with what was
added. That *own field* is, for each way of working (cold, warm), the median over the frames; the rig stands
still in such a clip. Rendered footage brings its true field, and errors are judged against that; what the
confidence claims is always judged against the own field.

Ways of working on every frame, side by side:
    cold       the registrar without a prior
    equal      cold, with no more computing than a warm frame has: one refinement, from no displacement
    refined    one refinement from the field in use
    in use     what `TemporalRegistration` makes of it all: what is fused

Errors are mean end-point errors in pixels of the picture over a coarse grid of places.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.clock import NS_PER_MS, NS_PER_S, Clock, RealClock
from streamfuse.errors import DataError
from streamfuse.evaluation.warm_footage import Added, Footage, field_at, places
from streamfuse.frame import Flow, Image8, Mask, Registration, Status
from streamfuse.metrics.temporal import displacement_jitter
from streamfuse.registration.options import TemporalOptions
from streamfuse.registration.registrar import Registrar, Search, search
from streamfuse.registration.temporal import TemporalRegistration, identity
from streamfuse.registration.trust import GOOD_PX
from streamfuse.registration.working import sample

FRAME_NS = NS_PER_S // 25
SETTLING = 5
"""Frames after a cold start whose steps are no jitter: the field goes to where refinement ends."""
STARTS = 12
"""Frames of a clip on which refinement from a right and from a wrong start is compared."""


@dataclass(slots=True)
class Way:
    """One way of working over a clip, frame by frame."""

    errors: list[float] = field(default_factory=list)
    fields: list[Flow] = field(default_factory=list)
    took_ms: list[float] = field(default_factory=list)

    def error(self, frames: npt.NDArray[np.bool_] | None = None) -> float:
        """Mean over the frames marked; NaN when there are none."""
        chosen = np.asarray(self.errors) if frames is None else np.asarray(self.errors)[frames]
        return float(chosen.mean()) if chosen.size else float("nan")

    @property
    def median_ms(self) -> float:
        return float(np.median(self.took_ms))

    @property
    def jitter(self) -> float:
        """Mean step between successive fields, pixels, once settled."""
        return displacement_jitter(self.fields[SETTLING:])


@dataclass(slots=True, kw_only=True)
class WarmReport:
    """What one clip under one deformation showed.

    clear: frames that can be registered: undeformed, the cold field is trusted, and within GOOD_PX of the
    clip's.
    unregistered: error of no displacement. claims: (confidence, whether the error was below GOOD_PX) of all
    that the registrar said. column: one pixel column over time, cold above warm, uint8 (2 H, frames).
    right_start, wrong_start: errors of one refinement from the truth, and from its opposite.
    same_frame: error of the field in use against the one in use in the same frame undeformed.
    """

    name: str
    deformation_px: float
    drifting: bool
    clear: npt.NDArray[np.bool_]
    column: Image8
    cold: Way = field(default_factory=Way)
    equal: Way = field(default_factory=Way)
    refined: Way = field(default_factory=Way)
    in_use: Way = field(default_factory=Way)
    unregistered: list[float] = field(default_factory=list)
    status: list[Status] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    claims: list[tuple[float, bool]] = field(default_factory=list)
    right_start: list[float] = field(default_factory=list)
    wrong_start: list[float] = field(default_factory=list)
    same_frame: list[float] = field(default_factory=list)

    @property
    def obscured(self) -> npt.NDArray[np.bool_]:
        """Frames that cannot be registered, once the clip has had one that can."""
        return ~self.clear & (np.cumsum(self.clear) > 0)

    @property
    def ok_share(self) -> float:
        """Of the clear frames."""
        return float(np.mean(np.asarray([s is Status.OK for s in self.status])[self.clear]))

    @property
    def worst_harm_px(self) -> float:
        """Most that a frame in use was worse than unregistered; negative: every frame was better."""
        return float(np.max(np.asarray(self.in_use.errors) - np.asarray(self.unregistered)))


def measure(
    footage: Footage,
    registrar: Registrar,
    *,
    seed: int,
    drifting: bool = False,
    options: TemporalOptions | None = None,
    clock: Clock | None = None,
) -> WarmReport:
    """Put a deformation drawn by `seed` on a clip and measure every way of working.

    Raises:
        DataError: the clip has fewer than two frames, or none of the undeformed ones can be registered.
    """
    if len(footage.pairs) < 2:
        raise DataError(
            f"{footage.name}: frames of both clips at one time: {len(footage.pairs)}; at least 2 are needed"
        )
    options = options or TemporalOptions()
    added = Added(footage.shape, seed=seed, drifting=drifting, frames=len(footage.pairs))
    own = _Own(footage, registrar, options)
    rows, telling = footage.shape[0], _telling_column(footage.pairs[0][0])
    report = WarmReport(
        name=footage.name,
        deformation_px=added.length,
        drifting=drifting,
        clear=own.clear,
        column=np.zeros((2 * rows, len(footage.pairs)), np.uint8),
    )
    state = TemporalRegistration(options, calibrated=True)
    every = max(1, int(own.clear.sum()) // STARTS)
    for number, (ir, vis) in enumerate(footage.pairs):
        moved, valid = added.deformed(ir, number)
        passes = _Passes(registrar, moved, vis, valid, clock or RealClock())
        undone = added.undone(number)
        truth_cold = own.expected(number, undone, warm=False)
        truth_warm = own.expected(number, undone, warm=True)
        cold = _keep(report.cold, passes(None), truth_cold, passes)
        _keep(report.equal, passes(identity(Status.OK, "")), truth_cold, passes)
        report.claims.append((cold.confidence, own.followed(undone, warm=False).good(cold)))
        passes.warm.clear()
        used = _step(state, passes, number)
        report.in_use.fields.append(truth_warm.at(used))
        report.in_use.errors.append(truth_warm.error(used))
        report.same_frame.append(own.of_frame(number, undone).error(used))
        for refined, took_ms in passes.warm:
            report.refined.errors.append(truth_warm.error(refined))
            report.refined.took_ms.append(took_ms)
            report.claims.append((refined.confidence, own.followed(undone, warm=True).good(refined)))
        report.status.append(used.status)
        report.events.update(used.events)
        report.unregistered.append(truth_warm.error(identity(Status.OFF, "")))
        report.column[:rows, number] = _column(moved, cold, telling)
        report.column[rows:, number] = _column(moved, used, telling)
        if own.clear[number] and own.clear[:number].sum() % every == 0:
            for errors, start in ((report.right_start, undone), (report.wrong_start, -undone)):
                prior = Registration(status=Status.OK, confidence=0.9, flow=start)
                errors.append(truth_cold.error(passes(prior)))
    return report


class _Passes:
    """The registrar on one frame; remembers what it found warm and how long each pass took."""

    def __init__(
        self, registrar: Registrar, ir: Image8, vis: Image8, valid: Mask | None, clock: Clock
    ) -> None:
        self.ir, self.vis, self.valid = ir, vis, valid
        self.warm: list[tuple[Registration, float]] = []
        self.took_ms = 0.0
        self._registrar, self._clock = registrar, clock

    def __call__(self, prior: Registration | None) -> Registration:
        started = self._clock.now_ns()
        found = self._registrar.register(self.ir, self.vis, valid=self.valid, prior=prior)
        self.took_ms = (self._clock.now_ns() - started) / NS_PER_MS
        if prior is not None:
            self.warm.append((found, self.took_ms))
        return found

    def search(self) -> Search:
        return search(self._registrar, self.ir, self.vis, valid=self.valid)


@dataclass(frozen=True, slots=True)
class _Truth:
    """What should be found in one frame at the places, and where that is known."""

    places: Flow
    field: Flow
    holds: npt.NDArray[np.bool_]
    unit: float

    def at(self, registration: Registration) -> Flow:
        return field_at(registration, self.places)

    def error(self, registration: Registration) -> float:
        return float(np.linalg.norm(self.at(registration) - self.field, axis=-1)[self.holds].mean())

    def good(self, registration: Registration) -> bool:
        return self.error(registration) < GOOD_PX * self.unit


def _keep(way: Way, found: Registration, truth: _Truth, passes: _Passes) -> Registration:
    way.fields.append(truth.at(found))
    way.errors.append(truth.error(found))
    way.took_ms.append(passes.took_ms)
    return found


def _step(state: TemporalRegistration, passes: _Passes, number: int) -> Registration:
    t_ns = number * FRAME_NS
    state.look(passes.ir, passes.vis, t_ns=t_ns, epochs=(0, 0))
    return state.register(passes.ir, passes.vis, passes, passes.search, t_ns=t_ns, valid=passes.valid)


class _Own:
    """What the registrar makes of the undeformed clip, cold and in time; or the truth."""

    def __init__(self, footage: Footage, registrar: Registrar, options: TemporalOptions) -> None:
        self._truth, self._places = footage.truth, places(footage.shape)
        self._unit = max(footage.shape) / 640
        state = TemporalRegistration(options, calibrated=True)
        cold, warm, sound = [], [], []
        for number, (ir, vis) in enumerate(footage.pairs):
            passes = _Passes(registrar, ir, vis, None, RealClock())
            found, used = passes(None), _step(state, passes, number)
            cold.append(field_at(found, self._places))
            warm.append(field_at(used, self._places))
            sound.append(found.status is Status.OK and found.confidence >= options.regain_confidence)
        if not any(sound):
            raise DataError(f"{footage.name}: no frame can be registered: nothing to compare with")
        self._cold, self._warm = (_median(fields, sound) for fields in (cold, warm))
        self._in_use = warm
        off = np.linalg.norm(np.stack(cold) - self._cold, axis=-1).mean(axis=(1, 2))
        self.clear = np.asarray(sound) & (off < GOOD_PX * self._unit)

    def expected(self, number: int, undone: Flow, *, warm: bool) -> _Truth:
        """What should be found in frame `number` once deformed, when `undone` undoes the deformation."""
        if not self._truth:
            return self.followed(undone, warm=warm)
        return self._deformed(undone, *self._truth[number])

    def followed(self, undone: Flow, *, warm: bool) -> _Truth:
        """The same relative to the registrar's own field of the undeformed clip."""
        return self._everywhere(undone, self._warm if warm else self._cold)

    def of_frame(self, number: int, undone: Flow) -> _Truth:
        """The same relative to the field in use in frame `number` undeformed."""
        return self._everywhere(undone, self._in_use[number])

    def _everywhere(self, undone: Flow, own: Flow) -> _Truth:
        return self._deformed(undone, own, np.ones(own.shape[:2], bool))

    def _deformed(self, undone: Flow, own: Flow, holds: npt.NDArray[np.bool_]) -> _Truth:
        expected = np.asarray(own + sample(undone, self._places + own), np.float32)
        return _Truth(self._places, expected, holds, self._unit)


def _median(fields: Sequence[Flow], sound: Sequence[bool]) -> Flow:
    return np.asarray(np.median(np.stack(fields)[np.asarray(sound)], axis=0), np.float32)


def _telling_column(ir: Image8) -> int:
    """The column in the middle half of a picture with the most edges across it."""
    middle = slice(ir.shape[1] // 4, -(ir.shape[1] // 4))
    edges = np.abs(cv2.Sobel(ir, cv2.CV_32F, 0, 1)).sum(axis=0)
    first: int = ir.shape[1] // 4
    return first + int(np.argmax(edges[middle]))


def _column(ir: Image8, registration: Registration, x: int) -> Image8:
    """Column x of the registered infrared, uint8 (H,)."""
    rows = np.arange(ir.shape[0], dtype=np.float32)
    at = np.stack([np.full_like(rows, x), rows], axis=-1)[:, None]
    return np.asarray(sample(ir, at + field_at(registration, at)), np.uint8)[:, 0]
