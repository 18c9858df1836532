"""The window, for real: under an X server of our own, judged by screenshots, driven by key presses.

The window lives in a child process, as it would in a run: a window library that aborts must not take the
tests with it, and the X server can be stopped afterwards.
"""

import ctypes
import ctypes.util
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from factories import fused_frame
from media import write_clip

from streamfuse.clock import NS_PER_MS, VirtualClock
from streamfuse.errors import SinkError
from streamfuse.frame import Rung, Status
from streamfuse.sinks.display import display_for_windows
from streamfuse.sinks.screen import HELP, ScreenOptions, ScreenSink
from streamfuse.sinks.views import render

PATIENCE_S = 30.0
RED, BLUE = (200, 40, 40), (40, 40, 200)
"""The fused picture of the tests, and its visible one; the infrared one is 215."""
GREY = (215, 215, 215)

WINDOW = """
import select, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from factories import fused_frame
from streamfuse.clock import RealClock
from streamfuse.errors import SinkError
from streamfuse.frame import Rung, Status
from streamfuse.sinks.screen import ScreenOptions, ScreenSink
sink = ScreenSink(ScreenOptions(title="under test", snapshots=Path(sys.argv[2])), clock=RealClock())
try:
    sink.open()
except SinkError as error:
    sys.exit(f"SinkError: {error}")
seq = 0
while sink.pump(10):
    line = sys.stdin.readline() if select.select([sys.stdin], [], [], 0)[0] else ""
    if line:
        colour = [int(word) for word in line.split()]
        image = np.full((480, 640, 3), colour, np.uint8)
        sink.write(fused_frame(seq, image=image, live=True, status=Status.OK))
        seq += 1
        print("shown", flush=True)
sink.write(fused_frame(seq))
sink.close()
sink.close()
print("closed", flush=True)
"""

BRIEF_WINDOW = """
import sys
sys.path.insert(0, sys.argv[1])
from factories import fused_frame
from streamfuse.clock import RealClock
from streamfuse.sinks.screen import ScreenOptions, ScreenSink
sink = ScreenSink(ScreenOptions(), clock=RealClock())
for seq in range(5):
    sink.write(fused_frame(seq))
    assert sink.pump(10)
sink.close()
assert not sink.pump(10)
print("closed")
"""


def needs(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        message = f"{', '.join(missing)} not installed (Debian: xvfb xdotool x11-apps)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def start_xvfb(*options: str) -> tuple["subprocess.Popen[bytes]", str]:
    read_end, write_end = os.pipe()
    command = ["Xvfb", "-displayfd", str(write_end), "-screen", "0", "1280x800x24", "-nolisten", "tcp"]
    server = subprocess.Popen(
        [*command, *options], pass_fds=[write_end], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        number = pipe.readline().strip()
    assert number, "Xvfb did not start"
    return server, f":{number}"


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    needs("Xvfb", "xdotool", "xwd")
    server, display = start_xvfb("-noreset")
    yield display
    server.terminate()
    server.wait()


class Window:
    """The child process with its window."""

    def __init__(self, display: str, snapshots: Path) -> None:
        self.environ = {**os.environ, "DISPLAY": display, "XAUTHORITY": "/dev/null"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WINDOW, str(Path(__file__).parent), str(snapshots)],
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.id = ""
        until(self._found, "the window opens")

    def _found(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()
        found = self._xdotool("search", "--onlyvisible", "--name", "^under test$")
        self.id = found.stdout.strip()
        return bool(self.id)

    def _xdotool(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["xdotool", *arguments], env=self.environ, capture_output=True, text=True)

    def show(self, colour: tuple[int, int, int]) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{colour[0]} {colour[1]} {colour[2]}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "shown\n"

    def press(self, key: str) -> None:
        self._xdotool("windowfocus", "--sync", self.id, "key", key)

    def picture(self) -> np.ndarray:
        """The window's part of a screenshot of the whole screen: uint8 (H, W, 3) RGB."""
        shell = self._xdotool("getwindowgeometry", "--shell", self.id).stdout
        place = dict(line.split("=") for line in shell.split())
        x, y, width, height = (int(place[k]) for k in ("X", "Y", "WIDTH", "HEIGHT"))
        return screenshot(self.environ)[y : y + height, x : x + width]

    def expect(self, **where: tuple[int, int, int]) -> None:
        """Wait until the window shows these colours at `x_y` in hundredths of its size."""

        def shows() -> bool:
            picture = self.picture()
            height, width = picture.shape[:2]
            for place, colour in where.items():
                x, y = (int(part) for part in place.strip("at_").split("_"))
                pixel = picture[height * y // 100, width * x // 100].astype(int)
                if np.abs(pixel - colour).max() > 3:
                    return False
            return True

        until(shows, f"{where}")

    def ended(self) -> int:
        out, err = self.process.communicate(timeout=PATIENCE_S)
        assert out.endswith("closed\n"), err
        return self.process.returncode


def screenshot(environ: dict[str, str]) -> np.ndarray:
    """The root window by xwd; its header is 25 big-endian words, then the window's name and a colour map."""
    data = subprocess.run(["xwd", "-root", "-silent"], env=environ, capture_output=True, check=True).stdout
    words = struct.unpack(">25I", data[:100])
    header_size, width, height, bits, stride, colours = (words[i] for i in (0, 4, 5, 11, 12, 19))
    pixels = np.frombuffer(data, np.uint8, stride * height, header_size + colours * 12)
    size = bits // 8
    return pixels.reshape(height, stride)[:, : width * size].reshape(height, width, size)[..., 2::-1]


@pytest.fixture
def window(display: str, tmp_path: Path) -> Iterator[Window]:
    window = Window(display, tmp_path)
    yield window
    window.process.kill()
    window.process.communicate()


@pytest.mark.display
def test_the_window_shows_each_view_by_key(window: Window) -> None:
    window.show(RED)
    window.expect(at_20_50=RED, at_50_50=RED, at_95_95=RED)
    window.press("5")
    window.expect(at_50_50=BLUE)
    window.press("6")
    window.expect(at_50_50=GREY)
    window.press("2")
    window.expect(at_16_50=BLUE, at_50_50=GREY, at_84_50=RED)
    window.press("4")
    window.expect(at_6_56=GREY, at_18_56=BLUE, at_31_56=GREY, at_18_70=GREY)
    window.press("3")
    overlay = render(fused_frame(0, image=np.full((480, 640, 3), RED, np.uint8)), "overlay")
    window.expect(at_10_50=BLUE, at_70_50=tuple(int(v) for v in overlay[240, 450]))
    window.press("1")
    window.expect(at_50_50=RED)


@pytest.mark.display
def test_the_only_client_of_a_server_that_resets_gets_its_window() -> None:
    needs("Xvfb")
    server, display = start_xvfb()
    try:
        for _ in range(3):
            run = subprocess.run(
                [sys.executable, "-c", BRIEF_WINDOW, str(Path(__file__).parent)],
                env={**os.environ, "DISPLAY": display, "XAUTHORITY": "/dev/null"},
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
            )
            assert (run.returncode, run.stdout, run.stderr) == (0, "closed\n", "")
    finally:
        server.terminate()
        server.wait()


UNTIL_GONE = """
import sys
sys.path.insert(0, sys.argv[1])
from factories import fused_frame
from streamfuse.clock import RealClock
from streamfuse.errors import SinkError
from streamfuse.sinks.screen import ScreenOptions, ScreenSink
sink = ScreenSink(ScreenOptions(), clock=RealClock())
sink.write(fused_frame(0))
for _ in range(10):
    sink.pump(50)
print("open", flush=True)
try:
    while sink.pump(50):
        pass
except SinkError as error:
    print(error)
sink.write(fused_frame(1))
sink.close()
print("lives on")
"""


@pytest.mark.display
def test_the_process_outlives_its_display() -> None:
    """Qt, which would end it, may hear of it first: one time in fifty."""
    needs("Xvfb")
    said = ""
    for _ in range(3):
        server, display = start_xvfb("-noreset")
        with subprocess.Popen(
            [sys.executable, "-c", UNTIL_GONE, str(Path(__file__).parent)],
            env={**os.environ, "DISPLAY": display, "XAUTHORITY": "/dev/null"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout is not None
            said = child.stdout.readline()
            server.kill()
            server.wait()
            said += child.communicate(timeout=PATIENCE_S)[0]
        if "Did the X11 server die?" not in said and child.returncode == 0:
            break
    assert said == "open\nscreen: the display is gone\nlives on\n"


AV_FIRST = """
import av
from streamfuse.clock import RealClock
from streamfuse.errors import SinkError
from streamfuse.sinks.screen import ScreenOptions, ScreenSink
try:
    ScreenSink(ScreenOptions(), clock=RealClock()).open()
except SinkError as error:
    print(error)
"""


@pytest.mark.display
def test_the_x11_libraries_of_pyav_and_opencv_do_not_meet(display: str, tmp_path: Path) -> None:
    """Qt would wait for its display for ever, and no signal would end the process."""
    clip = write_clip(tmp_path / "clip.mkv", frames=3)
    config = tmp_path / "rig.yaml"
    source = {"kind": "file", "path": str(clip)}
    tree = {
        "sources": {"ir": source, "vis": source},
        "registration": {"model": "none"},
        "fusion": {"model": "average"},
        "sinks": [{"kind": "screen"}],
    }
    config.write_text(json.dumps(tree))
    environ = {**os.environ, "DISPLAY": display, "XAUTHORITY": "/dev/null"}
    command = [sys.executable, "-m", "streamfuse", "run", str(config)]
    run = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=2 * PATIENCE_S)
    assert (run.returncode, run.stderr) == (0, "")
    assert "fused: 3 out" in run.stdout
    command = [sys.executable, "-c", AV_FIRST]
    run = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE_S)
    assert "import cv2 or streamfuse.pipeline before av" in run.stdout


@pytest.mark.display
def test_pause_holds_the_picture_and_lets_go(window: Window) -> None:
    window.show(RED)
    window.expect(at_50_50=RED)
    window.press("space")
    until(lambda: has_text(window.picture()), "the pause is shown")
    window.show(BLUE)
    window.show(BLUE)
    window.expect(at_50_50=RED)
    window.press("space")
    window.show(BLUE)
    window.expect(at_50_50=BLUE)


def has_text(picture: np.ndarray, *, colour: tuple[int, int, int] = (96, 220, 96)) -> bool:
    """The status line is written in the colour of the status; RGB and BGR of `ok` are the same."""
    corner = picture[: picture.shape[0] // 12].astype(int)
    return bool((np.abs(corner - colour).max(axis=2) < 12).any())


@pytest.mark.display
def test_status_line_and_help_come_and_go(window: Window) -> None:
    window.show(RED)
    window.show(RED)
    until(lambda: has_text(window.picture()), "status line on")
    window.press("i")
    until(lambda: not has_text(window.picture()), "status line off")
    window.press("h")
    window.expect(at_95_95=tuple(v // 3 for v in RED))
    window.press("h")
    window.expect(at_95_95=RED)


@pytest.mark.display
def test_a_snapshot_is_exact(window: Window, tmp_path: Path) -> None:
    window.show(RED)
    window.press("s")
    path = tmp_path / "streamfuse-000000-fused.png"
    until(path.is_file, "the snapshot is there")
    until(lambda: cv2.imread(str(path)) is not None, "the snapshot is whole")
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    assert image.shape == (480, 640, 3)
    assert (image == RED).all()


@pytest.mark.display
@pytest.mark.parametrize("key", ["q", "Escape"])
def test_a_key_ends_the_run(window: Window, key: str) -> None:
    window.show(RED)
    window.press(key)
    assert window.ended() == 0


@pytest.mark.display
def test_closing_the_window_ends_the_run(window: Window) -> None:
    window.show(RED)
    ask_to_close(window.environ["DISPLAY"], int(window.id))
    assert window.ended() == 0


def ask_to_close(display_name: str, window_id: int) -> None:
    """What a window manager sends when its close button is pressed: WM_DELETE_WINDOW (ICCCM 4.2.8.1)."""
    x11 = ctypes.CDLL(ctypes.util.find_library("X11"))
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XInternAtom.restype = ctypes.c_ulong
    x11.XInternAtom.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    x11.XSendEvent.argtypes = [
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_int,
        ctypes.c_long,
        ctypes.c_void_p,
    ]
    x11.XCloseDisplay.argtypes = [ctypes.c_void_p]

    class ClientMessage(ctypes.Structure):
        _fields_ = (
            ("type", ctypes.c_int),
            ("serial", ctypes.c_ulong),
            ("send_event", ctypes.c_int),
            ("display", ctypes.c_void_p),
            ("window", ctypes.c_ulong),
            ("message_type", ctypes.c_ulong),
            ("format", ctypes.c_int),
            ("data", ctypes.c_long * 5),
            ("padding", ctypes.c_long * 24),
        )

    display = x11.XOpenDisplay(display_name.encode())
    assert display
    event = ClientMessage(type=33, window=window_id, format=32)
    event.message_type = x11.XInternAtom(display, b"WM_PROTOCOLS", 0)
    event.data[0] = x11.XInternAtom(display, b"WM_DELETE_WINDOW", 0)
    x11.XSendEvent(display, window_id, 0, 0, ctypes.byref(event))
    x11.XCloseDisplay(display)


@pytest.mark.display
def test_authorisation_is_found_or_missed_like_by_any_x_program(display: str, tmp_path: Path) -> None:
    cookie = bytes(range(16))
    authority = tmp_path / "authority"
    fields = (b"host", b"", b"MIT-MAGIC-COOKIE-1", cookie)
    authority.write_bytes(
        struct.pack(">H", 0xFFFF) + b"".join(struct.pack(">H", len(field)) + field for field in fields)
    )
    server, locked = start_xvfb("-noreset", "-auth", str(authority))
    try:
        with display_for_windows({"DISPLAY": locked, "XAUTHORITY": str(authority)}):
            pass
        with (
            pytest.raises(SinkError, match=f"no display: the X server {locked} refuses: "),
            display_for_windows({"DISPLAY": locked, "XAUTHORITY": "/dev/null"}),
        ):
            pass
        with display_for_windows({"DISPLAY": f"{display}.0", "XAUTHORITY": str(authority)}):
            pass
    finally:
        server.terminate()
        server.wait()


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "DISPLAY is not set; use a desktop session"),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "start Xwayland"),
        ({"DISPLAY": "nonsense"}, "does not look like"),
        ({"DISPLAY": ":4711"}, "the X server :4711 does not answer: "),
        ({"DISPLAY": "localhost:4711.0"}, "does not answer: Connection refused"),
    ],
)
def test_a_missing_display_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SinkError, match=message), display_for_windows(environ):
        pass


@pytest.mark.parametrize("display", ["", ":4711"])
def test_without_a_display_the_process_lives_on(tmp_path: Path, display: str) -> None:
    environ = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    if display:
        environ["DISPLAY"] = display
    run = subprocess.run(
        [sys.executable, "-c", WINDOW, str(Path(__file__).parent), str(tmp_path)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("SinkError: screen: no display")
    assert len(run.stderr.splitlines()) == 1


def test_an_opencv_without_windows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "currentUIFramework", lambda: "")
    with pytest.raises(SinkError, match="built without windows"):
        ScreenSink(ScreenOptions(), clock=VirtualClock()).open()


def test_a_window_belongs_to_the_main_thread() -> None:
    errors: list[Exception] = []

    def open_it() -> None:
        try:
            ScreenSink(ScreenOptions(), clock=VirtualClock()).open()
        except SinkError as error:
            errors.append(error)

    thread = threading.Thread(target=open_it)
    thread.start()
    thread.join()
    assert "main thread" in str(errors[0])


def test_the_status_line_says_rate_latency_and_state(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = VirtualClock()
    sink = ScreenSink(ScreenOptions(), clock=clock)
    monkeypatch.setattr(sink, "_open", True)
    monkeypatch.setattr(sink, "_draw", lambda: None)
    for index in range(5):
        clock.advance_ns(40 * NS_PER_MS)
        frame = fused_frame(
            index,
            live=True,
            t_capture=clock.now_ns() - 70 * NS_PER_MS,
            status=Status.HELD,
            reason="smoke",
            dropped={"late": 3},
        )
        sink.write(frame)
    assert sink._status_line(frame) == "25.0 fps   70 ms   held 0.90   smoke   dropped 3"
    assert " ms " not in sink._status_line(fused_frame(0))
    assert "ok 0.90   rung reuse" in sink._status_line(fused_frame(0, rung=Rung.REUSE))


def test_help_names_every_key() -> None:
    sink = ScreenSink(ScreenOptions(), clock=VirtualClock())
    text = "\n".join(HELP)
    for key in sink._actions:
        assert {" ": "space", "\x1b": "Esc"}.get(key, f"{key}") in text
