"""A look at a source: what it delivers, how regularly, and what may cause trouble."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from streamfuse.capture import SOURCES
from streamfuse.capture.network import redact
from streamfuse.capture.spec import open_source
from streamfuse.clock import NS_PER_MS, NS_PER_S, Clock, RealClock
from streamfuse.errors import SourceError, SourceInterrupted
from streamfuse.frame import RawFrame, SourceInfo

MAX_PICTURES = 100
MAX_NS = 5 * NS_PER_S
"""A source is watched for so many pictures or so long, whichever comes first."""
NEUTRAL_SPREAD = 3.0
"""Mean difference between a pixel's channels, grey levels. A grey picture sent as colour video stays below;
M2VD's infrared clips have less than 1."""
IRREGULAR = 1.5
"""Longest distance between pictures, in medians, from which a source counts as irregular."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """What was seen of a source.

    pixels: "gray8", "gray16" or "rgb8". neutral: the pictures hold no colour. low, high: extreme values.
    pts_interval_ms, arrival_interval_ms: median and longest distance of pictures, None without stamps (or
    with one picture). repeated: pictures identical to the one before. remarks: what a user should know.
    """

    source: str
    kind: str
    live: bool
    info: SourceInfo
    pictures: int
    pixels: str
    unit: str
    neutral: bool
    low: int
    high: int
    first_pts_s: float | None
    pts_interval_ms: tuple[float, float] | None
    arrival_interval_ms: tuple[float, float] | None
    open_ms: float
    repeated: int
    corrupt: int
    drops: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def probe(spec: str, *, clock: Clock | None = None) -> ProbeReport:
    """Open a source named as on the command line (see `open_source`) and watch it for a moment.

    Raises:
        SourceError: it cannot be opened or read. ConfigError: the word cannot be understood.
    """
    clock = clock or RealClock()
    kind, options = open_source(spec)
    source = SOURCES.load(kind)(options, clock=clock)
    started = clock.now_ns()
    try:
        info = source.open()
        opened = clock.now_ns()
        watch = _Watch()
        broken = ""
        while watch.pictures < MAX_PICTURES and clock.now_ns() - opened < MAX_NS:
            try:
                picture = source.read()
            except SourceInterrupted as error:
                if not watch.pictures:
                    raise
                broken = str(error)
                break
            if picture is None:
                break
            watch.see(picture)
    finally:
        source.close()
    if not watch.pictures:
        raise SourceError(f"{redact(spec)}: opened, but gave no picture")
    return watch.report(
        source=redact(spec),
        kind=kind,
        live=source.live,
        info=info,
        open_ms=(opened - started) / NS_PER_MS,
        drops={str(cause): count for cause, count in getattr(source, "drops", {}).items()},
        broken=broken,
    )


class _Watch:
    """Gathers what is seen of one picture after the other."""

    def __init__(self) -> None:
        self.pictures = 0
        self._last: RawFrame | None = None
        self._pts_ms: list[float] = []
        self._arrivals_ms: list[float] = []
        self._spread = 0.0
        self._low, self._high = 65535, 0
        self._repeated = self._corrupt = 0

    def see(self, picture: RawFrame) -> None:
        image = picture.image
        if self._last is not None and np.array_equal(self._last.image, image):
            self._repeated += 1
        self._last = picture
        self._corrupt += picture.corrupt
        if picture.pts is not None and picture.time_base is not None:
            self._pts_ms.append(float(1000 * picture.pts * picture.time_base))
        self._arrivals_ms.append(picture.t_arrival / NS_PER_MS)
        if image.ndim == 3:
            channels = image[::4, ::4].astype(np.int16)
            self._spread = max(self._spread, float(np.ptp(channels, axis=2).mean()))
        self._low, self._high = min(self._low, int(image.min())), max(self._high, int(image.max()))
        self.pictures += 1

    def report(
        self,
        *,
        source: str,
        kind: str,
        live: bool,
        info: SourceInfo,
        open_ms: float,
        drops: dict[str, int],
        broken: str,
    ) -> ProbeReport:
        assert self._last is not None
        image = self._last.image
        return ProbeReport(
            source=source,
            kind=kind,
            live=live,
            info=info,
            pictures=self.pictures,
            pixels="rgb8" if image.ndim == 3 else f"gray{8 * image.itemsize}",
            unit=self._last.unit,
            neutral=self._spread < NEUTRAL_SPREAD,
            low=self._low,
            high=self._high,
            first_pts_s=self._pts_ms[0] / 1000 if self._pts_ms else None,
            pts_interval_ms=_intervals(self._pts_ms),
            arrival_interval_ms=_intervals(self._arrivals_ms) if live else None,
            open_ms=open_ms,
            repeated=self._repeated,
            corrupt=self._corrupt,
            drops=drops,
            remarks=tuple(self._remarks(drops, broken)),
        )

    def _remarks(self, drops: dict[str, int], broken: str) -> Iterator[str]:
        if not self._pts_ms:
            yield "no time stamps: pictures are dated by their arrival"
        if any(later <= earlier for earlier, later in pairwise(self._pts_ms)):
            yield "time stamps go back or stand still: each such place begins a new epoch"
        elif (interval := _intervals(self._pts_ms)) and interval[1] > IRREGULAR * interval[0]:
            yield f"irregular: {interval[1]:.1f} ms between two pictures, {interval[0]:.1f} ms as a rule"
        if self._repeated:
            yield f"{self._repeated} of {self.pictures} pictures repeat the one before"
        if self._low == self._high:
            yield f"every pixel is {self._low}: is the lens covered?"
        if self._corrupt:
            yield f"{self._corrupt} pictures are damaged"
        for cause, count in drops.items():
            yield f"{count} packets lost ({cause})"
        if broken:
            yield f"broke off: {broken}"


def _intervals(times_ms: list[float]) -> tuple[float, float] | None:
    """Median and longest distance; None for fewer than two times."""
    if len(times_ms) < 2:
        return None
    distances = np.diff(times_ms)
    return float(np.median(distances)), float(distances.max())
