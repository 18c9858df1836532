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
CATCH_UP = 0.2
"""Share of the time by which the line may fall once it glides. Packets below it prove it wrong: on a busy
start all of the first seconds came late. A fifth still leaves the stamps rising."""
REFIT_EVERY = 8
RESET_NS = 250 * NS_PER_MS
RESET_PERIODS = 3
RESET_FRAMES = 3
"""A stamp this far from the line, this many times in a row, is a new time line and no hiccup."""
LATE_RESET_NS = NS_PER_S
"""Frames behind the line may be a queue that empties after a stall of the network; those ahead of it, which
would have arrived before they were taken, may not. So late ones mean a new time line only after this long."""
BREAKS_BELIEVED = 3
DISTRUST_NS = 60 * NS_PER_S
"""A device whose time line breaks more often than that within the window has no clock worth the name: its
stamps stand still, run at a wrong rate, or come out of order. For a minute arrival dates its pictures."""
INTERVALS_KEPT = 64
ARRIVALS_KEPT = 16
"""Without device stamps: the rate is that of the last 64 frames, the phase that of the promptest of 16, so a
picture the camera left out misleads for half a second only."""
LATENCY_PRIOR_NS = {"v4l2": 25 * NS_PER_MS, "network": 100 * NS_PER_MS}
"""From exposure to arrival by kind of source: USB video 20 to 28 ms (measured publicly on C920 cameras);
RTSP as a middle of encoder and network queues. Zero for kinds that are not listed."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Estimated capture time, how far it may be off, and whether the device began a new time line.

    by_arrival: the device has no stamps, or none to be trusted.
    """

    t_capture: int
    uncertainty_ns: int
    reset: bool = False
    by_arrival: bool = False


class ClockFilter:
    """Turns (pts, arrival) into capture times, which never go back and never lie after the arrival.

    Attributes:
        skew_ppm: how much faster (positive) the computer's clock runs than the device's.
        residual_p95_ns: 95th percentile of how late packets arrive compared with the fastest.
    """

    def __init__(self, *, latency_ns: int) -> None:
        self._latency_ns = latency_ns
        self._last_capture: int | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the device's clock: another connection, another time line. Stamps still do not go back."""
        self._broke: deque[int] = deque(maxlen=BREAKS_BELIEVED)
        self._distrusted_until_ns: int | None = None
        self._begin_line()

    def _begin_line(self) -> None:
        self.skew_ppm = 0.0
        self.residual_p95_ns = 0
        self._points: deque[tuple[int, int]] = deque()
        self._arrivals: deque[int] = deque(maxlen=ARRIVALS_KEPT)
        self._intervals: deque[int] = deque(maxlen=INTERVALS_KEPT)
        self._since_fit = 0
        self._origin = 0
        self._offset = 0.0
        self._slope = 0.0
        self._strange = 0
        self._strange_since_ns = 0

    def update(self, pts_ns: int | None, arrival_ns: int) -> Stamp:
        """Take one frame's stamps, in the order of arrival. `pts_ns` None: the device has no clock."""
        if self._distrusted_until_ns is not None and arrival_ns < self._distrusted_until_ns:
            pts_ns = None
        broken = pts_ns is not None and self._breaks(pts_ns, arrival_ns)
        if broken:
            self._begin_line()
            if len(self._broke) == BREAKS_BELIEVED and arrival_ns - self._broke[0] < WINDOW_NS:
                self._distrusted_until_ns = arrival_ns + DISTRUST_NS
                pts_ns = None
            self._broke.append(arrival_ns)
        self._take_arrival(arrival_ns)
        if pts_ns is None:
            t_ns = self._by_arrival()
        else:
            if not self._strange:
                self._learn(pts_ns, arrival_ns - pts_ns)
            t_ns = pts_ns + round(self._line(pts_ns))
        t_capture = min(t_ns, arrival_ns) - self._latency_ns
        if self._last_capture is not None:
            t_capture = max(t_capture, self._last_capture + 1)
        self._last_capture = t_capture
        return Stamp(t_capture, self.residual_p95_ns, broken, by_arrival=pts_ns is None)

    def _line(self, pts_ns: int) -> float:
        return self._offset + self._slope * (pts_ns - self._origin)

    def _breaks(self, pts_ns: int, arrival_ns: int) -> bool:
        """Whether a new time line begins. Counts strange stamps: far from the line, or not rising."""
        if not self._points:
            return False
        limit = max(RESET_NS, RESET_PERIODS * self._period_ns())
        back = self._points[-1][0] - pts_ns
        late = (arrival_ns - pts_ns) - self._line(pts_ns)
        if back < 0 and abs(late) <= limit:
            self._strange = 0
            return False
        if not self._strange:
            self._strange_since_ns = arrival_ns
        self._strange += 1
        if back > limit:
            return True
        may_be_queued = back < 0 and late > 0 and arrival_ns - self._strange_since_ns < LATE_RESET_NS
        return self._strange >= RESET_FRAMES and not may_be_queued

    def _period_ns(self) -> int:
        points = self._points
        return (points[-1][0] - points[0][0]) // (len(points) - 1) if len(points) > 1 else 0

    def _learn(self, pts_ns: int, delay_ns: int) -> None:
        if not self._points:
            self._origin, self._offset = pts_ns, float(delay_ns)
        step_ns = pts_ns - self._points[-1][0] if self._points else 0
        self._points.append((pts_ns, delay_ns))
        while pts_ns - self._points[0][0] > WINDOW_NS:
            self._points.popleft()
        self._since_fit += 1
        if delay_ns < self._line(pts_ns) or self._since_fit >= REFIT_EVERY:
            self._fit(pts_ns, step_ns)

    def _fit(self, pts_ns: int, step_ns: int) -> None:
        before = self._line(pts_ns)
        self._since_fit = 0
        span = self._points[-1][0] - self._points[0][0]
        if span < SKEW_FROM_NS:
            # While little is known the line jumps down to the fastest packet; later it glides.
            slope, offset = 0.0, float(min(delay for _, delay in self._points))
        else:
            slope, offset = _lower_line(self._points, pts_ns)
            rise, fall = (share * step_ns * REFIT_EVERY for share in (MAX_SKEW, CATCH_UP))
            offset = before + float(np.clip(offset - before, -fall, rise))
        self._origin, self._offset, self._slope = pts_ns, offset, slope
        self.skew_ppm = slope * 1e6
        late = np.array([delay - self._line(pts) for pts, delay in self._points])
        self.residual_p95_ns = max(0, int(np.percentile(late, 95)))

    def _take_arrival(self, arrival_ns: int) -> None:
        interval = arrival_ns - self._arrivals[-1] if self._arrivals else 0
        if interval > max(RESET_NS, RESET_PERIODS * self._mean_interval_ns()):
            self._arrivals.clear()
        elif self._arrivals:
            self._intervals.append(interval)
        self._arrivals.append(arrival_ns)

    def _mean_interval_ns(self) -> int:
        return sum(self._intervals) // len(self._intervals) if self._intervals else 0

    def _by_arrival(self) -> int:
        """When the newest frame would have come, had it been as prompt as the promptest of late: on the even
        line under the last arrivals, but no more than one period before its own."""
        period = self._mean_interval_ns()
        phases = np.array([arrival - i * period for i, arrival in enumerate(self._arrivals)])
        first = int(phases.min())
        if not self._points:
            self.residual_p95_ns = int(np.percentile(phases - first, 95))
        newest = len(self._arrivals) - 1
        return max(first + newest * period, self._arrivals[newest] - period)


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
