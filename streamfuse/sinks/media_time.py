"""When a frame stands in a written file.

A clip's own time line is kept: its presentation stamps are exact fractions, and what is written can be laid
beside the source frame by frame. A live run has no such line; its file starts at 0 and follows capture time.
Pictures stamped with Unix time have one, but no player would seek fifty years ahead: they start at 0, too.
"""

from fractions import Fraction

from streamfuse.clock import NS_PER_S
from streamfuse.frame import Frame, FusedFrame

LIVE_TIME_BASE = Fraction(1, 90_000)
"""MPEG's tick: divides the usual frame rates, and 11 us is far below any capture jitter."""
FINEST_TIME_BASE = Fraction(1, 1_000_000)
"""MP4 counts the ticks of a frame in 32 bits: nanoseconds would overflow in a gap of 4 s."""
UNIX_TIME_S = 946_684_800
"""The year 2000: presentation stamps beyond are dates."""


def driver_frame(frame: FusedFrame) -> Frame:
    """The source frame whose time the fused frame stands for."""
    pair = frame.pair
    return pair.ir if pair.driver == "ir" and pair.ir is not None else pair.vis


def is_live(frame: Frame) -> bool:
    """Whether capture times are on the clock's own line, so that ages can be told from them.

    So they are for cameras, and for a recording played in real time: its frames are captured when they are
    shown, and arrive in the same moment.
    """
    return frame.stamp_source != "file_pts" or frame.t_arrival == frame.t_capture


def has_media_time(frame: FusedFrame) -> bool:
    """Whether the visible frame comes from a recording with presentation stamps."""
    vis = frame.pair.vis
    return vis.stamp_source == "file_pts" and vis.pts is not None and vis.time_base is not None


class MediaTime:
    """Exact media time of each fused frame, going on over breaks of the source's time line.

    The visible clip's time line counts also when infrared drives: its audio then stays in step.

    Args:
        keep_dates: leave Unix time as it is.
    """

    def __init__(self, *, keep_dates: bool = False) -> None:
        self._keep_dates = keep_dates
        self._line: tuple[bool, int] | None = None
        self._shift = Fraction(0)
        self._last = (Fraction(0), 0)

    def seconds(self, frame: FusedFrame) -> Fraction:
        """Media time in seconds; after a break (new epoch of the visible stream) it follows capture time."""
        raw = self._raw(frame)
        line = (has_media_time(frame), frame.pair.vis.epoch)
        if self._line is None:
            keep = has_media_time(frame) and (self._keep_dates or raw < UNIX_TIME_S)
            self._shift = Fraction(0) if keep else -raw
        elif line != self._line:
            last_seconds, last_capture = self._last
            self._shift = last_seconds + Fraction(frame.t_capture - last_capture, NS_PER_S) - raw
        self._line = line
        seconds = raw + self._shift
        self._last = (seconds, frame.t_capture)
        return seconds

    @staticmethod
    def _raw(frame: FusedFrame) -> Fraction:
        vis = frame.pair.vis
        pts = vis.pts_seconds if has_media_time(frame) else None
        if pts is None:
            return Fraction(frame.t_capture, NS_PER_S)
        return pts + Fraction(frame.t_capture - vis.t_capture, NS_PER_S)

    @staticmethod
    def time_base(frame: FusedFrame) -> Fraction:
        """The tick in which the frame's media time is written, that of its source unless it is too fine."""
        time_base = driver_frame(frame).time_base
        if time_base is None or not has_media_time(frame):
            return LIVE_TIME_BASE
        return max(time_base, FINEST_TIME_BASE)
