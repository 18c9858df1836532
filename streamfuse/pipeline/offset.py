"""The time offset between two streams: of recordings, read once beforehand, and of a run, while it goes on.

The estimator needs the two pictures roughly on top of each other. A recording's geometry is the calibration
and the median of what a registrar finds in a few pairs; failing that, it is estimated without a target;
failing that, both cameras are taken to see the same rectangle, and the evidence says whether that was right.
A run uses what it registers anyway.
"""

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import merge
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from streamfuse.calibration.calibration import RigCalibration
from streamfuse.calibration.estimate import estimate_calibration
from streamfuse.capture import SOURCES
from streamfuse.capture.reader import FrameReader
from streamfuse.clock import NS_PER_S, Clock, RealClock
from streamfuse.config import Component, Config
from streamfuse.errors import CalibrationError, ConfigError
from streamfuse.flow import nearest_affine
from streamfuse.frame import STREAMS, Frame, FusedFrame, Image8, SourceInfo, Status, Stream
from streamfuse.fusion.colour import luma
from streamfuse.outputs import write_text
from streamfuse.pairing.activity import map_points
from streamfuse.pairing.correlation import DEFAULT_MAX_LAG_S, LagCorrelator
from streamfuse.pairing.offset import OffsetEstimate, OffsetMeasurement, measure_offset
from streamfuse.pairing.offset_tracker import OffsetTracker
from streamfuse.registration.blocks import BlocksOptions, BlocksRegistrar
from streamfuse.sampling import Matrix, Points, apply_matrix

log = logging.getLogger(__name__)

PAIRS = 12
"""Enough for a median that a few wrong fields do not move."""
PAIR_STRIDE_MAX = 60
"""Frames between two pairs: what stands still in the first 24 seconds stands still later."""
SURE = 0.5
"""Confidence from which a registration counts for the geometry."""
FIELDS_KEPT = 9
FIELD_PERIOD_NS = NS_PER_S
"""Fields of a run are taken a second apart: neighbours err alike."""
QUEUE = 64
"""Frames that may wait for the estimator: a second of two streams. When it falls behind, it does without
some."""
POLL_S = 0.5
"""How soon the estimator's thread notices the end of the run."""

Geometry = Literal["calibration", "registered", "estimated", "assumed"]


class OffsetInUse(Protocol):
    """What the pairer asks about the offset."""

    def observe(self, frame: Frame) -> None:
        """Every frame that goes to the matcher, in order. Must not take long."""
        ...

    def at(self, t_ns: int) -> int | None:
        """The offset for an infrared frame captured at `t_ns`; None: not known."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingOffset:
    """The offset of two recordings. geometry: what brought the two pictures together."""

    measurement: OffsetMeasurement
    geometry: Geometry

    def observe(self, frame: Frame) -> None:
        """Nothing to learn: all frames were seen beforehand."""

    def at(self, t_ns: int) -> int | None:
        """See `OffsetInUse.at`."""
        return self.measurement.at(t_ns)


def measure_recording(
    config: Config, *, max_lag_s: float = DEFAULT_MAX_LAG_S, clock: Clock | None = None
) -> RecordingOffset:
    """Read the two sources of a configuration to their ends and measure their offset.

    Raises:
        ConfigError: a source is live, or can be read only once. SourceError, CalibrationError: as for a run.
    """
    clock = clock or RealClock()
    for stream in STREAMS:
        frames = getattr(getattr(config, stream).options, "frames", None)
        if isinstance(frames, Iterator):
            raise ConfigError(
                f"sources.{stream}: measuring the offset reads the pictures beforehand, and an iterator can "
                "be read only once; give a list or a function, or pairing.offset_ms as a number"
            )
    calibration = None if config.calibration is None else RigCalibration.load(config.calibration)
    pairs = _pairs(config, clock)
    correlator = LagCorrelator(max_lag_s=max_lag_s)
    geometry: Geometry = "assumed"
    if pairs:
        ir, vis = pairs[0]
        sizes = {"ir_size": (ir.shape[1], ir.shape[0]), "vis_size": (vis.shape[1], vis.shape[0])}
        found, residual, geometry = find_geometry(pairs, calibration, **sizes)
        correlator.geometry = _points(found, residual)
    blocks = []
    with _Opened(config, clock) as readers:
        streams = (_frames(reader) for reader in readers.values())
        for frame in merge(*streams, key=lambda frame: frame.t_capture):
            correlator.add(frame)
            blocks += correlator.blocks()
    blocks += correlator.blocks(ended=True)
    return RecordingOffset(measurement=measure_offset(blocks, correlator.lags), geometry=geometry)


def find_geometry(
    pairs: list[tuple[Image8, Image8]],
    calibration: RigCalibration | None,
    *,
    ir_size: tuple[int, int],
    vis_size: tuple[int, int],
) -> tuple[RigCalibration, Matrix, Geometry]:
    """What brings the infrared onto the visible in all pairs: a calibration, the residual, where it is from.

    Args:
        pairs: (raw infrared view, visible luma), uint8 (H, W) each.
        calibration: of the rig; None: not known.
    """
    rig = calibration or RigCalibration.identity(ir_size=ir_size, vis_size=vis_size)
    registrar = BlocksRegistrar(BlocksOptions())
    fields = []
    for ir, vis in pairs:
        in_vis, valid = rig.bring_infrared(ir)
        registration = registrar.register(in_vis, vis, valid=valid)
        if registration.status is Status.OK and registration.confidence >= SURE:
            fields.append(nearest_affine(registration))
    if len(fields) >= len(pairs) / 2:
        return rig, np.median(fields, axis=0), "registered"
    if calibration is not None:
        return rig, np.eye(3), "calibration"
    try:
        return estimate_calibration(pairs, model="affine").calibration, np.eye(3), "estimated"
    except CalibrationError as error:
        log.info("no geometry found, both cameras are taken to see the same rectangle: %s", error)
    return rig, np.eye(3), "assumed"


def _points(rig: RigCalibration, residual: Matrix) -> Points:
    """Where the cells of the activity map lie in the raw infrared."""
    return rig.to_infrared(apply_matrix(residual, map_points(rig.vis_size)))


class _Opened:
    """Readers of a configuration's two sources, of their own."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._readers = {stream: _reader(stream, getattr(config, stream), clock) for stream in STREAMS}
        self.infos: dict[Stream, SourceInfo] = {}

    def __enter__(self) -> dict[Stream, FrameReader]:
        try:
            for stream, reader in self._readers.items():
                self.infos[stream] = reader.open()
        except BaseException:
            self.__exit__()
            raise
        return self._readers

    def __exit__(self, *exc: object) -> None:
        for reader in self._readers.values():
            reader.close()


def _reader(stream: Stream, component: Component, clock: Clock) -> FrameReader:
    source = SOURCES.load(component.kind)(component.options, clock=clock)
    reader = FrameReader(source, stream=stream, options=component.options, kind=component.kind, clock=clock)
    if reader.live:
        raise ConfigError(
            f"sources.{stream}: the offset of a live source is measured while it runs "
            "(pairing.offset_ms=auto)"
        )
    return reader


def _frames(reader: FrameReader) -> Iterator[Frame]:
    while (frame := reader.read()) is not None:
        yield frame


def _pairs(config: Config, clock: Clock) -> list[tuple[Image8, Image8]]:
    """Pairs of pictures some way apart, as near in time as the stamps say: (infrared, visible luma)."""
    opened = _Opened(config, clock)
    pairs: list[tuple[Image8, Image8]] = []
    with opened as readers:
        length = opened.infos["vis"].frame_count or 0
        stride = max(1, min(length // PAIRS, PAIR_STRIDE_MAX))
        newest: Frame | None = None
        streams = (_frames(reader) for reader in readers.values())
        for frame in merge(*streams, key=lambda frame: frame.t_capture):
            if frame.stream == "ir":
                newest = frame
            elif newest is not None and frame.seq % stride == 0:
                pairs.append((newest.image, luma(frame.image)))
                if len(pairs) == PAIRS:
                    break
    return pairs


def written(found: RecordingOffset, path: Path) -> None:
    """The result as a JSON file. Raises SinkError when it cannot be written."""

    def ms(seconds: float | None) -> float | None:
        return None if seconds is None else round(seconds * 1000, 3)

    def ppm(drift: float | None) -> float | None:
        return None if drift is None else round(drift * 1e6, 1)

    measured, overall = found.measurement, found.measurement.overall
    data = {
        "status": overall.status.value,
        "reason": overall.reason,
        "offset_ms": ms(overall.offset_s),
        "uncertainty_ms": ms(overall.uncertainty_s),
        "at_s": round(overall.t_s, 3),
        "drift_ppm": ppm(measured.drift),
        "drift_uncertainty_ppm": ppm(measured.drift_uncertainty),
        "drift_reason": measured.drift_reason,
        "correlation": round(overall.correlation, 3),
        "contrast": round(overall.contrast, 2),
        "geometry": found.geometry,
        "windows": [
            {
                "t_s": round(window.t_s, 3),
                "offset_ms": ms(window.offset_s),
                "uncertainty_ms": ms(window.uncertainty_s),
            }
            for window in measured.windows
        ],
        "blocks": [
            {
                "t_s": round(block.t_s, 3),
                "active": block.active,
                "offset_ms": ms(block.offset_s),
                "correlation": round(block.correlation, 3),
            }
            for block in overall.blocks
        ],
    }
    write_text(json.dumps(data, indent=2) + "\n", path)


class LiveOffset:
    """Measures the offset of a run on a thread of its own; the frame path only leaves references here.

    Args:
        calibration: of the rig; None: plain resize.
        tell: takes the newest estimate after each block, on the estimator's thread.
    """

    def __init__(self, calibration: RigCalibration | None, *, tell: Callable[[OffsetEstimate], None]) -> None:
        self._calibration = calibration
        self._tell = tell
        self._correlator = LagCorrelator()
        self._tracker = OffsetTracker(self._correlator.lags)
        self._frames: deque[Frame] = deque(maxlen=QUEUE)
        self._fields: deque[Matrix] = deque(maxlen=FIELDS_KEPT)
        self._field_at_ns: int | None = None
        self._sizes: dict[Stream, tuple[int, int]] = {}
        self._busy = False
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="streamfuse-offset", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what it has not looked at is left."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def observe(self, frame: Frame) -> None:
        """See `OffsetInUse.observe`."""
        self._frames.append(frame)
        self._wake.set()

    def at(self, t_ns: int) -> int | None:
        """See `OffsetInUse.at`."""
        return self._tracker.at(t_ns)

    @property
    def waiting(self) -> int:
        """Frames not looked at yet, the one under way included."""
        return len(self._frames) + self._busy

    def learn_geometry(self, fused: FusedFrame) -> None:
        """Look at the registration of a finished frame, now and then."""
        due = self._field_at_ns is None or fused.t_capture >= self._field_at_ns + FIELD_PERIOD_NS
        if due and fused.status is Status.OK and fused.confidence >= SURE:
            self._field_at_ns = fused.t_capture
            self._fields.append(nearest_affine(fused.registration))

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(POLL_S)
            self._wake.clear()
            while self._frames and not self._stopping.is_set():
                self._busy = True
                self._take(self._frames.popleft())
                self._busy = False

    def _take(self, frame: Frame) -> None:
        if not self._correlator.add(frame):
            self._tracker.restart()
        size = (frame.image.shape[1], frame.image.shape[0])
        if self._sizes.get(frame.stream) != size:
            self._sizes[frame.stream] = size
            self._correlator.geometry = self._geometry()
        blocks = self._correlator.blocks()
        if blocks:
            for block in blocks:
                self._tracker.add(block)
            self._correlator.geometry = self._geometry()
            self._tell(self._tracker.estimate)

    def _geometry(self) -> Points | None:
        """The median of the fields found so far, after the calibration, for the next block."""
        sizes = self._sizes
        if len(sizes) < len(STREAMS):
            return None
        rig = self._calibration
        if rig is None:
            rig = RigCalibration.identity(ir_size=sizes["ir"], vis_size=sizes["vis"])
        if (rig.ir_size, rig.vis_size) != (sizes["ir"], sizes["vis"]):
            return None
        fields = list(self._fields)
        return _points(rig, np.median(fields, axis=0) if fields else np.eye(3))


def described(estimate: OffsetEstimate) -> dict[str, Any]:
    """An estimate for statistics: status, reason, estimate_ms, uncertainty_ms."""

    def ms(seconds: float | None) -> float | None:
        return None if seconds is None else round(seconds * 1000, 2)

    return {
        "status": estimate.status.value,
        "reason": estimate.reason,
        "estimate_ms": ms(estimate.offset_s),
        "uncertainty_ms": ms(estimate.uncertainty_s),
    }
