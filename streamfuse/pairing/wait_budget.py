"""How long a frame may wait for its partner: what the latency budget leaves after transport and work."""

from collections import deque

from streamfuse.frame import FusedFrame

KEPT = 64
"""Frames looked back on: two seconds, as long as a change of rung or load takes to settle."""
USUAL = 0.95
"""Quantile of what transport and work take: one hiccup must not shorten the wait for two seconds."""
SPARE = 0.15
"""Of the budget, left to whoever comes after: a wait that takes up all that work leaves would fill the room
that a lower rung of the ladder has just made, and hold the ladder down."""
LEAST_SHARE = 0.5
"""Of the budget that waiting keeps, whatever the work takes: where the budget cannot be kept, pairing nothing
at all is no remedy."""


class WaitBudget:
    """Bounds the wait of the matcher so that frames come out within the latency budget. Pure.

    Args:
        latency_budget_ns: from capture to the fused frame.
    """

    def __init__(self, latency_budget_ns: int) -> None:
        self._budget_ns = latency_budget_ns
        self._taken: deque[int] = deque(maxlen=KEPT)

    def observe(self, frame: FusedFrame) -> None:
        """Learn from a frame that came out."""
        vis = frame.pair.vis
        work_ns = frame.latencies_ns.get("register_and_fuse", 0)
        self._taken.append(max(0, vis.t_arrival - vis.t_capture) + work_ns)

    @property
    def wait_ns(self) -> int:
        """The longest wait, counted from arrival; the whole budget before anything is known."""
        if not self._taken:
            return self._budget_ns
        usable_ns = round((1 - SPARE) * self._budget_ns)
        usual_ns = sorted(self._taken)[round(USUAL * (len(self._taken) - 1))]
        return max(round(LEAST_SHARE * self._budget_ns), usable_ns - usual_ns)
