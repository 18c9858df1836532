"""Timing things against each other: in turns, after a warm-up, by percentiles."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from streamfuse.bench.machine import cpu_seconds
from streamfuse.clock import NS_PER_S, Clock

WARM_UP = 3
"""First calls load code, allocate and choose algorithms."""
SLOW_CALL_S = 2.0
"""What takes longer than this in its first call is called once more and no oftener."""


@dataclass(slots=True)
class Timing:
    """Seconds of each call: on the wall, and of the processor over all threads of the process."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Milliseconds: p50, p95 and p99 on the wall, `cpu` the median of processor time; and the count."""
        p50, p95, p99 = (round(float(np.percentile(self.wall, p)) * 1e3, 3) for p in (50, 95, 99))
        cpu = round(float(np.median(self.cpu)) * 1e3, 3)
        return {"p50": p50, "p95": p95, "p99": p99, "cpu": cpu, "calls": len(self.wall)}


def take_turns(calls: Mapping[str, Callable[[], object]], *, repeats: int, clock: Clock) -> dict[str, Timing]:
    """Time every call `repeats` times, one after the other in turns, so that whatever else the machine does
    meets all of them alike."""
    timings = {name: Timing() for name in calls}
    left = {}
    for name, call in calls.items():
        first = _once(call, clock)
        slow = first[0] > SLOW_CALL_S
        left[name] = 1 if slow else repeats
        for _ in range(0 if slow else WARM_UP - 1):
            call()
    for turn in range(repeats):
        for name, call in calls.items():
            if turn < left[name]:
                wall, cpu = _once(call, clock)
                timings[name].wall.append(wall)
                timings[name].cpu.append(cpu)
    return timings


def _once(call: Callable[[], object], clock: Clock) -> tuple[float, float]:
    cpu, started = cpu_seconds(), clock.now_ns()
    call()
    return (clock.now_ns() - started) / NS_PER_S, cpu_seconds() - cpu
