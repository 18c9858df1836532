"""A camera's thread: frames in order, trouble told and survived, and an end within two seconds."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from faults import (
    BelatedSource,
    BrokenSource,
    Camera,
    CorruptSource,
    DisconnectingSource,
    FaultOptions,
    PtsJumpSource,
    RepeatingSource,
    ResolutionChangeSource,
    SoundSource,
    StallingSource,
)

from streamfuse.capture.media_time import Pace
from streamfuse.capture.options import ReconnectOptions
from streamfuse.capture.reader import FrameReader
from streamfuse.capture.thread import (
    MOST_LEFT_BEHIND,
    OPEN_PATIENCE_S,
    WATCH_GRACE_S,
    CaptureState,
    CaptureThread,
)
from streamfuse.clock import NS_PER_S, Clock, RealClock, VirtualClock
from streamfuse.errors import ConfigError, SourceError
from streamfuse.frame import DropCause, Frame, Stream

PATIENCE_S = 10.0
RECONNECT = ReconnectOptions(stall_s=3, first_delay_s=0.01, max_delay_s=0.05)


class Rig:
    """A capture thread, what it said, and a way to wait for it."""

    def __init__(
        self,
        kind: type[SoundSource],
        *,
        clock: Clock,
        stream: Stream,
        capacity: int,
        reconnect: ReconnectOptions,
        pace: Pace | None,
        options: dict[str, Any],
    ) -> None:
        made: FaultOptions = kind.Options(camera=Camera(), **options)
        self.camera: Camera = made.camera
        self.said: list[str] = []
        self.delays: list[float] = []
        self.frames: list[Frame] = []
        self._changed = threading.Condition()
        self.reader = FrameReader(
            kind(made, clock=clock), stream=stream, options=made, kind="test", clock=clock, pace=pace
        )
        self.capture = CaptureThread(
            self.reader,
            options=reconnect,
            capacity=capacity,
            clock=clock,
            notify=self._notify,
            tell=self.said.append,
            uniform=lambda: 0.0,
        )
        self.reader.open()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool]) -> None:
        """Take frames until the condition holds."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            self.frames += self.capture.take()
            if condition():
                return
            assert time.monotonic() < deadline, (self.capture.state, self.said, len(self.frames))
            with self._changed:
                self._changed.wait(0.02)

    def wait_finished(self) -> None:
        self.wait(lambda: self.capture.finished)
        self.frames += self.capture.take()


@pytest.fixture
def start() -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(
        kind: type[SoundSource] = SoundSource,
        *,
        clock: Clock | None = None,
        stream: Stream = "vis",
        capacity: int = 2000,
        reconnect: ReconnectOptions = RECONNECT,
        pace: Pace | None = None,
        **options: Any,
    ) -> Rig:
        rig = Rig(
            kind,
            clock=clock or VirtualClock(),
            stream=stream,
            capacity=capacity,
            reconnect=reconnect,
            pace=pace,
            options=options,
        )
        rigs.append(rig)
        rig.capture.start()
        return rig

    yield make
    for rig in rigs:
        rig.camera.release.set()
        rig.capture.stop()


def assert_sound(rig: Rig) -> None:
    """Every picture delivered was taken or counted; order and time rise."""
    assert all(a.seq < b.seq and a.t_capture < b.t_capture for a, b in pairwise(rig.frames))
    assert len(rig.frames) + rig.capture.drops.total() == rig.reader.delivered


# -- without trouble -------------------------------------------------------------------------------


def test_all_frames_come_in_order_and_the_end_is_told(start: Callable[..., Rig]) -> None:
    rig = start(frames=50)
    rig.wait_finished()
    assert [f.seq for f in rig.frames] == list(range(50))
    assert rig.capture.state is CaptureState.ENDED
    assert rig.capture.error is None
    assert not rig.said
    assert_sound(rig)


def test_a_full_ring_drops_the_oldest_and_counts(start: Callable[..., Rig]) -> None:
    rig = start(frames=50, capacity=8)
    while not rig.capture.finished:
        time.sleep(0.005)
    assert [f.seq for f in rig.capture.take()] == list(range(42, 50))
    assert rig.capture.drops == {DropCause.OVERRUN: 42}
    assert rig.capture.take() == []


def test_a_recording_is_played_in_real_time(start: Callable[..., Rig]) -> None:
    clock = VirtualClock(start_ns=500 * NS_PER_S)
    rig = start(clock=clock, live=False, frames=30, fps=10, pace=Pace(clock))
    rig.wait_finished()
    assert clock.now_ns() == 500 * NS_PER_S + 29 * NS_PER_S // 10
    assert len(rig.frames) == 30


def test_silence_of_a_recording_is_no_trouble(start: Callable[..., Rig]) -> None:
    clock = VirtualClock()
    rig = start(StallingSource, clock=clock, live=False, at=5, deaf=True)
    assert rig.camera.hanging.wait(PATIENCE_S)
    clock.advance_ns(3600 * NS_PER_S)
    rig.capture.watch()
    assert rig.capture.state is CaptureState.RUNNING
    rig.camera.release.set()
    rig.wait_finished()
    assert_sound(rig)


# -- the connection --------------------------------------------------------------------------------


def test_a_lost_connection_comes_back_as_a_new_epoch(start: Callable[..., Rig]) -> None:
    rig = start(DisconnectingSource, at=10, times=2, frames=20)
    rig.wait_finished()
    assert [f.epoch for f in rig.frames] == [0] * 10 + [1] * 10 + [2] * 20
    assert [f.seq for f in rig.frames] == list(range(40))
    assert rig.capture.reconnects == 2
    assert rig.said == ["vis: lost: connection lost", "vis: back"] * 2
    assert_sound(rig)


def test_refusals_while_the_server_restarts_are_waited_out(start: Callable[..., Rig]) -> None:
    rig = start(DisconnectingSource, at=10, refusals=5, frames=20)
    rig.wait_finished()
    assert rig.capture.error is None
    assert rig.said == ["vis: lost: connection lost", "vis: back"], "each refusal is not news"
    assert len(rig.frames) == 30


def test_delays_between_attempts_double_up_to_a_limit(start: Callable[..., Rig]) -> None:
    waited: list[float] = []

    class Noting(VirtualClock):
        def sleep_ns(self, duration_ns: int, interrupt: threading.Event | None = None) -> bool:
            if interrupt is not None and duration_ns > NS_PER_S // 10:
                waited.append(duration_ns / NS_PER_S)
            return super().sleep_ns(duration_ns, interrupt)

    reconnect = ReconnectOptions(first_delay_s=0.5, max_delay_s=3)
    rig = start(DisconnectingSource, clock=Noting(), reconnect=reconnect, at=5, refusals=5, frames=8)
    rig.wait_finished()
    assert waited == [0.5, 1, 2, 3, 3, 3]


def test_after_the_last_attempt_the_stream_fails_with_the_reason(start: Callable[..., Rig]) -> None:
    reconnect = ReconnectOptions(first_delay_s=0.01, max_delay_s=0.01, max_attempts=3)
    rig = start(DisconnectingSource, reconnect=reconnect, at=5, refusals=100)
    rig.wait_finished()
    assert rig.capture.state is CaptureState.FAILED
    assert "not there (404) (gave up after 3 attempts to reconnect)" in str(rig.capture.error)
    assert rig.camera.opened == 4
    assert len(rig.frames) == 5


def test_attempts_are_counted_anew_after_frames_came(start: Callable[..., Rig]) -> None:
    reconnect = ReconnectOptions(first_delay_s=0.01, max_delay_s=0.01, max_attempts=1)
    rig = start(DisconnectingSource, reconnect=reconnect, at=5, times=4, frames=6)
    rig.wait_finished()
    assert rig.capture.error is None
    assert rig.capture.reconnects == 4


@pytest.mark.parametrize("attempts", [2000])
def test_a_night_of_refusals_is_survived(start: Callable[..., Rig], attempts: int) -> None:
    rig = start(DisconnectingSource, at=5, refusals=attempts, frames=8)
    rig.wait_finished()
    assert rig.capture.error is None
    assert rig.camera.opened == attempts + 2


# -- a read that hangs -----------------------------------------------------------------------------


def advance(rig: Rig, clock: VirtualClock, seconds: float) -> None:
    rig.capture.watch()  # notes what has come so far
    clock.advance_ns(round(seconds * NS_PER_S))
    rig.capture.watch()


def test_a_stalled_connection_is_closed_and_comes_back(start: Callable[..., Rig]) -> None:
    clock = VirtualClock()
    rig = start(StallingSource, clock=clock, at=10, frames=20)
    assert rig.camera.hanging.wait(PATIENCE_S)
    advance(rig, clock, RECONNECT.stall_s)
    assert rig.capture.state is CaptureState.RUNNING, "the source's own time-out may still tell more"
    advance(rig, clock, WATCH_GRACE_S)
    rig.wait_finished()
    assert [f.epoch for f in rig.frames] == [0] * 10 + [1] * 20
    assert "no picture for 4.0 s, connection given up" in rig.said[0]
    assert rig.said[-1] == "vis: back"
    assert_sound(rig)


def test_a_picture_that_comes_when_the_connection_was_given_up_is_not_the_last(
    start: Callable[..., Rig],
) -> None:
    clock = VirtualClock()
    rig = start(BelatedSource, clock=clock, at=10, frames=20)
    assert rig.camera.hanging.wait(PATIENCE_S)
    advance(rig, clock, RECONNECT.stall_s + WATCH_GRACE_S)
    rig.wait_finished()
    assert [f.epoch for f in rig.frames] == [0] * 11 + [1] * 20
    assert rig.said[-1] == "vis: back"
    assert_sound(rig)


def test_a_read_that_nothing_frees_is_left_behind(start: Callable[..., Rig]) -> None:
    clock = VirtualClock()
    rig = start(StallingSource, clock=clock, at=10, frames=20, deaf=True)
    assert rig.camera.hanging.wait(PATIENCE_S)
    advance(rig, clock, RECONNECT.stall_s + WATCH_GRACE_S)
    assert rig.capture.state is CaptureState.STALLED
    clock.advance_ns(round(WATCH_GRACE_S * NS_PER_S))
    rig.capture.watch()
    rig.wait_finished()
    assert [f.epoch for f in rig.frames] == [0] * 10 + [1] * 20
    left = [t for t in threading.enumerate() if t.name == "abandoned-capture-vis"]
    assert len(left) == 1
    assert left[0].daemon
    rig.camera.release.set()
    left[0].join(PATIENCE_S)
    assert not left[0].is_alive()
    assert [f.seq for f in rig.frames] == list(range(30)), "its late picture went nowhere"
    assert_sound(rig)


def test_an_attempt_to_connect_that_hangs_is_left_behind(start: Callable[..., Rig]) -> None:
    class HangingOpen(DisconnectingSource):
        def open(self) -> Any:
            info = super().open()
            if self._camera.opened == 2:
                self._camera.hanging.set()
                self._camera.release.wait()
            return info

    clock = VirtualClock()
    rig = start(HangingOpen, clock=clock, at=5, frames=8)
    assert rig.camera.hanging.wait(PATIENCE_S)
    rig.capture.watch()
    clock.advance_ns(round((1 + OPEN_PATIENCE_S) * NS_PER_S))
    rig.capture.watch()
    rig.wait_finished()
    assert [f.seq for f in rig.frames] == list(range(13))
    rig.camera.release.set()


def test_a_camera_that_hangs_for_days_does_not_use_up_the_threads(start: Callable[..., Rig]) -> None:
    class HangingOpen(DisconnectingSource):
        def open(self) -> Any:
            info = super().open()
            if self._camera.opened > 1:
                self._camera.hanging.set()
                self._camera.release.wait()
            return info

    def left() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name == "abandoned-capture-vis"]

    clock = VirtualClock()
    rig = start(HangingOpen, clock=clock, at=5, frames=8)
    for _ in range(3 * MOST_LEFT_BEHIND):
        rig.wait(lambda: rig.camera.hanging.is_set() or len(left()) == MOST_LEFT_BEHIND)
        rig.camera.hanging.clear()
        rig.capture.watch()
        clock.advance_ns(round((1 + OPEN_PATIENCE_S) * NS_PER_S))
        rig.capture.watch()
    assert len(left()) == MOST_LEFT_BEHIND
    rig.camera.release.set()
    rig.wait_finished()
    assert [f.seq for f in rig.frames] == list(range(13)), "the last try was still good"


@pytest.mark.parametrize("deaf", [False, True])
def test_stop_frees_a_waiting_read_or_leaves_it_behind(start: Callable[..., Rig], deaf: bool) -> None:
    rig = start(StallingSource, clock=RealClock(), at=3, deaf=deaf)
    assert rig.camera.hanging.wait(PATIENCE_S)
    started = time.monotonic()
    rig.capture.stop()
    assert time.monotonic() - started < 4  # two seconds, and a busy machine
    assert rig.capture.state is CaptureState.ENDED
    assert not [t for t in threading.enumerate() if t.name == "streamfuse-capture-vis"]
    assert bool([t for t in threading.enumerate() if t.name == "abandoned-capture-vis"]) == deaf
    assert [f.seq for f in rig.capture.take()] == [0, 1, 2]
    rig.camera.release.set()


def test_stop_does_not_wait_for_a_close_that_hangs(start: Callable[..., Rig]) -> None:
    class StuckClose(StallingSource):
        def close(self) -> None:
            self._camera.release.wait()

    rig = start(StuckClose, clock=RealClock(), at=3)
    assert rig.camera.hanging.wait(PATIENCE_S)
    started = time.monotonic()
    rig.capture.stop()
    assert time.monotonic() - started < 4
    rig.camera.release.set()


def test_stop_ends_the_wait_for_the_next_attempt(start: Callable[..., Rig]) -> None:
    reconnect = ReconnectOptions(first_delay_s=3600, max_delay_s=3600)
    rig = start(DisconnectingSource, clock=RealClock(), reconnect=reconnect, at=2)
    rig.wait(lambda: rig.capture.state is CaptureState.RECONNECTING)
    rig.capture.stop()
    assert rig.capture.state is CaptureState.ENDED
    assert rig.capture._thread is not None
    assert not rig.capture._thread.is_alive()


def test_stop_twice_and_before_the_first_frame(start: Callable[..., Rig]) -> None:
    rig = start(clock=RealClock(), fps=1)
    rig.capture.stop()
    rig.capture.stop()
    assert rig.capture.finished


# -- what comes over the connection ----------------------------------------------------------------


def test_a_bug_in_a_source_reaches_the_caller(start: Callable[..., Rig]) -> None:
    rig = start(BrokenSource, at=4)
    rig.wait_finished()
    assert rig.capture.state is CaptureState.FAILED
    assert isinstance(rig.capture.error, SourceError)
    assert str(rig.capture.error) == "vis: RuntimeError: driver bug"
    assert isinstance(rig.capture.error.__cause__, RuntimeError)
    assert len(rig.frames) == 4


def test_an_option_that_no_longer_fits_ends_the_stream(start: Callable[..., Rig]) -> None:
    class Shrinking(SoundSource):
        def make(self, index: int) -> Any:
            return self.frame(index, image=None if index < 5 else self.frame(0).image[:10, :10])

    rig = start(Shrinking, crop=(0, 0, 20, 20))
    rig.wait_finished()
    assert isinstance(rig.capture.error, ConfigError)
    assert "crop" in str(rig.capture.error)


@pytest.mark.parametrize("jump", [-100_000, 100_000])
def test_a_clock_that_jumps_is_a_new_epoch_and_time_rises(start: Callable[..., Rig], jump: int) -> None:
    rig = start(PtsJumpSource, at=300, frames=600, jump=jump)
    rig.wait_finished()
    assert {f.epoch for f in rig.frames} == {0, 1}
    assert all(f.t_capture <= f.t_arrival for f in rig.frames)
    settled = rig.frames[-100:]
    assert all(f.t_arrival - f.t_capture < NS_PER_S // 100 for f in settled)
    assert_sound(rig)


def test_another_resolution_is_a_new_epoch(start: Callable[..., Rig]) -> None:
    rig = start(ResolutionChangeSource, at=10, frames=20)
    rig.wait_finished()
    assert [f.epoch for f in rig.frames] == [0] * 10 + [1] * 10
    assert_sound(rig)


def test_corrupt_pictures_are_counted(start: Callable[..., Rig]) -> None:
    rig = start(CorruptSource, at=10, frames=50)
    rig.wait_finished()
    assert rig.capture.drops == {DropCause.CORRUPT: 5}
    assert_sound(rig)


def test_copies_of_a_thermal_core_are_counted(start: Callable[..., Rig]) -> None:
    rig = start(RepeatingSource, stream="ir", frames=90)
    rig.wait_finished()
    assert rig.capture.drops[DropCause.DUPLICATE] >= 45
    assert [f.seq % 3 for f in rig.frames[-20:]] == [0] * 20
    assert_sound(rig)
