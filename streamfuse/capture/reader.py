"""From raw pictures of one source to stamped, conditioned frames of one stream, without a thread.

Time. Offline, the capture time is the source's own stamp, exact. Live, it is the clock filter's estimate. A
source that is finite can also be paced: played in real time from the moment it was opened, beside a live
one.
"""

import logging
from collections import Counter

from streamfuse.capture.agc import Agc
from streamfuse.capture.clock_filter import LATENCY_PRIOR_NS, ClockFilter, Stamp
from streamfuse.capture.conditioning import oriented, to_stream
from streamfuse.capture.duplicates import DuplicateDetector
from streamfuse.capture.options import SourceOptions
from streamfuse.capture.source import Source
from streamfuse.clock import NS_PER_MS, NS_PER_S, Clock
from streamfuse.frame import DropCause, Frame, Image8, Image16, RawFrame, SourceInfo, StampSource, Stream

log = logging.getLogger(__name__)

UNSTAMPED_PERIOD_NS = 40 * NS_PER_MS
"""Offline pictures without any stamp are taken as 25 a second: pairing needs a distance in time."""


class FrameReader:
    """Reads one stream. One thread uses it; only `close` may be called from another one.

    Args:
        kind: the source's kind, for its latency prior.
        paced: play a finite source in real time, with stamps on the clock's own line.

    Attributes:
        live: frames come in real time.
        first_picture: as the source delivered it, to tell what kind of camera it is.
        drops: frames that came in but are not delivered, by cause; the source's own losses included.
    """

    def __init__(
        self,
        source: Source,
        *,
        stream: Stream,
        options: SourceOptions,
        kind: str,
        clock: Clock,
        paced: bool = False,
    ) -> None:
        self.stream = stream
        self.live = source.live or paced
        self._source = source
        self._options = options
        self._clock = clock
        self._paced = paced and not source.live
        latency = options.latency_ms
        self._latency_ns = LATENCY_PRIOR_NS.get(kind, 0) if latency is None else round(latency * NS_PER_MS)
        self._filter = ClockFilter(latency_ns=self._latency_ns)
        self._agc = Agc(options.agc)
        self._duplicates = DuplicateDetector()
        self._drop_repeats = options.duplicates == "drop" or (
            options.duplicates == "auto" and self.live and stream == "ir"
        )
        self._drops: Counter[DropCause] = Counter()
        self._source_drops: Counter[DropCause] = Counter()
        self._seq = 0
        self._epoch = 0
        self._opened = 0
        self._shape: tuple[int, ...] | None = None
        self._paced_from_ns: int | None = None
        self.first_picture: Image8 | Image16 | None = None

    @property
    def drops(self) -> Counter[DropCause]:
        return self._drops + self._source_drops + self._current_source_drops()

    @property
    def skew_ppm(self) -> float:
        """How much faster the computer's clock runs than the source's; 0 while unknown."""
        return self._filter.skew_ppm

    def open(self) -> SourceInfo:
        """Connect. Opening again after a failure begins a new epoch. Raises SourceError."""
        if self._opened:
            self._source_drops += self._current_source_drops()
        info = self._source.open()
        if self._opened:
            self._begin_epoch()
        self._opened += 1
        self._paced_from_ns = None
        return info

    def read(self) -> Frame | None:
        """The next frame to be used; None at the end. Raises what the source raises."""
        while True:
            raw = self._source.read()
            if raw is None:
                return None
            frame = self._condition(raw)
            if frame is not None:
                return frame

    def close(self) -> None:
        self._source.close()

    def _current_source_drops(self) -> Counter[DropCause]:
        return Counter(getattr(self._source, "drops", None) or {})

    def _begin_epoch(self) -> None:
        self._epoch += 1
        self._duplicates.reset()
        self._filter = ClockFilter(latency_ns=self._latency_ns)

    def _condition(self, raw: RawFrame) -> Frame | None:
        if self.first_picture is None:
            self.first_picture = raw.image
        picture = oriented(raw.image, self._options, stream=self.stream)
        if self._shape is not None and picture.shape[:2] != self._shape:
            log.warning(
                "%s: picture size changed from %dx%d to %dx%d",
                self.stream,
                *self._shape[::-1],
                *picture.shape[1::-1],
            )
            self._begin_epoch()
            self._agc.reset()
        self._shape = picture.shape[:2]
        stamp = self._stamp(raw)
        if stamp.reset:
            log.warning("%s: the source's time line broke; a new one begins", self.stream)
            self._epoch += 1
            self._duplicates.reset()
        seq = self._seq
        self._seq += 1
        image, sensor = self._view(picture)
        duplicate, frozen = self._duplicates.update(image, stamp.t_capture)
        if duplicate and self._drop_repeats:
            self._drops[DropCause.FROZEN if frozen else DropCause.DUPLICATE] += 1
            return None
        return Frame(
            stream=self.stream,
            image=image,
            seq=seq,
            t_capture=stamp.t_capture,
            t_arrival=raw.t_arrival,
            pts=raw.pts,
            time_base=raw.time_base,
            epoch=self._epoch,
            raw=sensor,
            unit=raw.unit,
            stamp_source=self._stamp_source(raw),
            stamp_uncertainty_ns=stamp.uncertainty_ns,
            duplicate=duplicate,
            frozen=frozen,
            name=raw.name,
        )

    def _view(self, picture: Image8 | Image16) -> tuple[Image8, Image16 | None]:
        """The 8-bit view of the stream, hot always bright, and the sensor's own counts beside it."""
        sensor: Image16 | None = None
        if picture.dtype.itemsize == 2:
            sensor = picture  # type: ignore[assignment]
            view = to_stream(self._agc.apply(sensor), self.stream)  # type: ignore[arg-type]
        else:
            view = to_stream(picture, self.stream)  # type: ignore[arg-type]
        if self._options.polarity == "black_hot" and self.stream == "ir":
            view = 255 - view
        return view, sensor

    def _stamp(self, raw: RawFrame) -> Stamp:
        pts_ns = None
        if raw.pts is not None and raw.time_base is not None:
            pts_ns = round(raw.pts * raw.time_base * NS_PER_S)
        if self._paced:
            return self._paced_stamp(pts_ns)
        if self.live:
            stamp = self._filter.update(pts_ns, raw.t_arrival)
            if raw.t_capture_hint is None:
                return stamp
            return Stamp(raw.t_capture_hint, stamp.uncertainty_ns, stamp.reset)
        if raw.t_capture_hint is not None:
            return Stamp(raw.t_capture_hint, 0)
        return Stamp(self._seq * UNSTAMPED_PERIOD_NS if pts_ns is None else pts_ns, 0)

    def _paced_stamp(self, pts_ns: int | None) -> Stamp:
        media_ns = self._seq * UNSTAMPED_PERIOD_NS if pts_ns is None else pts_ns
        now = self._clock.now_ns()
        if self._paced_from_ns is None:
            self._paced_from_ns = now - media_ns
        due = self._paced_from_ns + media_ns
        self._clock.sleep_ns(due - now)
        return Stamp(due, 0)

    def _stamp_source(self, raw: RawFrame) -> StampSource:
        if not self.live or self._paced:
            return "file_pts"
        if raw.t_capture_hint is not None:
            return "rtcp"
        return "arrival" if raw.pts is None else "device"
