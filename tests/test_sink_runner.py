"""Each sink on its own: slow, broken and full ones do not concern the others."""

import threading
import time

import pytest
from factories import fused_frame

from streamfuse.clock import NS_PER_MS, NS_PER_S, RealClock
from streamfuse.errors import SinkError
from streamfuse.frame import FusedFrame
from streamfuse.pipeline.sink_runner import SinkRunner, WindowRunner
from streamfuse.pipeline.statistics import Statistics


class RecordingSink:
    """Takes frames; waits at `gate` when there is one; fails at frame `fail_at`."""

    def __init__(self, *, gate: threading.Event | None = None, fail_at: int | None = None) -> None:
        self.seen: list[int] = []
        self.started = threading.Event()
        self.closed = 0
        self._gate = gate
        self._fail_at = fail_at

    def open(self) -> None:
        pass

    def write(self, frame: FusedFrame) -> None:
        self.started.set()
        if self._gate is not None:
            assert self._gate.wait(10)
        if frame.seq == self._fail_at:
            raise ValueError("encoder on fire")
        self.seen.append(frame.seq)

    def close(self) -> None:
        self.closed += 1


def make_runner(sink: RecordingSink, *, capacity: int, lossless: bool) -> tuple[SinkRunner, Statistics]:
    statistics = Statistics()
    runner = SinkRunner(
        "test", sink, capacity=capacity, lossless=lossless, clock=RealClock(), statistics=statistics
    )
    runner.start()
    return runner, statistics


def test_lossless_runner_writes_everything_in_order() -> None:
    sink = RecordingSink()
    runner, statistics = make_runner(sink, capacity=2, lossless=True)
    for index in range(50):
        runner.put(fused_frame(index))
    runner.close()
    assert sink.seen == list(range(50))
    assert sink.closed == 1
    assert statistics.report().sink_dropped == {}


def test_slow_live_sink_drops_the_oldest_and_counts_them() -> None:
    gate = threading.Event()
    sink = RecordingSink(gate=gate)
    runner, statistics = make_runner(sink, capacity=3, lossless=False)
    runner.put(fused_frame(0))
    assert sink.started.wait(10)
    for index in range(1, 10):
        runner.put(fused_frame(index))
    gate.set()
    runner.close()
    assert sink.seen == [0, 7, 8, 9]
    assert statistics.report().sink_dropped == {"test": {"sink_full": 6}}


def test_failed_sink_ends_alone_and_accounts_for_its_frames(expects_errors: None) -> None:
    sink = RecordingSink(fail_at=3)
    runner, statistics = make_runner(sink, capacity=2, lossless=True)
    for index in range(20):
        runner.put(fused_frame(index))
    runner.close()
    assert sink.seen == [0, 1, 2]
    assert sink.closed == 1
    assert isinstance(runner.error, SinkError)
    assert "encoder on fire" in str(runner.error)
    assert statistics.report().sink_dropped == {"test": {"sink_failed": 17}}
    assert "encoder on fire" in statistics.report().notes[0]


def test_a_frame_that_waits_for_room_when_the_sink_fails_is_accounted_for(expects_errors: None) -> None:
    gate = threading.Event()
    sink = RecordingSink(gate=gate, fail_at=0)
    runner, statistics = make_runner(sink, capacity=1, lossless=True)
    runner.put(fused_frame(0))
    assert sink.started.wait(10)
    runner.put(fused_frame(1))
    waiting = threading.Thread(target=lambda: runner.put(fused_frame(2)))
    waiting.start()
    gate.set()
    waiting.join(10)
    runner.close()
    assert statistics.report().sink_dropped == {"test": {"sink_failed": 3}}


class Window:
    """A window that breaks at frame `fail_at`, and whose user closes it at frame `closed_at`."""

    def __init__(self, *, fail_at: int | None = None, closed_at: int | None = None) -> None:
        self.seen: list[int] = []
        self.closed = 0
        self._fail_at = fail_at
        self._closed_at = closed_at

    def open(self) -> None:
        pass

    def write(self, frame: FusedFrame) -> None:
        if frame.seq == self._fail_at:
            raise SinkError("screen: the window is gone")
        self.seen.append(frame.seq)

    def pump(self, timeout_ms: int) -> bool:
        return self._closed_at not in self.seen

    def close(self) -> None:
        self.closed += 1


def make_window(window: Window, statistics: Statistics, *, live: bool = False) -> WindowRunner:
    return WindowRunner("screen", window, live=live, clock=RealClock(), statistics=statistics)  # type: ignore[arg-type]


def finished(index: int, *, age_ms: int, work_until_ms: int) -> FusedFrame:
    """A live frame captured `age_ms` ago whose work was done at the age of `work_until_ms`."""
    t_capture = RealClock().now_ns() - age_ms * NS_PER_MS
    latencies = {"capture_to_fused": work_until_ms * NS_PER_MS}
    return fused_frame(index, t_capture=t_capture, live=True, latencies_ns=latencies)


def test_the_lag_of_a_sink_is_what_comes_after_the_work() -> None:
    runner, statistics = make_runner(RecordingSink(), capacity=8, lossless=False)
    window = make_window(Window(), statistics, live=True)
    for output in (runner, window):
        assert output.lag_ns == 0
        output.put(finished(0, age_ms=5000, work_until_ms=4000))
    runner.close()
    latency = statistics.report().latency_ms
    for name, output in (("test", runner), ("screen", window)):
        assert output.lag_ns >= NS_PER_S
        assert latency[f"capture_to_sink.{name}"]["p50"] >= 4900


def test_a_sink_that_failed_has_no_lag(expects_errors: None) -> None:
    runner, _ = make_runner(RecordingSink(fail_at=1), capacity=8, lossless=False)
    for index in range(2):
        runner.put(finished(index, age_ms=5000, work_until_ms=4000))
    runner.close()
    assert runner.error is not None
    assert runner.lag_ns == 0


def test_a_window_that_breaks_ends_alone(expects_errors: None) -> None:
    statistics = Statistics()
    window = Window(fail_at=2)
    runner = make_window(window, statistics)
    runner.start()
    for index in range(5):
        runner.put(fused_frame(index))
        assert runner.pump(1), "the run goes on for the others"
    assert window.seen == [0, 1]
    assert window.closed == 1
    assert "the window is gone" in str(runner.error)
    assert statistics.report().sink_dropped == {"screen": {"sink_failed": 3}}
    assert statistics.report().notes == ["sink screen ended: screen: the window is gone"]


def test_a_foreign_sink_may_raise_anything_anywhere(expects_errors: None) -> None:
    class Foreign(RecordingSink):
        def close(self) -> None:
            raise OSError("nobody home")

        def pump(self, timeout_ms: int) -> bool:
            raise RuntimeError("no events")

    class Shut(Foreign):
        def open(self) -> None:
            raise RuntimeError("no permit")

    runner, statistics = make_runner(Foreign(fail_at=0), capacity=2, lossless=False)
    runner.put(fused_frame(0))
    runner.close()
    assert "encoder on fire" in str(runner.error)
    window = make_window(Foreign(), statistics)  # type: ignore[arg-type]
    window.put(fused_frame(0))
    assert window.pump(1), "the run goes on for the others"
    window.put(fused_frame(1))
    window.close()
    assert str(window.error) == "sink screen: RuntimeError: no events"
    assert statistics.report().sink_dropped == {"test": {"sink_failed": 1}, "screen": {"sink_failed": 1}}
    with pytest.raises(SinkError, match="RuntimeError: no permit"):
        make_runner(Shut(), capacity=2, lossless=False)
    with pytest.raises(SinkError, match="RuntimeError: no permit"):
        make_window(Shut(), statistics).start()  # type: ignore[arg-type]


def test_a_window_closed_by_its_user_ends_the_run() -> None:
    runner = make_window(Window(closed_at=1), Statistics())
    going_on = []
    for index in range(3):
        runner.put(fused_frame(index))
        going_on.append(runner.pump(1))
    assert going_on == [True, False, False]
    assert runner.error is None


def test_close_without_draining_discards_what_waits() -> None:
    gate = threading.Event()
    sink = RecordingSink(gate=gate)
    runner, statistics = make_runner(sink, capacity=8, lossless=False)
    runner.put(fused_frame(0))
    assert sink.started.wait(10)
    for index in range(1, 5):
        runner.put(fused_frame(index))
    closer = threading.Thread(target=lambda: runner.close(drain=False))
    closer.start()
    while statistics.report().sink_dropped == {}:
        time.sleep(0.001)
    gate.set()
    closer.join(10)
    assert sink.seen == [0]
    assert statistics.report().sink_dropped == {"test": {"shutdown": 4}}


def test_a_sink_that_cannot_open_is_an_error_before_the_first_frame() -> None:
    class Closed(RecordingSink):
        def open(self) -> None:
            raise SinkError("x.mkv: no such folder")

    runner = SinkRunner(
        "test", Closed(), capacity=1, lossless=True, clock=RealClock(), statistics=Statistics()
    )
    with pytest.raises(SinkError, match="no such folder"):
        runner.start()
    runner.close()
