"""What the matcher reports about itself."""

from dataclasses import dataclass

from streamfuse.frame import DropCause, Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class MatcherStatistics:
    """What the matcher has counted and learnt. Times in ns, None while unknown.

    Per stream: pushed = used + sum of drops + buffered. `held` counts pairs with a held infrared frame,
    `without_ir` pairs with none. `dt_mean_ns`: mean |dt| over partners within the window.
    """

    driver: Stream
    pushed: dict[Stream, int]
    used: dict[Stream, int]
    drops: dict[Stream, dict[DropCause, int]]
    buffered: dict[Stream, int]
    pairs: int
    held: int
    without_ir: int
    dt_mean_ns: int | None
    window_ns: int
    hold_max_ns: int
    deadline_ns: int | None
    offset_ns: int
    period_ns: dict[Stream, int | None]
    delay_p50_ns: dict[Stream, int | None]
    delay_p99_ns: dict[Stream, int | None]
