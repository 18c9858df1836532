"""Which measured offset is used while a run goes on.

One estimate can be wrong, and a wrong offset pairs strangers. So an offset comes into use only after several
estimates in a row agreed on it, a far one needs more of them than a near one, and what is in use moves toward
it slowly: the infrared's time line is stretched, never torn. Where nothing moves, or after a camera came
back, what was in use stays until something better is known.
"""

from collections import deque

from streamfuse.clock import NS_PER_S
from streamfuse.pairing.correlation import Array, Block
from streamfuse.pairing.offset import WINDOW_BLOCKS, OffsetEstimate, OffsetStatus, estimate_offset

KEEP_S = 300.0
"""Cheap clocks drift apart by 50 ppm or more: 15 ms in this time."""
CONFIRM = 3
"""Estimates in a row, a second apart, that bring an offset into use or refine the one in use."""
CONFIRM_FAR = 10
"""The same for one that is more than half a period from that in use."""
SLEW = 0.1
"""Seconds a second: the infrared seems a tenth faster or slower for a while, which the matcher rides over."""


class OffsetTracker:
    """Takes blocks as they come and says which offset to use. Pure policy.

    `add` and `restart` belong to one thread, `at` to one other.

    Attributes:
        estimate: the newest one, whether used or not.
        target_ns: the offset that `at` moves toward; None until one was confirmed.
    """

    def __init__(self, lags: Array) -> None:
        self.estimate: OffsetEstimate = estimate_offset([], lags)
        self.target_ns: int | None = None
        self._lags = lags
        self._blocks: deque[Block] = deque(maxlen=WINDOW_BLOCKS)
        self._agreeing: list[OffsetEstimate] = []
        self._now_ns = 0
        self._last_t_ns: int | None = None

    def add(self, block: Block) -> None:
        """Take the next block."""
        if block.active:
            self._blocks.append(block)
        while self._blocks and self._blocks[0].t_s < block.t_s - KEEP_S:
            self._blocks.popleft()
        if not block.active and self._blocks:
            return
        self.estimate = estimate_offset(self._blocks or [block], self._lags)
        self._consider(self.estimate)

    def restart(self) -> None:
        """The time line of a camera broke: what was seen before says nothing about what comes."""
        self._blocks.clear()
        self._agreeing.clear()

    def _consider(self, estimate: OffsetEstimate) -> None:
        if estimate.status is not OffsetStatus.OK:
            self._agreeing.clear()
            return
        if self._agreeing and not _agree(self._agreeing[-1], estimate):
            self._agreeing.clear()
        self._agreeing.append(estimate)
        assert estimate.offset_s is not None
        assert estimate.uncertainty_s is not None
        offset_ns = round(estimate.offset_s * NS_PER_S)
        distance = None if self.target_ns is None else abs(offset_ns - self.target_ns) / NS_PER_S
        far = distance is not None and distance > self._blocks[-1].period_s / 2
        if len(self._agreeing) < (CONFIRM_FAR if far else CONFIRM):
            return
        # Within its uncertainty the new one is no better than that in use.
        if distance is None or distance > estimate.uncertainty_s:
            self.target_ns = offset_ns

    def at(self, t_ns: int) -> int | None:
        """The offset to use for an infrared frame captured at `t_ns`; None before one was confirmed. Times
        must rise."""
        passed_ns = 0 if self._last_t_ns is None else max(0, t_ns - self._last_t_ns)
        self._last_t_ns = t_ns
        target_ns = self.target_ns
        if target_ns is None:
            return None
        step_ns = round(SLEW * passed_ns)
        self._now_ns += max(-step_ns, min(step_ns, target_ns - self._now_ns))
        return self._now_ns


def _agree(one: OffsetEstimate, other: OffsetEstimate) -> bool:
    assert one.offset_s is not None
    assert other.offset_s is not None
    allowed = (one.uncertainty_s or 0.0) + (other.uncertainty_s or 0.0)
    return abs(one.offset_s - other.offset_s) <= allowed
