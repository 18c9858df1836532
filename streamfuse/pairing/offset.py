"""How much later the same event is stamped in the visible stream than in the infrared one.

Problem. Two cameras that nobody synchronised have clocks, delays and rates of their own, and no frame of one
is simultaneous with a frame of the other. How much moves in each picture, one number a frame, has its best
correlation at a wrong lag on most real clips.

Design. The *maps* of what changes (`activity`) are correlated at every lag within reach, one block of about a
second after the other (`correlation`). As openpilot's lag estimator does, blocks are averaged, and an
estimate is accepted only if they agree: something must have moved, one peak must stand out, most blocks must
have theirs there. The uncertainty is what leaving out one block after the other changes.

Trade-off. A scene in which nothing moves has no offset, and the answer then is none, not 0. What moves past
two cameras side by side is seen at another place by the second one: parallax that registration leaves looks
like a delay of (that distance) / (its speed), and only traffic in both directions cancels it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil
from typing import Any

import numpy as np

from streamfuse.clock import NS_PER_S
from streamfuse.pairing.correlation import LAG_STEP_S, Array, Block

MIN_BLOCKS = 3
"""Fewer cannot outvote one that is wrong."""
MIN_BLOCK_CORRELATION = 0.2
"""Streams of different scenes reach 0.27 at their best lag in one block in ten; those of one scene lie above
0.3 unless something (smoke, darkness) hides it from one camera, and such blocks are better left out."""
MIN_CORRELATION = 0.25
"""Of the blocks together: rendered scenes reach 0.34 at least."""
MIN_CONTRAST = 1.5
"""The peak over the highest correlation elsewhere."""
MIN_ACCEPTED = 0.5
"""Share of the active blocks that must be accepted: one car in each of two scenes looks like the same car for
as long as it passes."""
MIN_AGREEING = 0.6
"""Share of the accepted blocks whose own peak must lie within the common one."""
WINDOW_BLOCKS = 20
"""Active blocks that make one estimate: enough to average, few enough to follow clocks that drift apart by 2
ms a second, as cheap cameras do."""
DRIFT_KNOWN_PPM = 300.0
"""A drift known worse than this (a standard deviation) is not told: it is of the size of drifts
themselves."""
OUTLIER = 3.0
"""Standard deviations, from the median of distances, from which a block does not count for the drift."""
LOBE_SHARE = 0.5
"""The peak reaches as far as the correlation stays above this share of it, or goes on falling."""
MAX_UNCERTAINTY_PERIODS = 0.5
"""Of the slower stream: an estimate less certain than that does not choose between two frames."""
LEAST_UNCERTAINTY_PERIODS = 0.03
"""Of the slower stream: exposure times and rolling shutters are not in the stamps."""


class OffsetStatus(StrEnum):
    """What is known of the offset."""

    OK = "ok"
    UNOBSERVABLE = "unobservable"
    """Nothing moves, or too little."""
    AMBIGUOUS = "ambiguous"
    """Things move, but the two streams do not agree on one lag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockOffset:
    """What one block says for itself. offset_s: None where it says nothing. correlation: at its peak."""

    t_s: float
    offset_s: float | None
    correlation: float
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetEstimate:
    """What a stretch of video says about the offset.

    offset_s: positive, the same event is later in the visible; None unless `status` is ok. uncertainty_s: one
    standard deviation, from leaving out one block after the other. t_s: the time the estimate stands for.
    correlation, contrast: of the peak. active: blocks in which something moved.
    """

    status: OffsetStatus
    reason: str
    t_s: float
    offset_s: float | None = None
    uncertainty_s: float | None = None
    correlation: float = 0.0
    contrast: float = 0.0
    active: int = 0
    blocks: tuple[BlockOffset, ...] = ()


def estimate_offset(blocks: Sequence[Block], lags: Array) -> OffsetEstimate:
    """What some blocks say together. Pure.

    Args:
        blocks: of one `OffsetEstimator`, any number.
        lags: its `lags`.
    """
    if not blocks:
        return OffsetEstimate(
            status=OffsetStatus.UNOBSERVABLE,
            reason="there is no second in which both streams show new pictures",
            t_s=0.0,
        )
    t_s = float(np.mean([block.t_s for block in blocks]))
    active = [block for block in blocks if block.active]
    own = {id(block): _own_peak(block, lags) for block in active}

    def result(status: OffsetStatus, reason: str, **known: Any) -> OffsetEstimate:
        course = []
        for block in blocks:
            at, height = own.get(id(block), (0.0, 0.0))
            told = status is OffsetStatus.OK and height >= MIN_BLOCK_CORRELATION
            course.append(
                BlockOffset(
                    t_s=block.t_s, offset_s=at if told else None, correlation=height, active=block.active
                )
            )
        return OffsetEstimate(
            status=status, reason=reason, t_s=t_s, active=len(active), blocks=tuple(course), **known
        )

    if len(active) < MIN_BLOCKS:
        return result(
            OffsetStatus.UNOBSERVABLE,
            f"something moves in both pictures in {len(active)} of {len(blocks)} seconds, "
            f"{MIN_BLOCKS} are needed",
        )
    accepted = [block for block in active if own[id(block)][1] >= MIN_BLOCK_CORRELATION]
    needed = max(MIN_BLOCKS, ceil(MIN_ACCEPTED * len(active)))
    if len(accepted) < needed:
        return result(
            OffsetStatus.AMBIGUOUS,
            f"what moves in one picture is found in the other one, at any lag, in {len(accepted)} of "
            f"{len(active)} seconds, {needed} are needed",
        )
    curves = np.stack([block.correlation for block in accepted]).astype(np.float64)
    total = _pooled(curves)
    peak = _peak(total, lags)
    if peak is None:
        return result(OffsetStatus.AMBIGUOUS, "the best lag is at the end of the search: allow a larger one")
    place, height = peak
    low, high = _lobe(total, lags, place)
    elsewhere = np.where((lags < low) | (lags > high), total, np.nan)
    rival = max(float(np.nanmax(elsewhere, initial=-1.0)), MIN_CORRELATION / 2)
    known: dict[str, Any] = {"correlation": height, "contrast": height / rival}
    if height < MIN_CORRELATION or height / rival < MIN_CONTRAST:
        return result(
            OffsetStatus.AMBIGUOUS,
            f"no lag stands out: correlation {height:.2f} (at least {MIN_CORRELATION}), "
            f"{height / rival:.2f} times that of the next best lag (at least {MIN_CONTRAST})",
            **known,
        )
    agreeing = sum(low <= own[id(block)][0] <= high for block in accepted)
    if agreeing < max(MIN_BLOCKS, MIN_AGREEING * len(accepted)):
        return result(
            OffsetStatus.AMBIGUOUS,
            f"{agreeing} of {len(accepted)} seconds in which something moves agree on a lag",
            **known,
        )
    left_out = [_peak(_pooled(np.delete(curves, i, axis=0)), lags) for i in range(len(accepted))]
    places = np.array([np.nan if found is None else found[0] for found in left_out])
    n = len(places)
    spread = float(np.sqrt((n - 1) / n * np.sum((places - places.mean()) ** 2)))
    slower = max(block.period_s for block in accepted)
    uncertainty = float(np.hypot(spread, LEAST_UNCERTAINTY_PERIODS * slower))
    if not uncertainty <= MAX_UNCERTAINTY_PERIODS * slower:
        return result(
            OffsetStatus.AMBIGUOUS,
            f"uncertain by {uncertainty * 1000:.0f} ms, more than half a frame",
            **known,
        )
    return result(OffsetStatus.OK, "", offset_s=place, uncertainty_s=uncertainty, **known)


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetMeasurement:
    """What a whole recording says.

    overall: the offset in the middle of the recording. drift: seconds a second, None with `drift_reason`;
    drift_uncertainty: one standard deviation. windows: the estimates along the recording that are ok.
    """

    overall: OffsetEstimate
    windows: tuple[OffsetEstimate, ...]
    drift: float | None
    drift_uncertainty: float | None
    drift_reason: str

    def at(self, t_ns: int) -> int | None:
        """The offset in ns at a visible time: between windows interpolated, None when it is not known."""
        if not self.windows:
            return None
        times = [window.t_s for window in self.windows]
        offsets = [window.offset_s or 0.0 for window in self.windows]
        return round(float(np.interp(t_ns / NS_PER_S, times, offsets)) * NS_PER_S)


def measure_offset(blocks: Sequence[Block], lags: Array) -> OffsetMeasurement:
    """What all blocks of a recording say, in order of time."""
    overall = estimate_offset(blocks, lags)
    active = [block for block in blocks if block.active]
    count = max(1, len(active) // WINDOW_BLOCKS)
    parts = [active[len(active) * i // count : len(active) * (i + 1) // count] for i in range(count)]
    windows = tuple(
        estimate for part in parts if (estimate := estimate_offset(part, lags)).status is OffsetStatus.OK
    )
    if len(windows) < 2:
        # What one window can say, the overall estimate says better.
        windows = (overall,) if overall.status is OffsetStatus.OK else windows
    if not windows:
        return OffsetMeasurement(
            overall=overall, windows=(), drift=None, drift_uncertainty=None, drift_reason="no offset is known"
        )
    drift, uncertainty = _drift(windows)
    reason = ""
    if uncertainty * 1e6 > DRIFT_KNOWN_PPM:
        known = f" to {uncertainty * 1e6:.0f} ppm" if np.isfinite(uncertainty) else ""
        reason = f"the recording is too short to tell it{known}; {DRIFT_KNOWN_PPM:.0f} ppm are asked for"
    return OffsetMeasurement(
        overall=_in_the_middle(overall, windows, drift),
        windows=windows,
        drift=None if reason else drift,
        drift_uncertainty=uncertainty if np.isfinite(uncertainty) else None,
        drift_reason=reason,
    )


def _drift(windows: Sequence[OffsetEstimate]) -> tuple[float, float]:
    """(slope, its standard deviation) of the blocks' own offsets over time; infinite when there are too
    few."""
    told = [
        (block.t_s, block.offset_s, block.offset_s - (window.offset_s or 0.0))
        for window in windows
        for block in window.blocks
        if block.offset_s is not None
    ]
    t_s, offsets, distance = (np.array(column) for column in zip(*told, strict=True))
    # 1.48: from the median of distances to a standard deviation.
    near = np.abs(distance) <= OUTLIER * 1.48 * np.median(np.abs(distance)) + LAG_STEP_S
    t_s, offsets = t_s[near], offsets[near]
    spread = float(np.sum((t_s - t_s.mean()) ** 2))
    if len(t_s) < MIN_BLOCKS or spread == 0:
        return 0.0, float("inf")
    slope = float(np.sum((t_s - t_s.mean()) * offsets) / spread)
    residuals = offsets - offsets.mean() - slope * (t_s - t_s.mean())
    return slope, float(np.sqrt(np.sum(residuals**2) / (len(t_s) - 2) / spread))


def _in_the_middle(
    overall: OffsetEstimate, windows: Sequence[OffsetEstimate], drift: float
) -> OffsetEstimate:
    """The windows' offset at the middle of the recording, where drift blurs the overall estimate."""
    if len(windows) < 2:
        return windows[0] if overall.status is not OffsetStatus.OK else overall
    t_s = np.array([window.t_s for window in windows])
    weights = np.array([(window.uncertainty_s or 1.0) ** -2 for window in windows])
    at_middle = np.array([window.offset_s or 0.0 for window in windows]) - drift * (t_s - overall.t_s)
    offset = float(np.average(at_middle, weights=weights))
    scatter = float(np.average((at_middle - offset) ** 2, weights=weights)) / (len(windows) - 1)
    return replace(
        overall,
        status=OffsetStatus.OK,
        reason="",
        offset_s=offset,
        uncertainty_s=float(np.sqrt(max(scatter, 1 / weights.sum()))),
        correlation=float(np.mean([window.correlation for window in windows])),
        contrast=float(np.mean([window.contrast for window in windows])),
        blocks=tuple(block for window in windows for block in window.blocks),
    )


def _pooled(curves: Array) -> Array:
    """Mean correlation over blocks, NaN where fewer than half of them reach."""
    reach = np.count_nonzero(np.isfinite(curves), axis=0)
    total = np.nansum(curves, axis=0) / np.maximum(reach, 1)
    return np.where(reach >= len(curves) / 2, total, np.nan)


def _peak(curve: Array, lags: Array) -> tuple[float, float] | None:
    """(lag, height) of the highest value; None when it is at an end of what is known."""
    if not np.isfinite(curve).any():
        return None
    k = int(np.nanargmax(curve))
    if k in (0, len(curve) - 1) or not np.isfinite(curve[k - 1 : k + 2]).all():
        return None
    before, at, after = curve[k - 1 : k + 2]
    bend = before - 2 * at + after
    step = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return float(lags[k] + step * LAG_STEP_S), float(at)


def _own_peak(block: Block, lags: Array) -> tuple[float, float]:
    """(lag, correlation) of a block alone; correlation 0 when its best lag is at an end."""
    return _peak(block.correlation.astype(np.float64), lags) or (0.0, 0.0)


def _lobe(curve: Array, lags: Array, place: float) -> tuple[float, float]:
    """Where the peak's own hill ends on both sides: below LOBE_SHARE of it, and no longer falling."""
    k = int(np.argmin(np.abs(lags - place)))
    ends = []
    for side in (curve[k::-1], curve[k:]):
        high = np.flatnonzero(~(side > LOBE_SHARE * side[0]))
        start = int(high[0]) if len(high) else len(side) - 1
        rising = np.flatnonzero(~(np.diff(side[start:]) < 0))
        ends.append(start + (int(rising[0]) if len(rising) else len(side) - 1 - start))
    return float(lags[k - ends[0]]), float(lags[k + ends[1]])
