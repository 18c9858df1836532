"""How far apart partners may be and how long to wait for one: fixed by options or learnt."""

from streamfuse.clock import NS_PER_MS
from streamfuse.pairing.options import PairingOptions
from streamfuse.pairing.track import Track

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


class Limits:
    """Windows and waits between a driver stream (`lead`) and the other one (`follow`)."""

    def __init__(self, options: PairingOptions, *, lead: Track, follow: Track) -> None:
        self._options = options
        self._lead = lead
        self._follow = follow
        self.wait_budget_ns: int | None = None

    def _periods(self) -> list[int]:
        return [t.period_ns for t in (self._lead, self._follow) if t.period_ns is not None]

    @property
    def rateless(self) -> bool:
        """Neither a rate nor a configured window tells partners from strangers (two still pictures)."""
        return not self._periods() and self._options.window_ms is None

    def window_ns(self) -> int:
        """Largest |dt| of partners."""
        if self._options.window_ms is not None:
            return round(self._options.window_ms * NS_PER_MS)
        fastest = min(self._periods(), default=START_PERIOD_NS)
        residual = self._lead.uncertainty_ns + self._follow.uncertainty_ns
        return round(WINDOW_PERIODS * fastest + min(residual, UNCERTAINTY_PERIODS_MAX * fastest))

    def hold_max_ns(self) -> int:
        """Largest age of a held infrared frame."""
        if self._options.hold_max_ms is not None:
            return round(self._options.hold_max_ms * NS_PER_MS)
        return round(HOLD_PERIODS * max(self._periods(), default=START_PERIOD_NS))

    def deadline_ns(self) -> int:
        """Longest wait of a driver frame, from its arrival: the gap between the two transports' delays
        and half a period, within the budget. Interpolation waits for the later neighbour: a whole period."""
        if self._options.deadline_ms is not None:
            return round(self._options.deadline_ms * NS_PER_MS)
        slow, usual = self._follow.delay_ns(0.99), self._lead.delay_ns(0.5)
        if slow is None or usual is None:
            wait = START_WAIT_NS
        else:
            periods = 1.0 if self._options.motion == "interpolate" else 0.5
            period = round(periods * (self._follow.period_ns or START_PERIOD_NS))
            wait = slow - usual + period + DEADLINE_MARGIN_NS
        if self.wait_budget_ns is not None:
            wait = min(wait, self.wait_budget_ns)
        return max(0, wait)

    def patience_ns(self) -> int:
        """Silence of the other stream after which waiting for it is pointless."""
        return max(SILENT_PERIODS * (self._follow.period_ns or START_PERIOD_NS), START_WAIT_NS)

    def reach_ns(self) -> int:
        """Distance to the nearest driver frame within which a frame was merely passed over."""
        return round(GAP_PERIODS * (self._lead.period_ns or START_PERIOD_NS))
