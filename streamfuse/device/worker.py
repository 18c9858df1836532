"""The device worker: `worker.Worker` for registrars and fusers that live on a CUDA device.

Problem. A GPU that gets each step from Python, and hands pictures to and fro between them, spends most of a
frame waiting. Design. One program for the whole frame, recorded once for each pass (`graph`), fed through a
ring of pinned memory (`transfer`) that rigs of one kind share (`chain`), with two frames of each under way:
`submit` starts on a pair and returns what was finished before. Which pass a frame gets (`Schedule`) is
decided from the frames that have come back, so one of low confidence is followed by a search two frames
later, not at once as on the CPU; motion is found by the host with their fields (`motion`); and a network that
fuses decides at every frame (`calm`). Apart from that the results are the CPU path's within its rounding.

Trade-off. Offline a frame comes out when the second one after it goes in, so that the pass of a frame never
depends on how fast the device was: runs repeat. Live, whoever drives it drains it when no pair waits.
"""

from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.calibration.calibration import RigCalibration
from streamfuse.clock import NS_PER_S, Clock, RealClock
from streamfuse.config import Component, WorkerOptions
from streamfuse.device.batching import PATIENCE_NS
from streamfuse.device.chain import Results, Seat
from streamfuse.device.filter import JUMPED, WITHHELD
from streamfuse.device.motion import PARTS, HostMotion
from streamfuse.device.program import (
    CONFIDENCE,
    NEEDED,
    STATUS,
    STATUSES,
    VERDICT,
    WARM,
    Pass,
    Rules,
    Work,
)
from streamfuse.device.schedule import Choice, Schedule
from streamfuse.device.share import DeviceShare
from streamfuse.frame import Flow, Frame, FramePair, FusedFrame, Image8, Registration, Rung, Status
from streamfuse.pairing.motion import Compensation
from streamfuse.pairing.options import MotionMode
from streamfuse.registration.temporal import REASONS, Event, identity, reasons
from streamfuse.spans import span, timed

Shape = tuple[int, int]
"""(rows, columns)"""
MOVING_RUNGS = (Rung.FULL, Rung.REFINE)
"""Those that have the time to move the infrared."""


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """What is known of a frame that the device works on."""

    pair: FramePair
    seq: int
    rung: Rung
    dropped: dict[str, int]
    extra: dict[str, Any]
    submitted_ns: int
    latencies: dict[str, int]
    choice: Choice | None = None
    moved: bool = False


class DeviceWorker:
    """Turns pairs into fused frames on a device. One thread uses it.

    Args: as of `Worker`; kinds must be among those that live on a device. On device `cpu` everything happens
        at once, in the same order: that is how it is tested without a GPU.
        budget_ns: live: from capture until a frame has to be back; None: nobody waits for it.
        share: of the rigs of this process; None: this is the only one.
    """

    def __init__(
        self,
        registration: Component,
        fusion: Component,
        *,
        device: str,
        calibration: RigCalibration | None = None,
        motion: MotionMode = "off",
        options: WorkerOptions | None = None,
        budget_ns: int | None = None,
        share: DeviceShare | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._options = options or WorkerOptions()
        self._clock = clock or RealClock()
        self._calibration = calibration
        # One object for all frames: consumers tell a change of calibration by identity.
        self._extra = {} if calibration is None else {"calibration": calibration.model_dump(mode="json")}
        self.device = device
        self._components = registration, fusion
        self._budget_ns = budget_ns
        self._share = share or DeviceShare(clock=self._clock)
        parts = self._share.parts(registration, fusion, device=device)
        self._motion: HostMotion | None = None
        self._parts_moved = 0
        if motion != "off" and self._options.temporal:
            self._motion = HostMotion(motion, registers=parts.registers)
            self._parts_moved = PARTS[motion]
        self._seat: Seat | None = None
        self._sizes: tuple[Shape, Shape] | None = None
        self._schedule = Schedule(self._options)
        self._queue: deque[_UnderWay | FusedFrame] = deque()

    def reset(self) -> None:
        """Forget everything learnt from earlier pairs."""
        self._schedule.reset()
        if self._motion is not None:
            self._motion.reset()

    def submit(
        self,
        pair: FramePair,
        *,
        seq: int = 0,
        dropped: dict[str, int] | None = None,
        rung: Rung = Rung.FULL,
        rung_reason: str = "",
    ) -> list[FusedFrame]:
        """Start on a pair. Returns the frames that are finished, in the order of submission, none or more.

        rung: how much work it gets, see `Schedule`. rung_reason: as of `Worker.process`.

        Raises:
            CalibrationError: the infrared has not the size the calibration was made for.
        """
        extra = self._extra | {"rung_reason": rung_reason} if rung_reason else self._extra
        frame = _UnderWay(pair, seq, rung, dropped or {}, extra, self._clock.now_ns(), {})
        done: list[FusedFrame] = []
        if pair.ir is None or rung is Rung.PASS_THROUGH:
            self._queue.append(self._passed_through(pair, frame))
        else:
            with span("submit", seq):
                done = self._submit(pair, pair.ir, frame)
        while self._queue and isinstance(self._queue[0], FusedFrame):
            done.append(self._queue.popleft())  # type: ignore[arg-type]
        return done

    def drain(self) -> list[FusedFrame]:
        """Finish everything under way. Waits for it."""
        return [self._next() for _ in range(len(self._queue))]

    def process(
        self,
        pair: FramePair,
        *,
        seq: int = 0,
        dropped: dict[str, int] | None = None,
        rung: Rung = Rung.FULL,
    ) -> FusedFrame:
        """One pair on its own, with nothing else under way. The result has the visible picture's size."""
        frames = [*self.submit(pair, seq=seq, dropped=dropped, rung=rung), *self.drain()]
        return frames[-1]

    def prepare(self, *, ir_size: tuple[int, int], vis_size: tuple[int, int]) -> None:
        """See `FrameWorker`: builds, warms up and records. There is no backend to choose."""
        self._seat_for(ir_size[::-1], vis_size[::-1])

    def _submit(self, pair: FramePair, ir: Frame, frame: _UnderWay) -> list[FusedFrame]:
        vis = _colour(pair.vis.image)
        done: list[FusedFrame] = []
        shapes = (ir.image.shape[0], ir.image.shape[1]), (vis.shape[0], vis.shape[1])
        if self._sizes not in (None, shapes):
            done += self.drain()
        seat = self._seat_for(*shapes)
        moves = None if frame.rung not in MOVING_RUNGS else self._motion
        while seat.full or (len(seat) > 0 and moves is not None and moves.waits(pair)):
            done.append(self._next())
        epochs = (ir.epoch, pair.vis.epoch)
        self._schedule.look(ir.image, vis, t_ns=pair.t_capture, epochs=epochs)
        choice = self._schedule.choose(frame.rung, seat.chain.program.passes)
        if choice.forget and self._motion is not None:
            self._motion.reset()
        arrays: dict[str, npt.NDArray[Any]]
        arrays = {"ir": ir.image, "vis": vis, "when": np.array([pair.t_capture, choice.forget], np.int64)}
        moved: Compensation | None = None
        if moves is not None:
            with timed("motion", frame.latencies, self._clock, frame.seq):
                moved = moves.compensate(pair, vis, seat.calibration)
            if moved is not None:
                arrays |= moves.arrays(pair, moved)
                frame = replace(frame, extra=frame.extra | {"motion": moved.describe()}, moved=True)
        latest_ns = self._clock.now_ns() + PATIENCE_NS
        if self._budget_ns is not None:
            latest_ns = pair.t_capture + self._budget_ns
        seat.submit(arrays, Work(choice.which, moved is not None), latest_ns=latest_ns)
        self._queue.append(replace(frame, choice=choice))
        return done

    def _seat_for(self, ir: Shape, vis: Shape) -> Seat:
        if self._seat is None or self._sizes != (ir, vis):
            calibration = self._calibration
            if calibration is None:
                calibration = RigCalibration.identity(ir_size=ir[::-1], vis_size=vis[::-1])
            _check_sizes(calibration, ir, vis)
            rules = Rules(
                min_confidence=self._options.min_confidence,
                regain_confidence=self._options.regain_confidence,
                hold_ns=round(self._options.hold_s * NS_PER_S),
                smooth=self._options.smooth,
                calibrated=self._calibration is not None,
            )
            if self._seat is not None:
                # Its memory, before the next one's.
                self._share.leave_seat(self._seat)
                self._seat = None
            self._seat = self._share.take_seat(
                *self._components,
                calibration,
                rules,
                device=self.device,
                parts=self._parts_moved,
            )
            self._sizes = (ir, vis)
            self.reset()
        return self._seat

    def _next(self) -> FusedFrame:
        """The oldest frame, waiting for it."""
        first = self._queue.popleft()
        if isinstance(first, FusedFrame):
            return first
        assert self._seat is not None
        with timed("device_wait", first.latencies, self._clock, first.seq):
            arrays, together = self._seat.collect()
        return self._finished(first, self._seat, arrays, together)

    def _finished(self, frame: _UnderWay, seat: Seat, arrays: Results, together: int) -> FusedFrame:
        """together: how many frames went through the device at once."""
        assert frame.choice is not None
        latencies, extra = frame.latencies, frame.extra
        verdict = arrays["verdict"].tolist()
        registration = self._registration(frame.choice, verdict, arrays["flow"])
        used = verdict[CONFIDENCE] >= verdict[NEEDED]
        goes_on = self._schedule.learn(frame.choice.which, used)
        if self._motion is not None and goes_on and frame.rung in MOVING_RUNGS:
            self._motion.learn(registration)
        if frame.moved and registration.status is Status.OFF:
            # There was nothing to move.
            extra = {name: value for name, value in extra.items() if name != "motion"}
        total_ns = latencies["register_and_fuse"] = self._clock.now_ns() - frame.submitted_ns
        work = Work(frame.choice.which, frame.moved)
        busy_ns = seat.device_ns(work, together)
        # What the wait would have been without registration: the ladder asks for it.
        without_ns = seat.device_ns(work._replace(which=Pass.CALIBRATION), together)
        if busy_ns is not None and without_ns is not None:
            latencies["device"] = busy_ns
            latencies["register"] = max(0, min(total_ns, busy_ns - without_ns))
        return FusedFrame(
            image=arrays["image"],
            seq=frame.seq,
            t_capture=frame.pair.t_capture,
            pair=frame.pair,
            registered_ir=arrays["registered"],
            valid=arrays["valid"],
            registration=registration,
            rung=frame.rung,
            latencies_ns=latencies,
            dropped=frame.dropped,
            extra=extra,
        )

    @staticmethod
    def _registration(choice: Choice, verdict: list[float], flow: Flow) -> Registration:
        status, confidence, events = STATUSES[int(verdict[STATUS])], verdict[CONFIDENCE], choice.events
        reason = reasons(events)
        if choice.which is Pass.CALIBRATION:
            reason = "" if confidence == 1 else "the rig calibration alone, to save time"
        elif verdict[VERDICT] == WITHHELD:
            reason, events = REASONS[Event.WITHHELD], (*events, Event.WITHHELD)
        elif choice.which is not Pass.REUSE and confidence < verdict[NEEDED]:
            reason = f"confidence {confidence:.2f} below {verdict[NEEDED]:.2f}"
        elif verdict[VERDICT] == JUMPED:
            events = (*events, Event.OVERRULED if choice.which is Pass.KEY else Event.JUMPED)
            reason = reasons(events)
        if status in (Status.CALIBRATION, Status.OFF):
            return replace(identity(status, reason, confidence=confidence), events=events)
        return Registration(
            status=status,
            confidence=confidence,
            flow=flow,
            reason=reason,
            warm=bool(verdict[WARM]),
            events=events,
        )

    @staticmethod
    def _passed_through(pair: FramePair, frame: _UnderWay) -> FusedFrame:
        nothing = np.zeros(pair.vis.image.shape[:2], np.uint8)
        saving = "passed through, to save time"
        reason = saving if pair.ir is not None else pair.reason or "no infrared frame"
        return FusedFrame(
            image=pair.vis.image,
            seq=frame.seq,
            t_capture=pair.t_capture,
            pair=pair,
            registered_ir=nothing,
            valid=nothing,
            registration=identity(Status.OFF, reason),
            rung=frame.rung,
            latencies_ns={"register_and_fuse": 0},
            dropped=frame.dropped,
            extra=frame.extra,
        )


def _colour(image: Image8) -> Image8:
    return image if image.ndim == 3 else np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), np.uint8)


def _check_sizes(calibration: RigCalibration, ir: Shape, vis: Shape) -> None:
    """Raise CalibrationError or DataError unless the pictures, (rows, columns), are the calibration's."""
    calibration.check_infrared(ir)
    calibration.check_visible(vis)
