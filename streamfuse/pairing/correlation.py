"""How alike two streams are at every lag between them, a second of video at a time.

No stream is interpolated: every pair of activity maps speaks for its own distance in capture time, whatever
the rates and the jitter, and all pairs together are smoothed by a Gaussian wider than half the slower
stream's period (the correlation of unevenly sampled series: Rehfeld et al., Nonlin. Processes Geophys. 18,
2011). That makes a band-limited curve, whose peak is not drawn to the grid of either stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamfuse.frame import STREAMS, Frame, Stream
from streamfuse.pairing.activity import BASELINE_S, ActivityTrack, Snapshot, map_points, sampled
from streamfuse.sampling import Points, apply_matrix, resize_matrix

Array = npt.NDArray[np.float64]
Curve = npt.NDArray[np.float32]

DEFAULT_MAX_LAG_S = 1.5
"""Cameras, converters and network links of one rig differ by less; what differs by more needs `max_lag`."""
LAG_STEP_S = 0.002
"""Of the lag axis: far below what any peak can be located to."""
BLOCK_S = 1.0
"""A second holds ten pictures of a slow core, and five seconds of video have blocks enough to disagree."""
SMOOTHING_PERIODS = 0.8
"""Standard deviation of the Gaussian over lags, in periods of the slower stream: from 0.7 on, samples at any
phase add up to the same curve within 0.01 %."""
HOLD_S = 0.4
"""Standard deviation in time of the mean that a map is seen against: what stays or creeps for longer than
that has no sharp place in time."""
MIN_PAIRS_SHARE = 0.5
"""Lags that fewer pairs of maps speak for, against the best lag, are beyond the ends of the clips."""
MIN_ACTIVE_SHARE = 0.3
"""Share of a block's time in which something must have moved."""
TINY = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """About a second of infrared video against the visible one at every lag.

    t_s: its middle, by infrared stamps. correlation: normalised, float32 (lags,), NaN where a clip ends.
    active: something moved in both streams. period_s: of the slower stream.
    """

    t_s: float
    correlation: Curve
    active: bool
    period_s: float


class LagCorrelator:
    """Turns two streams of frames into blocks. One thread uses it; frames of each stream come in order.

    Args:
        max_lag_s: how far the streams may be apart.

    Attributes:
        geometry: where the cells of the common map (`map_points` of the visible size) lie in the raw infrared
            picture, float32 (rows, columns, 2); None, or of another size: both cameras see the same
            rectangle.
    """

    def __init__(self, *, max_lag_s: float = DEFAULT_MAX_LAG_S) -> None:
        self.geometry: Points | None = None
        self.lags = lag_axis(max_lag_s)
        self._max_lag_s = max_lag_s
        # A block, what it is compared with on both sides, and as much again for one stream ahead of the
        # other.
        keep_s = 2 * (BLOCK_S + 2 * self.reach_s)
        self._tracks: dict[Stream, ActivityTrack] = {stream: ActivityTrack(keep_s) for stream in STREAMS}
        self._epochs: dict[Stream, int] = {}
        self._begin_s: float | None = None

    @property
    def reach_s(self) -> float:
        """How much video around a block it is compared with."""
        return self._max_lag_s + BASELINE_S

    def add(self, frame: Frame) -> bool:
        """Take a frame. False when it began a new epoch, and all before it was forgotten."""
        same = self._epochs.setdefault(frame.stream, frame.epoch) == frame.epoch
        if not same:
            self.restart()
            self._epochs[frame.stream] = frame.epoch
        self._tracks[frame.stream].add(frame)
        return same

    def restart(self) -> None:
        """Forget all frames."""
        for track in self._tracks.values():
            track.clear()
        self._begin_s = None

    def blocks(self, *, ended: bool = False) -> list[Block]:
        """The blocks that are complete by now; with `ended`, all that is left as well."""
        found: list[Block] = []
        ir, vis = self._tracks["ir"], self._tracks["vis"]
        newest = [track.newest_s for track in (ir, vis)]
        if any(t is None for t in newest):
            return found
        if self._begin_s is None:
            assert ir.oldest_s is not None
            self._begin_s = ir.oldest_s
        while True:
            end = self._begin_s + BLOCK_S
            last = ir.newest_s or 0.0
            if ended:
                if self._begin_s >= last:
                    break
                # What is left after the last whole block is too little for one of its own.
                end = last + 1e-3 if last - end < BLOCK_S / 2 else end
            elif min(t for t in newest if t is not None) < end + self.reach_s:
                break
            block = self._block(self._begin_s, end)
            if block is not None:
                found.append(block)
            self._begin_s = end
        return found

    def _block(self, begin_s: float, end_s: float) -> Block | None:
        ir, vis = self._tracks["ir"], self._tracks["vis"]
        periods = (ir.period_s, vis.period_s)
        if periods[0] is None or periods[1] is None:
            return None
        slower = max(periods[0], periods[1])
        # Whole periods: pictures between two choices would be compared now with one, now with the other.
        baseline = max(1, round(BASELINE_S / slower)) * slower
        reach = self._max_lag_s + slower
        around_ir = ir.activity(begin_s - reach, end_s + reach, baseline)
        around_vis = vis.activity(begin_s - reach, end_s + reach, baseline)
        inside = [snapshot for snapshot in around_ir if begin_s <= snapshot.t < end_s]
        if len(inside) < 2 or len(around_vis) < 2:
            return None
        assert vis.full_size is not None
        assert ir.full_size is not None
        points = map_points(vis.full_size)
        geometry = self.geometry
        if geometry is None or geometry.shape != points.shape:
            geometry = apply_matrix(resize_matrix(ir.full_size, vis.full_size), points)
        ir_maps = _stack(inside, around_ir, geometry, ir.full_size)
        vis_maps = _stack(around_vis, around_vis, points, vis.full_size)
        ir_t = np.array([snapshot.t for snapshot in inside])
        vis_t = np.array([snapshot.t for snapshot in around_vis])
        weights = np.outer(_spans(ir_t), _spans(vis_t))
        at = (vis_t[None, :] - ir_t[:, None]).ravel()
        energy_ir = np.einsum("ip,ip->i", ir_maps, ir_maps)[:, None]
        energy_vis = np.einsum("jp,jp->j", vis_maps, vis_maps)[None, :]
        sigma = SMOOTHING_PERIODS * slower
        cross, of_ir, of_vis, pairs = (
            _over_lags(at, (weights * value).ravel(), self.lags, sigma)
            for value in (ir_maps @ vis_maps.T, energy_ir, energy_vis, np.ones((1, 1)))
        )
        known = (pairs > 0) & (pairs >= MIN_PAIRS_SHARE * pairs.max())
        correlation = cross / np.sqrt(np.maximum(of_ir * of_vis, TINY))
        moved = [sum(s.active for s in maps) for maps in (inside, around_vis)]
        enough = MIN_ACTIVE_SHARE * (end_s - begin_s)
        return Block(
            t_s=(begin_s + end_s) / 2,
            correlation=np.where(known, correlation, np.nan).astype(np.float32),
            active=bool(min(moved[0] * periods[0], moved[1] * periods[1]) >= enough),
            period_s=slower,
        )


def lag_axis(max_lag_s: float) -> Array:
    """The lags looked at, in seconds, symmetric about 0."""
    count = round(max_lag_s / LAG_STEP_S)
    return np.arange(-count, count + 1, dtype=np.float64) * np.float64(LAG_STEP_S)


def _stack(
    wanted: Sequence[Snapshot], around: Sequence[Snapshot], positions: Points, size: tuple[int, int]
) -> Curve:
    """Maps as rows, less what is there for longer than HOLD_S: float32 (len(wanted), cells)."""
    rows = np.stack([sampled(snapshot, positions, size).ravel() for snapshot in around])
    t_s = np.array([snapshot.t for snapshot in around])
    chosen = np.flatnonzero(np.isin(t_s, [snapshot.t for snapshot in wanted]))
    near = np.exp(-0.5 * ((t_s[chosen, None] - t_s[None, :]) / HOLD_S) ** 2) * _spans(t_s)[None, :]
    near /= near.sum(axis=1, keepdims=True)
    return np.asarray(rows[chosen] - near.astype(np.float32) @ rows, np.float32)


def _spans(t_s: Array) -> Array:
    """The time each of some rising moments stands for: half way to its neighbours, gaps left out."""
    steps = np.diff(t_s)
    steps = np.minimum(steps, 2 * np.median(steps))
    padded = np.concatenate([steps[:1], steps, steps[-1:]])
    return np.asarray((padded[1:] + padded[:-1]) / 2, np.float64)


def _over_lags(at: Array, values: Array, lags: Array, sigma_s: float) -> Array:
    """sum of values * Gaussian(lag - at) at each lag of an even axis."""
    margin = int(np.ceil(4 * sigma_s / LAG_STEP_S))
    count = len(lags) + 2 * margin
    place = (at - lags[0]) / LAG_STEP_S + margin
    inside = (place >= 0) & (place < count - 1)
    place, values = place[inside], values[inside]
    low = np.floor(place).astype(np.intp)
    part = place - low
    # Shared between its two neighbours, a value keeps its place exactly.
    bins = np.bincount(low, values * (1 - part), count) + np.bincount(low + 1, values * part, count)
    offsets = np.arange(-margin, margin + 1) * (LAG_STEP_S / sigma_s)
    smooth = np.convolve(bins, np.exp(-0.5 * offsets**2), mode="valid")
    return np.asarray(smooth, np.float64)
