"""When was a live picture taken: the device's stamps on the computer's clock.

Problem. Arrival is late by a delay that wobbles by tens of milliseconds; the device's own stamps are even
but on a clock with an unknown origin that runs up to 0.2 % fast or slow (webcams). Design. The delay d =
arrival - pts has one-sided noise: nothing arrives early. So the line under all points of the last seconds
that is closest to them (an edge of their lower convex hull) is the clock relation; the picture was taken a
constant latency before its place on that line. Trade-off. The constant latency itself cannot be seen from
here: it is a prior of the kind of source, or the user's figure.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from streamfuse.clock import NS_PER_MS, NS_PER_S

WINDOW_NS = 10 * NS_PER_S
"""Long enough that some packets came without queueing, short enough to follow a drift of the crystal."""
SKEW_FROM_NS = 4 * NS_PER_S
"""Over less, the wobble of the delay reads as hundreds of ppm of drift."""
MAX_SKEW = 3000e-6
"""Seen on webcams: 0.2 %. Beyond 0.3 % it is not a clock but a lie about the rate."""
REFIT_EVERY = 8
RESET_NS = 250 * NS_PER_MS
RESET_PERIODS = 3
RESET_FRAMES = 3
"""A stamp this far from the line, this many times in a row, is a new time line and no hiccup."""
ARRIVALS_KEPT = 64
ARRIVAL_GAP_NS = 2 * NS_PER_S
LATENCY_PRIOR_NS = {"v4l2": 25 * NS_PER_MS, "network": 100 * NS_PER_MS}
"""From exposure to arrival by kind of source: USB video 20 to 28 ms (measured publicly on C920 cameras);
RTSP as a middle of encoder and network queues. Zero for kinds that are not listed."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Estimated capture time, how far it may be off, and whether the device began a new time line."""

    t_capture: int
    uncertainty_ns: int
    reset: bool = False


class ClockFilter:
    """Turns (pts, arrival) into capture times that never go back within one time line.

    Attributes:
        skew_ppm: how much faster (positive) the computer's clock runs than the device's.
        residual_p95_ns: 95th percentile of how late packets arrive compared with the fastest.
    """

    def __init__(self, *, latency_ns: int) -> None:
        self._latency_ns = latency_ns
        self._reset()

    def _reset(self) -> None:
        self.skew_ppm = 0.0
        self.residual_p95_ns = 0
        self._points: deque[tuple[int, int]] = deque()
        self._arrivals: deque[int] = deque(maxlen=ARRIVALS_KEPT)
        self._since_fit = 0
        self._origin = 0
        self._offset = 0.0
        self._slope = 0.0
        self._strange = 0
        self._last_capture: int | None = None

    def update(self, pts_ns: int | None, arrival_ns: int) -> Stamp:
        """Take one frame's stamps, in the order of arrival. `pts_ns` None: the device has no clock."""
        if pts_ns is None:
            return self._from_arrival(arrival_ns)
        reset = self._breaks(pts_ns, arrival_ns)
        if reset:
            self._reset()
        delay = arrival_ns - pts_ns
        if not self._points:
            self._origin, self._offset = pts_ns, float(delay)
        previous = self._points[-1][0] if self._points else pts_ns
        self._points.append((pts_ns, delay))
        while pts_ns - self._points[0][0] > WINDOW_NS:
            self._points.popleft()
        self._since_fit += 1
        if delay < self._line(pts_ns) or self._since_fit >= REFIT_EVERY:
            self._fit(pts_ns, pts_ns - previous)
        return self._stamp(pts_ns + round(self._line(pts_ns)), self.residual_p95_ns, reset)

    def _line(self, pts_ns: int) -> float:
        return self._offset + self._slope * (pts_ns - self._origin)

    def _breaks(self, pts_ns: int, arrival_ns: int) -> bool:
        if not self._points:
            return False
        last = self._points[-1][0]
        if pts_ns <= last:
            return True
        limit = max(RESET_NS, RESET_PERIODS * self._period_ns())
        off = abs((arrival_ns - pts_ns) - self._line(pts_ns)) > limit
        self._strange = self._strange + 1 if off else 0
        return self._strange >= RESET_FRAMES

    def _period_ns(self) -> int:
        points = self._points
        return (points[-1][0] - points[0][0]) // (len(points) - 1) if len(points) > 1 else 0

    def _fit(self, pts_ns: int, step_ns: int) -> None:
        before = self._line(pts_ns)
        self._since_fit = 0
        span = self._points[-1][0] - self._points[0][0]
        if span < SKEW_FROM_NS:
            slope, offset = 0.0, float(min(delay for _, delay in self._points))
        else:
            slope, offset = _lower_line(self._points, pts_ns)
        # While little is known the line may jump down to the fastest packet; later it glides.
        settled = span >= SKEW_FROM_NS
        change = offset - before
        limit = MAX_SKEW * max(step_ns, 1) * REFIT_EVERY
        if settled:
            change = float(np.clip(change, -limit, limit))
        self._origin, self._offset, self._slope = pts_ns, before + change, slope
        self.skew_ppm = slope * 1e6
        late = np.array([delay - self._line(pts) for pts, delay in self._points])
        self.residual_p95_ns = max(0, int(np.percentile(late, 95)))

    def _from_arrival(self, arrival_ns: int) -> Stamp:
        gap = bool(self._arrivals) and arrival_ns - self._arrivals[-1] > ARRIVAL_GAP_NS
        if gap:
            self._reset()
        self._arrivals.append(arrival_ns)
        count = len(self._arrivals)
        if count < 2:
            return self._stamp(arrival_ns, 0, gap)
        period = (self._arrivals[-1] - self._arrivals[0]) / (count - 1)
        lateness = [arrival - i * period for i, arrival in enumerate(self._arrivals)]
        first = min(lateness)
        self.residual_p95_ns = int(np.percentile(np.array(lateness) - first, 95))
        return self._stamp(round(first + (count - 1) * period), self.residual_p95_ns, gap)

    def _stamp(self, t_ns: int, uncertainty_ns: int, reset: bool) -> Stamp:
        t_capture = t_ns - self._latency_ns
        if self._last_capture is not None:
            t_capture = max(t_capture, self._last_capture + 1)
        self._last_capture = t_capture
        return Stamp(t_capture, uncertainty_ns, reset)


def _lower_line(points: Sequence[tuple[int, int]], at_ns: int) -> tuple[float, float]:
    """Slope and value at `at_ns` of the line below all (pts, delay) that lies closest to them: the edge of
    the lower convex hull over their mean pts, its slope limited to what a clock can be."""
    origin = points[0][0]
    hull: list[tuple[int, int]] = []
    for pts, delay in points:
        x = pts - origin
        while len(hull) > 1:
            (x1, y1), (x2, y2) = hull[-2], hull[-1]
            if (x2 - x1) * (delay - y1) > (y2 - y1) * (x - x1):
                break
            hull.pop()
        hull.append((x, delay))
    centre = sum(pts - origin for pts, _ in points) / len(points)
    (x1, y1), (x2, y2) = hull[0], hull[-1]
    for left, right in pairwise(hull):
        if left[0] <= centre <= right[0]:
            (x1, y1), (x2, y2) = left, right
            break
    slope = (y2 - y1) / (x2 - x1) if x2 > x1 else 0.0
    if abs(slope) > MAX_SKEW:
        slope = MAX_SKEW if slope > 0 else -MAX_SKEW
        floor = min(delay - slope * (pts - origin) for pts, delay in points)
        return slope, floor + slope * (at_ns - origin)
    return slope, y1 + slope * (at_ns - origin - x1)
