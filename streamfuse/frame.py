"""The nouns of the pipeline: what flows from a camera to a sink.

source -> `RawFrame` -> capture -> `Frame` -> pairing -> `FramePair` -> register -> `Registration`
-> fuse -> `FusedFrame` -> sinks. All are frozen: a stage makes a new one, it never edits an old one.
Those that hold arrays are equal only to themselves.
Images are C-contiguous numpy arrays, rows x columns; colour is RGB. Their memory is never used again for
another frame, so they are the caller's to keep; but sinks and later frames read the same arrays: copy one
before drawing on it. Times are integer nanoseconds on
one time line: monotonic when live, media time (first visible frame of the run near 0) offline.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Stream = Literal["ir", "vis"]
STREAMS: tuple[Stream, Stream] = ("ir", "vis")
Unit = Literal["agc8", "counts", "centikelvin"]
StampSource = Literal["device", "rtcp", "arrival", "file_pts"]
OffsetSource = Literal["config", "auto"]
Image8 = npt.NDArray[np.uint8]
Image16 = npt.NDArray[np.uint16]
Flow = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]


class DropCause(StrEnum):
    """Why a frame that came in never came out. Frames in = frames out + the sum over causes."""

    CORRUPT = "corrupt"
    DUPLICATE = "duplicate"
    FROZEN = "frozen"
    OVERRUN = "overrun"
    LATE = "late"
    NO_PARTNER = "no_partner"
    OUT_OF_WINDOW = "out_of_window"
    DEADLINE = "deadline"
    SUPERSEDED = "superseded"
    EPOCH_RESET = "epoch_reset"
    SINK_FULL = "sink_full"
    SINK_FAILED = "sink_failed"
    SHUTDOWN = "shutdown"


class Status(StrEnum):
    """Where the alignment of a fused frame comes from."""

    OK = "ok"
    """Estimated on this frame."""
    HELD = "held"
    """The last good field: this frame gave none to be trusted, or was not asked for one (see `Rung`)."""
    CALIBRATION = "calibration"
    """The rig calibration alone."""
    OFF = "off"
    """The visible picture, unfused."""


class Rung(StrEnum):
    """The degradation ladder, best first: how much work a live frame got, to be shown in time.

    What came of that work is the `Status`: without a field to reuse, a frame on `reuse` may be `off`.
    """

    FULL = "full"
    """All there is; offline always."""
    REFINE = "refine"
    """One refinement of the last field, no search."""
    REUSE = "reuse"
    """The last good field as it is."""
    CALIBRATION = "calibration"
    """The rig calibration alone, no registration."""
    PASS_THROUGH = "pass_through"
    """The visible picture, unfused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """What a source knows about itself once it is open. `fps` is nominal, 0 when unknown."""

    width: int
    height: int
    fps: float
    frame_count: int | None = None
    time_base: Fraction | None = None
    pixel_format: str = ""
    codec: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RawFrame:
    """A picture as its source delivered it, before conditioning.

    image: uint8 (H, W) or (H, W, 3) RGB, or uint16 (H, W).
    pts: presentation stamp in units of `time_base` seconds, None when the source has none.
    t_arrival: monotonic, taken right after the packet was received and before it was decoded.
    t_capture_hint: capture time known better than by PTS and arrival (file name, RTCP), same line as
    t_arrival when live and media time when not.
    name: of the picture's file, without folder and suffix, when it has one of its own.
    """

    image: Image8 | Image16
    t_arrival: int
    pts: int | None = None
    time_base: Fraction | None = None
    t_capture_hint: int | None = None
    unit: Unit = "agc8"
    corrupt: bool = False
    name: str = ""

    def __repr__(self) -> str:
        size = "x".join(str(n) for n in np.shape(self.image)[1::-1])
        return f"RawFrame({size} {self.unit} pts={self.pts} t_arrival={self.t_arrival / 1e9:.4f}s)"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One conditioned picture of one stream.

    image: uint8; infrared (H, W) after AGC, visible (H, W, 3) RGB.
    raw: the sensor's own uint16 (H, W) beside the AGC view, when there is one.
    seq: +1 for each frame the source delivered, going on over reconnects.
    epoch: +1 whenever the source's time line or geometry was broken (reconnect, PTS reset, resize).
    stamp_source: what `t_capture` rests on.
    name: of the picture's file, without folder and suffix, when it has one of its own.
    """

    stream: Stream
    image: Image8
    seq: int
    t_capture: int
    t_arrival: int
    pts: int | None = None
    time_base: Fraction | None = None
    epoch: int = 0
    raw: Image16 | None = None
    unit: Unit = "agc8"
    stamp_source: StampSource = "file_pts"
    stamp_uncertainty_ns: int = 0
    duplicate: bool = False
    frozen: bool = False
    name: str = ""

    @property
    def pts_seconds(self) -> Fraction | None:
        """Exact presentation time in seconds, None when the source has none."""
        if self.pts is None or self.time_base is None:
            return None
        return self.pts * self.time_base

    def __repr__(self) -> str:
        return (
            f"Frame({self.stream} #{self.seq} {self.image.shape[1]}x{self.image.shape[0]} "
            f"t={self.t_capture / 1e9:.4f}s epoch={self.epoch})"
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FramePair:
    """The frames that belong together; the visible one is always there, it carries the geometry.

    ir: None when no infrared frame may stand beside this visible frame (the output is then the
    visible picture). dt_ns: capture time of `ir`, with `offset_ns` added, minus that of `vis`.
    offset_source: auto once it was measured. held: `ir` has been used before, or is the last one of an
    outage. ir_before, ir_after: neighbours of `ir` in time, when already known.
    """

    vis: Frame
    ir: Frame | None
    driver: Stream
    dt_ns: int = 0
    window_ns: int = 0
    offset_ns: int = 0
    offset_source: OffsetSource = "config"
    held: bool = False
    ir_before: Frame | None = None
    ir_after: Frame | None = None
    reason: str = ""

    @property
    def t_capture(self) -> int:
        """Capture time of the driver frame: the time the fused frame stands for."""
        if self.driver == "ir" and self.ir is not None:
            return self.ir.t_capture + self.offset_ns
        return self.vis.t_capture


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Registration:
    """What a registrar found: a pull field in visible geometry.

    registered(p) = ir(p + flow(p)), p = (x, y) in pixels, `ir` already brought into visible geometry by
    the rig calibration. Exactly one of `matrix` (float64 (3, 3), p + flow(p) = matrix @ p) and `flow`
    (float32 (H, W, 2), channels (dx, dy)) is given; a matrix is cheaper to apply.
    confidence: 0..1. warm: started from a prior. events: what happened to the state in time
    (`registration.temporal.Event`), empty on an ordinary frame. evidence: the numbers the confidence
    rests on, as its registrar defines them. support: how well the field is known from place to place,
    float32 on a grid of the registrar's own, pixel^-2 of its working picture; None where it does not say.

    Raises:
        ValueError: none or both of `matrix` and `flow`, or a field of another type, shape or range.
    """

    status: Status
    confidence: float
    matrix: npt.NDArray[np.float64] | None = None
    flow: Flow | None = None
    reason: str = ""
    warm: bool = False
    events: tuple[str, ...] = ()
    evidence: tuple[float, ...] = ()
    support: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if (self.matrix is None) == (self.flow is None):
            raise ValueError("a Registration holds exactly one of matrix and flow")
        if not isinstance(self.status, Status):
            raise ValueError(f"Registration.status must be a Status, got {self.status!r:.40}")
        if self.confidence < 0 or self.confidence > 1:  # NaN is below every limit: such a field is not used
            raise ValueError(f"Registration.confidence must be in 0..1, got {self.confidence!r:.40}")
        if self.matrix is not None and np.shape(self.matrix) != (3, 3):
            raise ValueError(f"Registration.matrix must be (3, 3), got {np.shape(self.matrix)}")
        flow = self.flow
        if flow is not None and not (flow.dtype == np.float32 and flow.ndim == 3 and flow.shape[2] == 2):
            raise ValueError(f"Registration.flow must be float32 (H, W, 2), got {flow.dtype} {flow.shape}")

    def __repr__(self) -> str:
        kind = "flow" if self.matrix is None else "matrix"
        return f"Registration({self.status} {kind} confidence={self.confidence:.2f})"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusedFrame:
    """One finished picture and everything a consumer may want to know about it.

    image: uint8 (H, W, 3) RGB in visible geometry. registered_ir: uint8 (H, W). valid: uint8 (H, W),
    255 where infrared covers the picture. rung: the work it got. latencies_ns: durations by stage name.
    extra: what some runs know besides; `motion` (mode, over_ns, share) when the infrared was moved to the
    visible time.
    """

    image: Image8
    seq: int
    t_capture: int
    pair: FramePair
    registered_ir: Image8
    valid: Mask
    registration: Registration
    rung: Rung = Rung.FULL
    latencies_ns: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        return self.registration.status

    @property
    def reason(self) -> str:
        return self.registration.reason

    @property
    def confidence(self) -> float:
        return self.registration.confidence

    @property
    def warm(self) -> bool:
        return self.registration.warm

    @property
    def visible(self) -> Image8:
        return self.pair.vis.image

    def __repr__(self) -> str:
        return (
            f"FusedFrame(#{self.seq} {self.image.shape[1]}x{self.image.shape[0]} "
            f"t={self.t_capture / 1e9:.4f}s {self.status} confidence={self.confidence:.2f})"
        )
