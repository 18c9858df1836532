"""Live pipelines of cameras, a registrar and sinks that go wrong when told."""

import threading
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
from faults import Camera, FaultySinkOptions, SlowSink, SoundSource
from pydantic import Field

from streamfuse.capture import SOURCES
from streamfuse.clock import NS_PER_S, Clock, RealClock
from streamfuse.frame import FusedFrame, Registration, Status
from streamfuse.pipeline import Pipeline
from streamfuse.pipeline.statistics import Report
from streamfuse.registration import REGISTRARS
from streamfuse.registry import Options
from streamfuse.sinks import SINKS

FPS = 200
FRAMES = 60
ENDLESS = 10**9
PATIENT = {"ring": 512, "sink_queue": 512, "latency_budget_ms": 10_000}
"""Nothing is dropped because the machine that runs the tests is busy."""

FAULTY_SOURCES = {
    "sound": "faults:SoundSource",
    "stalling": "faults:StallingSource",
    "disconnecting": "faults:DisconnectingSource",
    "broken": "faults:BrokenSource",
    "jumping": "faults:PtsJumpSource",
    "repeating": "faults:RepeatingSource",
    "changing": "faults:ResolutionChangeSource",
    "corrupt": "faults:CorruptSource",
    "deaf": "live_runs:DeafSource",
}
FAULTY_SINKS = {
    "slow": "faults:SlowSink",
    "failing": "faults:FailingSink",
    "no-space": "faults:NoSpaceSink",
    "window": "live_runs:WindowSink",
}


class DeafSource(SoundSource):
    """Its `close` hangs, as that of some drivers does."""

    def close(self) -> None:
        self._camera.hanging.set()
        self._camera.release.wait()


class WindowSink(SlowSink):
    """Belongs on the thread that iterates; its user closes it after frame `at`."""

    main_thread = True
    threads: ClassVar[Counter[str]] = Counter()

    def __init__(self, options: FaultySinkOptions, *, clock: Clock) -> None:
        super().__init__(options, clock=clock)
        self.threads.clear()

    def open(self) -> None:
        self._note("open")

    def write(self, frame: FusedFrame) -> None:
        self._note("write")
        super().write(frame)

    def pump(self, timeout_ms: int) -> bool:
        self._note("pump")
        return len(self.written) <= self._options.at

    def close(self) -> None:
        self._note("close")

    def _note(self, what: str) -> None:
        self.threads[f"{what} on {threading.current_thread().name}"] += 1


@dataclass
class Machine:
    """What the registrar `heavy` runs on: how long a frame takes, and whether it ever ends."""

    load_s: float = 0.0
    busy: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    hangs: bool = False


class HeavyOptions(Options):
    machine: Any = Field(default_factory=Machine)


class HeavyRegistrar:
    """Finds nothing to move, in as much time as its machine takes for it."""

    Options = HeavyOptions

    def __init__(self, options: HeavyOptions, *, device: str = "cpu") -> None:
        self._machine: Machine = options.machine

    def register(self, ir: Any, vis: Any, *, valid: Any = None, prior: Any = None) -> Registration:
        self._machine.busy.set()
        if self._machine.hangs:
            self._machine.release.wait()
        RealClock().sleep_ns(round(self._machine.load_s * NS_PER_S))
        return Registration(status=Status.OK, confidence=0.9, matrix=np.eye(3), warm=prior is not None)


@pytest.fixture
def faulty_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    heavy = {"heavy": "live_runs:HeavyRegistrar"}
    for registry, kinds in ((SOURCES, FAULTY_SOURCES), (SINKS, FAULTY_SINKS), (REGISTRARS, heavy)):
        for kind, target in kinds.items():
            monkeypatch.setitem(registry._builtin, kind, target)


def camera(kind: str = "sound", **options: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "fps": FPS,
        "frames": FRAMES,
        "camera": Camera(),
        "reconnect": {"stall_s": 0.2, "first_delay_s": 0.02, "max_delay_s": 0.05},
        **options,
    }


class Kept:
    """A sink that keeps what it is given. `full`: it has `FRAMES` frames."""

    def __init__(self) -> None:
        self.frames: list[FusedFrame] = []
        self.full = threading.Event()
        self.closed = threading.Event()

    def __call__(self, frame: FusedFrame) -> None:
        self.frames.append(frame)
        if len(self.frames) == FRAMES:
            self.full.set()

    def close(self) -> None:
        self.closed.set()

    @property
    def numbers(self) -> list[int]:
        return [frame.seq for frame in self.frames]


def make(
    ir: dict[str, Any], vis: dict[str, Any], *, sinks: Any = (), keep: Kept | None = None, **sections: Any
) -> Pipeline:
    tree = {
        "sources": {"ir": ir, "vis": vis},
        "registration": {"model": "none"},
        "fusion": {"model": "average"},
        "worker": {"device": "cpu"},
        "sinks": list(sinks),
        **sections,
        "pipeline": PATIENT | sections.get("pipeline", {}),
    }
    return Pipeline.from_config(tree, sinks=[] if keep is None else [keep])


def assert_sound(report: Report) -> None:
    assert report.unaccounted() == {"ir": 0, "vis": 0}
    assert report.frames_used["vis"] == report.frames_out


def sink_drops(report: Report) -> dict[str, dict[str, int]]:
    """Without those of whoever iterates, whom a busy machine may hold up."""
    return {name: causes for name, causes in report.sink_dropped.items() if name != "iterator"}


def assert_in_order(frames: list[FusedFrame]) -> None:
    assert all(a.t_capture < b.t_capture for a, b in pairwise(frames))
    assert all(a.pair.vis.seq < b.pair.vis.seq for a, b in pairwise(frames))
