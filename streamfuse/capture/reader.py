"""From raw pictures of one source to stamped, conditioned frames of one stream, without a thread.

Time. Offline, the capture time is the source's own stamp, exact. Live, it is the clock filter's estimate. A
finite source can also be paced: played in real time, beside a live one. Stamps of a stream always rise; where
the source's time line breaks, a new epoch begins.
"""

import logging
import sys
import threading
from collections import Counter
from dataclasses import replace

import numpy as np

from streamfuse.capture.agc import Agc
from streamfuse.capture.clock_filter import LATENCY_PRIOR_NS, ClockFilter, Stamp
from streamfuse.capture.conditioning import LAYOUTS, oriented, oriented_size, to_stream, wrong_layout
from streamfuse.capture.duplicates import DuplicateDetector
from streamfuse.capture.media_time import MediaTime, Pace
from streamfuse.capture.options import SourceOptions
from streamfuse.capture.source import Source
from streamfuse.clock import NS_PER_MS, NS_PER_S, Clock
from streamfuse.errors import ConfigError, SourceError, SourceInterrupted
from streamfuse.frame import DropCause, Frame, Image8, Image16, RawFrame, SourceInfo, StampSource, Stream
from streamfuse.spans import span

log = logging.getLogger(__name__)

UNSTAMPED_PERIOD_NS = 40 * NS_PER_MS
"""Offline pictures without any stamp are taken as 25 a second: pairing needs a distance in time."""
AHEAD_NS = 3600 * NS_PER_S
"""A live picture dated so far ahead of the clock was dated by another one, such as Unix time."""


class FrameReader:
    """Reads one stream. One thread uses it; only `close` and `renew` may be called from another one.

    Args:
        options: those the source was made from.
        kind: the source's kind, for its latency prior.
        pace: play a finite source in real time, with stamps on the clock's own line.

    Attributes:
        live: frames come in real time.
        endless: the source is live itself; silence means trouble.
        first_picture: as the source delivered it, to tell what kind of camera it is.
        repeats: pictures that were found to show nothing new, by cause, dropped or not.

    Raises:
        ConfigError: `polarity` is set for a visible stream, or the source lacks `live`.
    """

    def __init__(
        self,
        source: Source,
        *,
        stream: Stream,
        options: SourceOptions,
        kind: str,
        clock: Clock,
        pace: Pace | None = None,
    ) -> None:
        if not isinstance(getattr(source, "live", None), bool):
            raise ConfigError(
                f"sources.{stream}: a source of kind {kind!r} does not say whether it is live: it needs an "
                "attribute `live`, True or False"
            )
        if stream == "vis" and options.polarity == "black_hot":
            raise ConfigError("sources.vis.polarity: black_hot is for infrared; is sources.ir meant?")
        self.stream = stream
        self.live = source.live or pace is not None
        self.endless = source.live
        self.first_picture: Image8 | Image16 | None = None
        self.repeats: Counter[DropCause] = Counter()
        self._source = source
        self._options = options
        self._clock = clock
        self._pace = None if source.live else pace
        latency = options.latency_ms
        latency_ns = LATENCY_PRIOR_NS.get(kind, 0) if latency is None else round(latency * NS_PER_MS)
        self._filter = ClockFilter(latency_ns=latency_ns)
        self._media = MediaTime()
        self._agc = Agc(options.agc)
        self._duplicates = DuplicateDetector()
        self._drop_repeats = options.duplicates == "drop" or (
            options.duplicates == "auto" and self.live and stream == "ir"
        )
        self._drops: Counter[DropCause] = Counter()
        self._drops_before: Counter[DropCause] = Counter()
        self._seq = 0
        self._epoch = 0
        self._last_capture = -sys.maxsize
        self._opened_before = False
        self._format: tuple[object, ...] | None = None
        self._processing = threading.Lock()
        self._closing = threading.Event()

    @property
    def drops(self) -> Counter[DropCause]:
        """Frames that came in but are not delivered, by cause; the source's own losses included."""
        # Copied first: the thread that reads may add a cause while they are added up.
        return Counter(self._drops) + Counter(self._drops_before) + self._source_drops()

    @property
    def delivered(self) -> int:
        """Pictures the source has delivered."""
        return self._seq

    @property
    def skew_ppm(self) -> float:
        """How much faster the computer's clock runs than the source's; 0 while unknown."""
        return self._filter.skew_ppm

    def open(self) -> SourceInfo:
        """Connect. Opening again after a failure begins a new epoch.

        Returns:
            What the source says of itself, with the size its frames will have.

        Raises:
            SourceError: what the source raises.
            ConfigError: the crop does not lie inside the picture.
        """
        self._closing.clear()
        source = self._source
        info = source.open()
        with self._processing:
            self._check_current(source)
            if not isinstance(info, SourceInfo):
                source.close()
                raise SourceError(f"{self.stream}: open() gave {type(info).__name__}; must be a SourceInfo")
            try:
                width, height = oriented_size(info.width, info.height, self._options, stream=self.stream)
            except ConfigError:
                source.close()
                raise
            if self._opened_before:
                self._begin_epoch()
                self._filter.reset()
            self._opened_before = True
        return replace(info, width=width, height=height)

    def read(self) -> Frame | None:
        """The next frame to be used; None at the end.

        Raises what the source raises, and SourceError for what is no picture or is dated by a wrong clock.
        """
        source = self._source
        while True:
            with span("read"):
                raw = source.read()
            with self._processing, span("condition"):
                self._check_current(source)
                if raw is None:
                    return None
                frame = self._frame(raw)
            if frame is None:
                continue
            if self._pace is not None and self._pace.wait(frame.t_capture, self._closing):
                raise SourceInterrupted(f"{self.stream}: closed")
            return frame

    def close(self) -> None:
        """Release the source, and free a waiting `read`."""
        self._closing.set()
        self._source.close()

    def renew(self) -> None:
        """Leave the source to the thread that hangs in it; the next `open` is of a new one."""
        with self._processing:
            self._drops_before += self._source_drops()
            self._source = type(self._source)(self._options, clock=self._clock)  # type: ignore[call-arg]

    def _check_current(self, source: Source) -> None:
        if source is not self._source:
            source.close()
            raise SourceInterrupted(f"{self.stream}: given up, another connection has taken over")

    def _source_drops(self) -> Counter[DropCause]:
        """What the source has lost since it was made; sources go on counting when they are opened again."""
        return Counter(getattr(self._source, "drops", None) or {})

    def _begin_epoch(self) -> None:
        self._epoch += 1
        self._duplicates.reset()

    def _frame(self, raw: RawFrame) -> Frame | None:
        """The frame made of a picture, None when it is dropped."""
        self._check_picture(raw)
        if self.first_picture is None:
            self.first_picture = raw.image
        seq = self._seq
        self._seq += 1
        if raw.corrupt and self.live:
            self._drops[DropCause.CORRUPT] += 1
            return None
        self._check_format(raw.image)
        stamp = self._stamp(raw)
        if stamp.reset:
            then = "once too often, arrival counts for now" if stamp.by_arrival else "a new one begins"
            log.warning("%s: the source's time line broke; %s", self.stream, then)
            self._begin_epoch()
        image, sensor = self._view(oriented(raw.image, self._options))
        duplicate, frozen = self._duplicates.update(raw.image, stamp.t_capture)
        if duplicate:
            cause = DropCause.FROZEN if frozen else DropCause.DUPLICATE
            self.repeats[cause] += 1
            if self._drop_repeats:
                self._drops[cause] += 1
                return None
        return Frame(
            stream=self.stream,
            image=image,
            seq=seq,
            t_capture=stamp.t_capture,
            t_arrival=raw.t_arrival if self._pace is None else stamp.t_capture,
            pts=raw.pts,
            time_base=raw.time_base,
            epoch=self._epoch,
            raw=sensor,
            unit=raw.unit,
            stamp_source=self._stamp_source(raw, stamp),
            stamp_uncertainty_ns=stamp.uncertainty_ns,
            duplicate=duplicate,
            frozen=frozen,
            name=raw.name,
        )

    def _check_picture(self, raw: RawFrame) -> None:
        """Sources may come from anywhere. Raises SourceError."""
        if not isinstance(raw, RawFrame):
            raise SourceError(
                f"{self.stream}: read() gave {type(raw).__name__}; must be a RawFrame, None at the end"
            )
        if wrong := wrong_layout(raw.image):
            raise SourceError(f"{self.stream}: picture {self._seq} is {wrong}; must be {LAYOUTS}")
        if not self.live or self._pace is not None:
            return
        for key, t_ns in (("t_arrival", raw.t_arrival), ("t_capture_hint", raw.t_capture_hint)):
            ahead_ns = (t_ns or 0) - self._clock.now_ns()
            if ahead_ns > AHEAD_NS:
                raise SourceError(
                    f"{self.stream}: picture {self._seq} has a {key} {ahead_ns / NS_PER_S:.0f} s ahead; "
                    "must be on the monotonic clock that the source is given, not Unix time"
                )

    def _check_format(self, image: Image8 | Image16) -> None:
        """Begin a new epoch when size, channels or depth changed. Raises ConfigError for the crop."""
        found = (*image.shape, image.dtype)
        if found == self._format:
            return
        height, width = image.shape[:2]
        oriented_size(width, height, self._options, stream=self.stream)
        if self._format is not None:
            text = "%s: pictures changed from %s to %s"
            log.warning(text, self.stream, _describe(self._format), _describe(found))
            self._begin_epoch()
            self._agc.reset()
        self._format = found

    def _view(self, picture: Image8 | Image16) -> tuple[Image8, Image16 | None]:
        """The 8-bit view of the stream, hot always bright, and the sensor's own counts beside it."""
        sensor: Image16 | None = None
        if picture.dtype == np.uint16:
            sensor = picture  # type: ignore[assignment]
            view = to_stream(self._agc.apply(sensor), self.stream)  # type: ignore[arg-type]
        else:
            view = to_stream(picture, self.stream)  # type: ignore[arg-type]
        if self._options.polarity == "black_hot":
            view = np.bitwise_not(view)
        return view, sensor

    def _stamp(self, raw: RawFrame) -> Stamp:
        media_ns = None
        if raw.pts is not None and raw.time_base is not None:
            media_ns = round(raw.pts * raw.time_base * NS_PER_S)
        if self.live and self._pace is None:
            stamp = self._filter.update(media_ns, raw.t_arrival)
            t_capture = stamp.t_capture if raw.t_capture_hint is None else raw.t_capture_hint
            self._last_capture = max(t_capture, self._last_capture + 1)
            return replace(stamp, t_capture=self._last_capture)
        if raw.t_capture_hint is not None:
            media_ns = raw.t_capture_hint
        elif media_ns is None:
            media_ns = (self._seq - 1) * UNSTAMPED_PERIOD_NS
        stamp = self._media.stamp(media_ns)
        return stamp if self._pace is None else replace(stamp, t_capture=self._pace.due_ns(stamp.t_capture))

    def _stamp_source(self, raw: RawFrame, stamp: Stamp) -> StampSource:
        if not self.live or self._pace is not None:
            return "file_pts"
        if raw.t_capture_hint is not None:
            return "rtcp"
        return "arrival" if stamp.by_arrival else "device"


def _describe(found: tuple[object, ...]) -> str:
    height, width, *channels, depth = found
    return f"{width}x{height} {depth}{' colour' if channels else ''}"
