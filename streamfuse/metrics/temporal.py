"""How steady a fused clip is.

A fused picture may change where the scene moved, not where it only flickers. The visible clip tells the
motion: a light flow (OpenCV DIS) carries the previous fused picture to the present one, pixels that
appeared or went are masked by a forward-backward check, and what differs then is the warped-frame error
(Lai et al. 2018; TemCoCo's flowD is the same idea with a learned flow and without the mask). As any
picture with noise or imperfect flow has some, it is set in proportion to the same error of the pixel-wise
maximum of the same inputs.
Pictures are 8-bit grey (H, W) of one size; errors are in grey levels.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.errors import DataError
from streamfuse.frame import Flow, Image8
from streamfuse.metrics.picture import Grey, pictures
from streamfuse.metrics.registration import dense_flow, pulled
from streamfuse.sampling import positions_of, pull_map

# Sundaram, Brox, Keutzer 2010: a flow vector holds when it comes back to within
# |f + b|^2 < 0.01 (|f|^2 + |b|^2) + 0.5.
ROUND_TRIP_SLOPE = 0.01
ROUND_TRIP_OFFSET = 0.5

STILL = 1e-9
"""Mean error below which a clip counts as perfectly steady, grey levels."""


@dataclass(frozen=True, slots=True)
class Motion:
    """Visible motion between two frames.

    flow: pull field of the present frame into the previous one, float32 (H, W, 2).
    seen: bool (H, W), pixels visible in both.
    """

    flow: Flow
    seen: npt.NDArray[np.bool_]


def visible_motion(previous: Grey, present: Grey) -> Motion:
    """Motion of the visible clip from its previous to its present frame. Sides >= 16."""
    before, now = pictures(previous, present, min_side=16)
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    back = dense_flow(dis, now.pixels, before.pixels)
    forth = pulled(dense_flow(dis, before.pixels, now.pixels), back)
    miss = np.sum((back + forth) ** 2, axis=-1)
    length = np.sum(back**2 + forth**2, axis=-1)
    _, inside = pull_map(before.pixels, positions_of(back))
    return Motion(back, (inside > 0) & (miss < ROUND_TRIP_SLOPE * length + ROUND_TRIP_OFFSET))


def warped_error(previous: Grey, present: Grey, motion: Motion) -> float:
    """Mean absolute difference between a frame and its motion-compensated predecessor over the pixels
    seen in both; 0 when there are none."""
    before, now = pictures(previous, present)
    if now.shape != motion.seen.shape:
        raise DataError(f"the motion is {motion.seen.shape}, the pictures are {now.shape}")
    if not motion.seen.any():
        return 0.0
    carried = pulled(before.pixels.astype(np.float32), motion.flow)
    return float(np.abs(now.pixels - carried)[motion.seen].mean())


def variation_difference(previous_a: Grey, a: Grey, previous_b: Grey, b: Grey) -> float:
    """Mean |(a_t - a_(t-1)) - (b_t - b_(t-1))|: whether two clips change in the same way (VideoFusion's
    variation consistency, TC), grey levels."""
    one = [picture.pixels.astype(np.int16) for picture in pictures(previous_a, a, previous_b, b)]
    return float(np.abs((one[1] - one[0]) - (one[3] - one[2])).mean())


def luma_jitter(means: Iterable[float]) -> float:
    """Mean absolute step of the frames' mean luma, grey levels; 0 for fewer than two frames."""
    steps = np.abs(np.diff(np.fromiter(means, dtype=np.float64)))
    return float(steps.mean()) if steps.size else 0.0


def displacement_jitter(fields: Iterable[Flow]) -> float:
    """Mean length of the step between successive displacement fields, px, for a static scene, where every
    step is noise. Each field (H, W, 2); 0 for fewer than two."""
    steps = []
    previous: Flow | None = None
    for field in fields:
        if previous is not None:
            if field.shape != previous.shape:
                raise DataError(f"displacement fields change size: {previous.shape}, then {field.shape}")
            steps.append(float(np.hypot(*np.moveaxis(field - previous, -1, 0)).mean()))
        previous = field
    return float(np.mean(steps)) if steps else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Steadiness:
    """Temporal measures of one fused clip; all lower is better, all 0 for a clip of one frame.

    warp_error: mean warped-frame error. warp_error_ratio: that over the same of max(ir, vis); 1 when
    neither has any, and when only the maximum is perfectly steady the error itself stands.
    luma_jitter: mean step of mean luma.
    tc: TC(fused, vis) + TC(fused, ir).
    """

    frames: int
    warp_error: float
    warp_error_ratio: float
    luma_jitter: float
    tc: float


class SteadinessMeter:
    """Measures several fused clips of the same inputs frame by frame, in constant memory.

    Motion and the reference error are computed once a frame, however many methods are measured.
    """

    def __init__(self) -> None:
        self._previous: tuple[Image8, Image8, dict[str, Image8]] | None = None
        self._reference = 0.0
        self._errors: dict[str, float] = {}
        self._tc: dict[str, float] = {}
        self._means: dict[str, list[float]] = {}

    def add(self, ir: Image8, vis: Image8, fused: dict[str, Image8], *, motion: Motion | None = None) -> None:
        """The next frame.

        Args:
            ir, vis: as they went into the fusion, uint8 (H, W).
            fused: the fused picture of each method, uint8 (H, W).
            motion: visible motion from the frame before, when already known.

        Raises:
            DataError: sizes differ, or the methods are not those of the frame before.
        """
        pictures(ir, vis, *fused.values())
        if self._previous is None:
            self._errors = dict.fromkeys(fused, 0.0)
            self._tc = dict.fromkeys(fused, 0.0)
            self._means = {name: [] for name in fused}
        elif fused.keys() != self._errors.keys():
            raise DataError(f"methods changed within a clip: {sorted(self._errors)}, then {sorted(fused)}")
        for name, picture in fused.items():
            self._means[name].append(float(picture.mean()))
        if self._previous is not None:
            ir_before, vis_before, fused_before = self._previous
            if motion is None:
                motion = visible_motion(vis_before, vis)
            self._reference += warped_error(np.maximum(ir_before, vis_before), np.maximum(ir, vis), motion)
            for name, picture in fused.items():
                before = fused_before[name]
                self._errors[name] += warped_error(before, picture, motion)
                self._tc[name] += variation_difference(before, picture, vis_before, vis)
                self._tc[name] += variation_difference(before, picture, ir_before, ir)
        self._previous = (ir, vis, dict(fused))

    def result(self) -> dict[str, Steadiness]:
        """The measures of each method so far."""
        return {name: self._steadiness(name) for name in self._errors}

    def _steadiness(self, name: str) -> Steadiness:
        frames = len(self._means[name])
        steps = max(frames - 1, 1)
        error, reference = self._errors[name] / steps, self._reference / steps
        if reference > STILL:
            error_ratio = error / reference
        elif error > STILL:
            error_ratio = error
        else:
            error_ratio = 1.0
        return Steadiness(
            frames=frames,
            warp_error=error,
            warp_error_ratio=error_ratio,
            luma_jitter=luma_jitter(self._means[name]),
            tc=self._tc[name] / steps,
        )
