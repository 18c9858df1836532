"""A real window, driven by the main thread: `write` shows a frame, `pump` keeps the window alive.

Window libraries want the main thread and abort the process when there is no display. So the pipeline calls
this sink from the thread that iterates, and `open` asks the display first (see `display`).

When its display goes away, Qt ends the process as well, as soon as it notices. So a connection of our own is
waited at instead of Qt's, which nearly always hears of it first, and the window library is not called again.
"""

import logging
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import cv2
from pydantic import Field

from streamfuse.clock import NS_PER_MS, NS_PER_S, Clock
from streamfuse.errors import SinkError
from streamfuse.frame import FusedFrame, Rung
from streamfuse.registry import Options
from streamfuse.sinks.colormap import Colormap
from streamfuse.sinks.display import display_for_windows, is_gone
from streamfuse.sinks.hud import COLOURS, blank, canvas, dim, draw_lines
from streamfuse.sinks.media_time import is_live
from streamfuse.sinks.views import OVERLAY_COLORMAP, View, render

logger = logging.getLogger(__name__)

RATE_FRAMES = 30
"""The rate shown is that of the latest frames: about a second of video."""
NOTICE_NS = 2 * NS_PER_S
MAX_WINDOW = (1280, 720)
"""A new window is no larger than this, to fit any screen; the user may enlarge it."""
ESCAPE = 27
VIEW_KEYS: dict[str, View] = {
    "1": "fused",
    "2": "side_by_side",
    "3": "overlay",
    "4": "checkerboard",
    "5": "visible",
    "6": "registered_ir",
}
HELP = (
    "1  fused",
    "2  visible, infrared, fused side by side",
    "3  thermal colours over visible",
    "4  checkerboard of visible and infrared",
    "5  visible",
    "6  registered infrared",
    "space  pause the picture (the run goes on)",
    "s  snapshot as PNG",
    "i  status line on and off",
    "h  this page",
    "q, Esc  end the run",
)


class ScreenOptions(Options):
    """Options of the `screen` sink."""

    title: str = Field("streamfuse", min_length=1, description="of the window; one window for each title")
    picture: View = Field("fused", description="what is shown first; keys 1 to 6 change it")
    colormap: Colormap = Field(OVERLAY_COLORMAP, description="of the infrared in the overlay")
    info: bool = Field(True, description="rate, latency and status on the picture")
    snapshots: Path = Field(Path(), description="folder for snapshots")


class ScreenSink:
    """Shows frames in a window. All methods belong on the main thread."""

    Options: ClassVar[type[ScreenOptions]] = ScreenOptions
    main_thread: ClassVar[bool] = True

    def __init__(self, options: ScreenOptions, *, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._view: View = options.picture
        self._info = options.info
        self._help = False
        self._paused = False
        self._open = False
        self._stop = False
        self._frame: FusedFrame | None = None
        self._shown_at_ns = 0
        self._arrivals: deque[int] = deque(maxlen=RATE_FRAMES)
        self._notice = ("", 0)
        self._shape: tuple[int, int] | None = None
        self._display = ExitStack()
        self._connection: socket.socket | None = None
        self._actions: dict[str, Callable[[], None]] = {
            " ": self._toggle_pause,
            "s": self._snapshot,
            "i": self._toggle_info,
            "h": self._toggle_help,
            "q": self._quit,
            chr(ESCAPE): self._quit,
        }

    def open(self) -> None:
        """Open the window. Raises SinkError, and nothing worse, when there can be none."""
        if self._open:
            return
        if threading.current_thread() is not threading.main_thread():
            raise SinkError("screen: a window can only be opened from the main thread")
        flags = cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL
        with ExitStack() as display:
            self._connection = display.enter_context(display_for_windows())
            try:
                cv2.namedWindow(self._options.title, flags)
                self._draw()
                cv2.pollKey()
            except cv2.error as error:
                raise SinkError(f"screen: the window cannot be opened: {error.err}") from error
            self._display = display.pop_all()
        self._open = True

    def write(self, frame: FusedFrame) -> None:
        """Show a frame, unless paused. Raises SinkError."""
        if self._stop:
            return
        self.open()
        self._check_display(0)
        self._arrivals.append(self._clock.now_ns())
        if not self._paused:
            self._frame, self._shown_at_ns = frame, self._clock.now_ns()
            try:
                self._draw()
            except cv2.error as error:
                raise SinkError(f"screen: the window is gone: {error.err}") from error

    def pump(self, timeout_ms: int) -> bool:
        """Handle keys and the window's events for at most this long; False when the user wants to end.

        Raises SinkError when the display is gone.
        """
        if not self._open or self._stop:
            return not self._stop
        self._check_display(timeout_ms)
        key = cv2.waitKeyEx(1)
        if key != -1:
            self._press(chr(key & 0xFF).lower())
        if self._was_closed():
            self._stop = True
        return not self._stop

    def close(self) -> None:
        """Close the window. May be called twice."""
        if not self._open:
            return
        self._open, self._stop = False, True
        try:
            cv2.destroyWindow(self._options.title)
            cv2.pollKey()
        except cv2.error as error:
            logger.debug("the window was gone already: %s", error)
        self._display.close()

    def _check_display(self, wait_ms: int) -> None:
        if self._connection is not None and is_gone(self._connection, wait_ms / 1000):
            self._open, self._stop = False, True
            self._display.close()
            raise SinkError("screen: the display is gone")

    def _was_closed(self) -> bool:
        try:
            return cv2.getWindowProperty(self._options.title, cv2.WND_PROP_VISIBLE) < 1
        except cv2.error:
            return True

    def _press(self, key: str) -> None:
        if key in VIEW_KEYS:
            self._view = VIEW_KEYS[key]
        elif key in self._actions:
            self._actions[key]()
        else:
            return
        self._draw()

    def _toggle_pause(self) -> None:
        self._paused = not self._paused

    def _toggle_info(self) -> None:
        self._info = not self._info

    def _toggle_help(self) -> None:
        self._help = not self._help

    def _quit(self) -> None:
        self._stop = True

    def _snapshot(self) -> None:
        """Save what is shown, at full size and without text."""
        if self._frame is None:
            return
        path = self._options.snapshots / f"streamfuse-{self._frame.seq:06d}-{self._view}.png"
        picture = cv2.cvtColor(
            render(self._frame, self._view, colormap=self._options.colormap), cv2.COLOR_RGB2BGR
        )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
            text = f"saved {path}"
        except OSError as error:
            text = f"snapshot not saved: {error.strerror}"
            logger.warning("%s: %s", path, text)
        self._notice = (text, self._clock.now_ns() + NOTICE_NS)

    def _draw(self) -> None:
        target = (
            blank()
            if self._frame is None
            else canvas(render(self._frame, self._view, colormap=self._options.colormap))
        )
        if self._help:
            dim(target)
            draw_lines(target, HELP, top=3)
        if self._frame is None:
            draw_lines(target, ["waiting for the first frame    h: help"])
        elif self._info or self._paused:
            draw_lines(target, [self._status_line(self._frame)], colour=COLOURS[self._frame.status])
        notice, until_ns = self._notice
        if self._clock.now_ns() < until_ns:
            draw_lines(target, [notice], top=1)
        if self._shape != target.shape[:2]:
            self._shape = (target.shape[0], target.shape[1])
            self._resize(*self._shape)
        cv2.imshow(self._options.title, target)

    def _resize(self, height: int, width: int) -> None:
        factor = min(1.0, MAX_WINDOW[0] / width, MAX_WINDOW[1] / height)
        cv2.resizeWindow(self._options.title, round(width * factor), round(height * factor))

    def _status_line(self, frame: FusedFrame) -> str:
        words = ["PAUSED"] if self._paused else []
        if len(self._arrivals) > 1:
            span_ns = self._arrivals[-1] - self._arrivals[0]
            words.append(f"{(len(self._arrivals) - 1) * NS_PER_S / max(1, span_ns):.1f} fps")
        if is_live(frame.pair.vis):
            words.append(f"{(self._shown_at_ns - frame.t_capture) / NS_PER_MS:.0f} ms")
        words.append(f"{frame.status.value} {frame.confidence:.2f}")
        if frame.rung is not Rung.FULL:
            words.append(f"rung {frame.rung.value}")
        if frame.reason:
            words.append(frame.reason)
        if frame.dropped:
            words.append(f"dropped {sum(frame.dropped.values())}")
        return "   ".join(words)
