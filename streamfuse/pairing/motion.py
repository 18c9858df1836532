"""Infrared brought to the time of the visible picture by motion.

Problem. Under 30 Hz visible video a 9 or 10 Hz infrared core is up to 100 ms old, and what moves has left a
ghost beside itself; a clock offset of part of a frame does the same on a smaller scale.

Design. Two fields say where what is seen now was when the infrared was taken: the visible motion since then
(real information, but blind at night and fooled by smoke), and the infrared's own motion over its last
interval, going on as it did (blind to what changes its mind). Neither is believed untried. When an infrared
frame arrives, both are asked to predict it from the one before; where a prediction is clearly better than
having held that one, and the infrared changed in a way that motion explains, it is used until the next
arrives, the better of the two at each place. Everywhere else the infrared is held, so a static scene cannot
wobble.
Fields are pull fields in visible geometry, found on small pictures; they join the one warp of the raw one.

Trade-off. Holding where a flow does not come back to its start (the usual answer to occlusion) was tried and
is worse: in the strip that a mover uncovers, held infrared shows the mover, while the mover's own motion
carried over that strip shows the background beside it. The first compensation needs three infrared frames;
one that starts, stops or turns is wrong until the next infrared frame shows it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.clock import NS_PER_MS
from streamfuse.flow import matrix_flow, pull_flow, resample
from streamfuse.frame import Flow, Frame, FramePair, Image8, Registration, Status
from streamfuse.sampling import is_identity, positions_of, pull_map, resize_matrix

Mode = Literal["causal", "interpolate"]
ToVisible = Callable[[Image8], Image8]
Plane = npt.NDArray[np.float32]

WORK_WIDTH = 256
"""Columns of the small pictures. On rendered scenes 320 gave the same error for half as much time again."""
FINEST_SCALE = 1
"""DIS stops at half the small picture's size: 1.4 ms; going to 0 takes 4 times that for the last 10 %."""
WINDOW = 13
"""Side of the box over which predictions are compared: a person's width in small pixels."""
GAIN = 0.8
"""A prediction counts when it leaves at most this share of the error of holding: rather hold than guess."""
SEEN_LEVELS = 3.0
"""Grey levels of change below which nobody sees anything to be compensated."""
NOISE_WINDOW = 3
"""Side of the box that takes the pixel noise out of a change."""
MIN_SPAN_NS = 4 * NS_PER_MS
"""Nearer partners are simultaneous: a walker at 100 px/s has moved 0.4 px."""
MAX_SPAN_NS = 250 * NS_PER_MS
"""Further away motion is guesswork: half a step of a walker takes this long."""
MAX_INTERVAL_NS = 400 * NS_PER_MS
"""Infrared frames further apart (a shutter event, an outage) teach nothing about motion."""
MAX_STRETCH = 1.6
"""How far motion is carried beyond the time it was seen over, in units of it: as long as infrared is held."""
MAX_SHIFT = 0.125
"""Displacement, as a share of the width, beyond which a motion is taken for a mistake of the flow."""
STILL_PX = 0.05
"""Small pixels; less than that everywhere is no compensation."""
HISTORY = 32
"""Small visible pictures kept: half a second at 60 fps, 1.5 MB."""
MIN_SIDE = 32
"""Of a small picture: below, the flow has no room for its patches."""


@dataclass(frozen=True, slots=True)
class Part:
    """An infrared frame, where to pull it from, and its weight in the result.

    flow: float32 (h, w, 2) pull field in visible geometry, of the small picture and in its pixels.
    """

    ir: Frame
    flow: Flow
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Compensation:
    """How the infrared of a pair is brought to the visible time.

    parts: one, or the two frames around that time; weights sum to 1. over_ns: the time bridged, from the
    nearest infrared frame used. share: 0..1 of the picture that moves.
    """

    mode: Mode
    parts: tuple[Part, ...]
    over_ns: int
    share: float

    def describe(self) -> dict[str, object]:
        """For headers and logs."""
        return {"mode": self.mode, "over_ns": self.over_ns, "share": round(self.share, 4)}


@dataclass(frozen=True, slots=True)
class _Still:
    """A small visible picture and its time."""

    t: int
    image: Image8


@dataclass(frozen=True, slots=True)
class _Learnt:
    """What an infrared frame taught, in visible geometry; arrays of the small shape.

    motion: pull field from it into the one before, `span_ns` earlier. moving: 1 where it changed over that
    time in a way that motion explains, else 0. held, visible, own: error of predicting it by holding, by
    visible motion, by infrared motion (None: not tried), grey levels.
    """

    span_ns: int
    motion: Flow
    moving: Plane
    held: Plane
    visible: Plane | None
    own: Plane | None


@dataclass(slots=True)
class _Infrared:
    """A small infrared picture as the rig calibration brings it into visible geometry, on the visible time
    line, and what it taught (None: it was the first one)."""

    frame: Frame
    t: int
    image: Image8
    learnt: _Learnt | None = None


class MotionCompensator:
    """Keeps a few small pictures and says how to move the infrared. One thread uses it; pairs in order.

    It sleeps, at no cost, until a pair comes whose frames are not simultaneous.

    Args:
        mode: causal: from what is known at the visible time; interpolate: between two infrared frames where
            the later one is known, else causal.
    """

    def __init__(self, mode: Mode) -> None:
        self._mode: Mode = mode
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._dis.setFinestScale(FINEST_SCALE)
        self._awake = False
        self._visible: deque[_Still] = deque(maxlen=HISTORY)
        self._infrared: _Infrared | None = None
        self._previous: _Infrared | None = None
        self._next: _Infrared | None = None
        self._epochs: tuple[int, int] | None = None

    def reset(self) -> None:
        """Forget all pictures."""
        self._visible.clear()
        self._infrared = self._previous = self._next = None

    def wakes(self, pair: FramePair) -> bool:
        """Whether `compensate` looks at the pictures of this pair."""
        self._awake = self._awake or (pair.ir is not None and abs(pair.dt_ns) >= MIN_SPAN_NS)
        return self._awake

    def compensate(
        self,
        pair: FramePair,
        y: Image8,
        registration: Registration,
        to_visible: ToVisible,
    ) -> Compensation | None:
        """How to bring the infrared of `pair` to its visible time; None: leave it as it is.

        Args:
            y: luma of the visible picture, uint8 (H, W).
            registration: what the calibration leaves, for this pair; `off`: there is nothing to move.
            to_visible: brings an infrared picture into visible geometry, by the rig calibration.
        """
        ir, bridged = pair.ir, abs(pair.dt_ns)
        if ir is None or not self.wakes(pair) or registration.status is Status.OFF:
            return None
        epochs = (ir.epoch, pair.vis.epoch)
        now = _Still(pair.vis.t_capture, _small(y))
        if min(now.image.shape) < MIN_SIDE:
            return None
        if epochs != self._epochs or (self._visible and now.t <= self._visible[-1].t):
            self.reset()
        self._epochs = epochs
        self._visible.append(now)
        displacement = _small_displacement(registration, y.shape, now.image.shape)
        newest = self._infrared
        if newest is None or newest.frame.seq != ir.seq:
            newest = _Infrared(ir, now.t + pair.dt_ns, _small(to_visible(ir.image)))
            self._take(newest, displacement)
        if not MIN_SPAN_NS <= bridged <= MAX_SPAN_NS:
            return None
        if self._mode == "interpolate":
            between = self._between(pair, newest, to_visible, displacement)
            if between is not None:
                return between
        if newest.learnt is None:
            return None
        flow = self._causal(now, newest.t, newest.learnt)
        share = _moved_share(flow)
        return Compensation("causal", (Part(ir, flow),), bridged, share) if share else None

    # -- what is to be believed ----------------------------------------------------------------

    def _take(self, newest: _Infrared, displacement: Flow | None) -> None:
        """A new infrared frame: try both motions on the interval that it closes."""
        before, self._infrared = self._infrared, newest
        usable = before is not None and 0 < newest.t - before.t <= MAX_INTERVAL_NS
        self._previous = before if usable else None
        if self._previous is not None:
            newest.learnt = self._learn(newest, self._previous, displacement)

    def _learn(self, newest: _Infrared, before: _Infrared, displacement: Flow | None) -> _Learnt:
        now, old = _pull(newest.image, displacement), _pull(before.image, displacement)
        span = newest.t - before.t
        motion = self._flow(now, old)
        seen = _error(old, now, NOISE_WINDOW)
        unexplained = _error(_pull(old, motion), now, NOISE_WINDOW)
        moving = ((seen > SEEN_LEVELS) & (unexplained < GAIN * seen)).astype(np.float32)
        visible = own = None
        if moving.any():
            at, earlier = self._nearest_visible(newest.t), before.learnt
            if at is not None:
                visible = self._visible_motion(at, newest.t, before.t)
            if earlier is not None and span <= MAX_STRETCH * earlier.span_ns:
                own = _carried(earlier.motion, span / earlier.span_ns)
        return _Learnt(
            span_ns=span,
            motion=motion,
            moving=moving,
            held=_error(old, now),
            visible=None if visible is None else _error(_pull(old, visible), now),
            own=None if own is None else _error(_pull(old, own), now),
        )

    def _causal(self, now: _Still, t_ir: int, learnt: _Learnt) -> Flow:
        """At each place the motion that predicted best, zero where that is holding."""
        candidates: list[tuple[Flow, Plane]] = []
        if learnt.visible is not None:
            seen = self._visible_motion(now, now.t, t_ir)
            if seen is not None:
                candidates.append((seen, learnt.visible))
        ahead = (now.t - t_ir) / learnt.span_ns
        if learnt.own is not None and abs(ahead) <= MAX_STRETCH:
            candidates.append((_carried(learnt.motion, ahead), learnt.own))
        result = np.zeros((*now.image.shape, 2), np.float32)
        least = np.full(now.image.shape, np.inf, np.float32)
        longest = MAX_SHIFT * now.image.shape[1]
        for flow, error in candidates:
            # Looked up where the pixel was when the trial was made.
            trial = pull_flow(_stacked(error, learnt.held, learnt.moving), flow)
            expected, holding, moving = cv2.split(trial)
            use = (expected < GAIN * holding) & (expected < least)
            use &= (learnt.moving > 0) | (moving > 0.5)
            use &= _within(flow, longest)
            cv2.copyTo(flow, use.view(np.uint8), result)
            least = np.where(use, expected, least)
        return result

    # -- motion --------------------------------------------------------------------------------

    def _flow(self, a: Image8, b: Image8) -> Flow:
        """a(p) = b(p + flow(p))."""
        return np.asarray(self._dis.calc(a, b, None))  # type: ignore[call-overload]  # the stub denies None

    def _nearest_visible(self, t: int, *, other_than: _Still | None = None) -> _Still | None:
        others = (still for still in self._visible if still is not other_than)
        return min(others, key=lambda still: abs(still.t - t), default=None)

    def _visible_motion(self, at: _Still, t: int, wanted: int) -> Flow | None:
        """Pull field of the visible frame `at` over the time from `t` to `wanted`; None: no frame seen near
        enough to `wanted` to tell."""
        seen = self._nearest_visible(wanted, other_than=at)
        if seen is None:
            return None
        stretch = (wanted - t) / (seen.t - at.t)
        if abs(stretch) > MAX_STRETCH:
            return None
        return self._flow(at.image, seen.image) * np.float32(stretch)

    # -- between two infrared frames -----------------------------------------------------------

    def _between(
        self,
        pair: FramePair,
        newest: _Infrared,
        to_visible: ToVisible,
        displacement: Flow | None,
    ) -> Compensation | None:
        """Both infrared neighbours of the visible time, each moved to it, mixed by nearness."""
        first, second = newest, self._next
        if pair.dt_ns > 0:
            if self._previous is None:
                return None
            first, second = self._previous, newest
        elif pair.ir_after is None:
            return None
        elif second is None or second.frame is not pair.ir_after:
            after = pair.ir_after
            t_after = after.t_capture + pair.offset_ns
            second = self._next = _Infrared(after, t_after, _small(to_visible(after.image)))
        t, span = pair.vis.t_capture, second.t - first.t
        if not first.t < t < second.t or span > MAX_INTERVAL_NS:
            return None
        a, b = _pull(first.image, displacement), _pull(second.image, displacement)
        forth, back = self._flow(a, b), self._flow(b, a)
        # Linear motion through both flows, each weighted by the nearness of the frame it starts from
        # (Super SloMo, Jiang et al. 2018, equation 4).
        s = (t - first.t) / span
        near, far = np.float32(1 - s), np.float32(s)
        to_first, to_second = far * far * back - near * far * forth, near * near * forth - near * far * back
        seen = (_error(a, b, NOISE_WINDOW) > SEEN_LEVELS).astype(np.float32)
        moving = (seen > 0) | (pull_flow(seen, to_first) > 0.5) | (pull_flow(seen, to_second) > 0.5)
        for flow in (to_first, to_second):
            flow[~(moving & _within(flow, MAX_SHIFT * flow.shape[1]))] = 0
        share = max(_moved_share(to_first), _moved_share(to_second))
        parts = Part(first.frame, to_first, 1 - s), Part(second.frame, to_second, s)
        return Compensation("interpolate", parts, min(t - first.t, second.t - t), share)


def small_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of the small pictures of pictures of `shape`: at most WORK_WIDTH wide."""
    height, width = shape
    if width <= WORK_WIDTH:
        return shape
    return max(1, round(height * WORK_WIDTH / width)), WORK_WIDTH


def _small(image: Image8) -> Image8:
    shape = small_shape((image.shape[0], image.shape[1]))
    if shape == image.shape:
        return image
    return np.asarray(cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def _small_displacement(
    registration: Registration, shape: tuple[int, ...], small: tuple[int, ...]
) -> Flow | None:
    """The residual for small pictures; None: none."""
    if registration.matrix is None:
        assert registration.flow is not None
        return resample(registration.flow, (small[0], small[1]))
    if is_identity(registration.matrix):
        return None
    to_full = resize_matrix((shape[1], shape[0]), (small[1], small[0]))
    return matrix_flow(np.linalg.inv(to_full) @ registration.matrix @ to_full, (small[0], small[1]))


def _pull(image: Image8, flow: Flow | None) -> Image8:
    """image(p + flow(p)), border replicated; no flow: `image` itself."""
    return image if flow is None else pull_map(image, positions_of(flow))[0]


def _error(a: Image8, b: Image8, window: int = WINDOW) -> Plane:
    """Mean absolute difference over a box around each pixel."""
    mean = cv2.boxFilter(cv2.absdiff(a, b), cv2.CV_32F, (window, window))
    return np.asarray(mean, np.float32)


def _carried(motion: Flow, factor: float) -> Flow:
    """A pull field of one time, as it is seen `factor` of its span later: what is here now was elsewhere, so
    its motion is looked up there. (One step: more changed nothing.)"""
    scaled = motion * np.float32(factor)
    return pull_flow(scaled, scaled)


def _stacked(*planes: Plane) -> Plane:
    return np.asarray(cv2.merge(planes), np.float32)


def _within(flow: Flow, limit: float) -> npt.NDArray[np.bool_]:
    """Where both components are at most `limit` long."""
    return np.asarray(cv2.inRange(flow, (-limit, -limit), (limit, limit)) > 0)


def _moved_share(flow: Flow) -> float:
    """Share of the pixels that a field moves visibly."""
    still = cv2.inRange(flow, (-STILL_PX, -STILL_PX), (STILL_PX, STILL_PX))
    return 1.0 - cv2.countNonZero(still) / still.size
