"""What motion compensation is worth: a clip whose infrared is thinned out, against the frames left out.

Every n-th infrared frame goes through the pipeline, once held, once moved to the visible time in each way;
the frames left out, warped by the same geometry, are the truth. Judged are the visible frames that have a
true infrared frame of their own time and no other infrared left. The moving mask of such a frame: where any
true frame since the held one differs from it, and a little around; it does not depend on any method.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.batch import clip_config
from streamfuse.calibration.calibration import RigCalibration
from streamfuse.capture import SOURCES
from streamfuse.capture.reader import FrameReader
from streamfuse.clock import RealClock
from streamfuse.config import Component, WorkerOptions, parse_config
from streamfuse.errors import DataError
from streamfuse.frame import STREAMS, Frame, FusedFrame, Image8, Stream
from streamfuse.fusion.average import AverageFuser
from streamfuse.inputs import Job
from streamfuse.pairing.matcher import Matcher
from streamfuse.pairing.motion import MIN_SPAN_NS
from streamfuse.pairing.options import MotionMode, PairingOptions
from streamfuse.pipeline.core import FusionCore
from streamfuse.pipeline.statistics import Statistics
from streamfuse.registration.none import NoneRegistrar
from streamfuse.worker import Worker

TRUTH = "truth"
METHODS: dict[str, MotionMode] = {"hold": "off", "causal": "causal", "interpolate": "interpolate"}
MIN_EVERY = 2
MOVING_LEVELS = 8.0
"""Grey levels of smoothed change that count as motion: several times the noise of an 8-bit view."""
MOVING_BLUR = 1.5
"""Sigma, pixels: takes pixel noise out of the change, keeps a thin limb."""
MOVING_RIM = 5
"""Pixels around what changed that still belong to it: its blurred outline."""

Region = npt.NDArray[np.bool_]


@dataclass(slots=True)
class _Sums:
    """Absolute error against the true infrared over all judged frames, and time by stage."""

    inside: float = 0.0
    outside: float = 0.0
    compensated: int = 0
    motion_ns: list[int] = field(default_factory=list)
    warp_ns: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodResult:
    """Mean absolute errors in grey levels, inside and outside the moving mask, and their ratios to holding.

    compensated: share of the judged frames that were moved. motion_ms: finding the motion, mean over all
    frames, as it is not the same work on each. warp_ms: the warp, median over the judged frames.
    """

    inside: float
    inside_ratio: float
    outside: float
    outside_ratio: float
    compensated: float
    motion_ms: float
    warp_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionResult:
    """Results by method (hold, causal, interpolate) over `frames` judged frames. moving: mean share of the
    picture inside the moving mask."""

    frames: int
    moving: float
    methods: dict[str, MethodResult]


def compare_motion(
    ir: str,
    vis: str,
    *,
    every: int = 3,
    calibration: Path | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
) -> MotionResult:
    """Hold, move causally and interpolate infrared of which only every n-th frame is left.

    Args:
        ir, vis: clips of one rate, as `streamfuse fuse` takes them.
        every: of so many infrared frames one is kept, MIN_EVERY or more.
        calibration: the rig's geometry; None: a plain resize.

    Raises:
        DataError: no frame could be judged. SourceError, CalibrationError: as they say.
    """
    tree = clip_config(Job(name="clip", ir=ir, vis=vis), {}, start_s=start_s, end_s=end_s)
    for stream in STREAMS:
        tree["sources"][stream]["duplicates"] = "keep"
    config = parse_config(tree)
    rig = None if calibration is None else RigCalibration.load(calibration)
    cores = {TRUTH: _core("off", rig)} | {name: _core(mode, rig) for name, mode in METHODS.items()}
    done: dict[str, deque[FusedFrame]] = {name: deque() for name in cores}
    judge = _Judge()
    readers: dict[Stream, FrameReader] = {"ir": _reader("ir", config.ir), "vis": _reader("vis", config.vis)}
    for frame in _in_time(readers):
        for name, core in cores.items():
            if frame.stream == "vis" or name == TRUTH or frame.seq % every == 0:
                core.feed(frame)
                done[name].extend(core.step())
        judge.take(done)
    for name, core in cores.items():
        for stream in STREAMS:
            core.end(stream)
        done[name].extend(core.step())
    judge.take(done)
    return judge.result()


def _core(mode: MotionMode, calibration: RigCalibration | None) -> FusionCore:
    clock = RealClock()
    worker = Worker(
        Component("none", NoneRegistrar.Options()),
        Component("average", AverageFuser.Options()),
        calibration=calibration,
        motion=mode,
        options=WorkerOptions(device="cpu"),
        clock=clock,
    )
    options = PairingOptions(driver="vis", motion=mode)
    matcher = Matcher(options, live=False, default_driver="vis")
    return FusionCore(matcher, worker, live=False, budget_ns=0, clock=clock, statistics=Statistics())


def _reader(stream: Stream, component: Component) -> FrameReader:
    clock = RealClock()
    source = SOURCES.load(component.kind)(component.options, clock=clock)
    return FrameReader(source, stream=stream, options=component.options, kind=component.kind, clock=clock)


def _in_time(readers: dict[Stream, FrameReader]) -> Iterator[Frame]:
    """The frames of both streams in the order of their stamps."""
    try:
        for reader in readers.values():
            reader.open()
        waiting = [frame for reader in readers.values() if (frame := reader.read()) is not None]
        while waiting:
            frame = min(waiting, key=lambda frame: frame.t_capture)
            waiting.remove(frame)
            yield frame
            following = readers[frame.stream].read()
            if following is not None:
                waiting.append(following)
    finally:
        for reader in readers.values():
            reader.close()


class _Judge:
    """Compares what the methods made of each visible frame with its true infrared."""

    def __init__(self) -> None:
        self._sums = {name: _Sums() for name in METHODS}
        self._moved: Region | None = None
        self._frames = 0
        self._pixels_in = self._pixels_out = 0

    def take(self, done: dict[str, deque[FusedFrame]]) -> None:
        """Judge the frames that all methods have finished."""
        while all(done.values()):
            self._compare({name: frames.popleft() for name, frames in done.items()})

    def _compare(self, made: dict[str, FusedFrame]) -> None:
        truth, held = made[TRUTH], made["hold"]
        for name, sums in self._sums.items():
            sums.motion_ns.append(made[name].latencies_ns.get("motion", 0))
        if held.pair.ir is None or abs(held.pair.dt_ns) < MIN_SPAN_NS:
            self._moved = None
            return
        if truth.pair.ir is None:
            return
        region = _changed(held.registered_ir, truth.registered_ir)
        self._moved = region if self._moved is None else self._moved | region
        if abs(truth.pair.dt_ns) >= MIN_SPAN_NS:
            return
        inside = _with_rim(self._moved)
        covered = held.valid > 0
        self._frames += 1
        self._pixels_in += int(np.count_nonzero(inside & covered))
        self._pixels_out += int(np.count_nonzero(~inside & covered))
        for name, sums in self._sums.items():
            frame = made[name]
            error = cv2.absdiff(frame.registered_ir, truth.registered_ir)
            sums.inside += float(error[inside & covered].sum())
            sums.outside += float(error[~inside & covered].sum())
            sums.compensated += "motion" in frame.extra
            sums.warp_ns.append(frame.latencies_ns["warp"])

    def result(self) -> MotionResult:
        if not self._frames:
            raise DataError(
                "no frame to judge: the infrared needs frames at the times of the visible ones, so that "
                "those left out can be the truth"
            )
        hold = self._sums["hold"]
        return MotionResult(
            frames=self._frames,
            moving=self._pixels_in / max(self._pixels_in + self._pixels_out, 1),
            methods={name: self._method(sums, hold) for name, sums in self._sums.items()},
        )

    def _method(self, sums: _Sums, hold: _Sums) -> MethodResult:
        return MethodResult(
            inside=sums.inside / max(self._pixels_in, 1),
            inside_ratio=_ratio(sums.inside, hold.inside),
            outside=sums.outside / max(self._pixels_out, 1),
            outside_ratio=_ratio(sums.outside, hold.outside),
            compensated=sums.compensated / self._frames,
            motion_ms=float(np.mean(sums.motion_ns)) / 1e6,
            warp_ms=float(np.median(sums.warp_ns)) / 1e6,
        )


def _ratio(value: float, reference: float) -> float:
    return value / reference if reference else 1.0


def _changed(held: Image8, true: Image8) -> Region:
    smooth = [cv2.GaussianBlur(image.astype(np.float32), (0, 0), MOVING_BLUR) for image in (held, true)]
    return np.asarray(np.abs(smooth[0] - smooth[1]) > MOVING_LEVELS)


def _with_rim(region: Region) -> Region:
    side = 2 * MOVING_RIM + 1
    return np.asarray(cv2.dilate(region.astype(np.uint8), np.ones((side, side), np.uint8)) > 0)
