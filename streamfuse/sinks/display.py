"""Whether a window can be opened here, found out without opening one.

Qt ends the whole process when it cannot reach its display, so the question is put to the X server directly:
the connection set-up of the X11 protocol (section 8 of its specification), with the cookies that libX11 would
take from the Xauthority file.
"""

import ctypes
import logging
import os
import re
import select
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import cv2

from streamfuse.errors import SinkError

logger = logging.getLogger(__name__)

TIMEOUT_S = 3.0
"""A forwarded display over a slow link answers in well under a second."""
X_PORT = 6000
COOKIE = b"MIT-MAGIC-COOKIE-1"
_DISPLAY = re.compile(r"^(?:[^/:]+/)?(?P<host>[^:]*):(?P<number>\d+)(?:\.\d+)?$")
_SUCCESS = 1


@contextmanager
def display_for_windows(environ: Mapping[str, str] = os.environ) -> Iterator[socket.socket | None]:
    """Prove that OpenCV can open a window, and hold the display meanwhile.

    Yields:
        The connection to the X server, see `is_gone`; None where there is no X server.

    A server such as Xvfb starts afresh when its last client leaves: a proof that hung up before the window
    library connects would make that connection fail.

    Raises:
        SinkError: what is missing and what would help.
    """
    if not cv2.currentUIFramework():
        raise SinkError(
            "screen: this OpenCV is built without windows: pip uninstall opencv-python-headless, "
            "then pip install --force-reinstall opencv-python"
        )
    if sys.platform != "linux":
        yield None
        return
    _load_plugin()
    with _open_display(environ) as connection:
        _check_x11_libraries(Path(cv2.__file__).parents[1])
        yield connection


def is_gone(connection: socket.socket, wait_s: float) -> bool:
    """Whether the X server hung up, waiting so long for that. What else it says is of no interest here."""
    if not select.select([connection], [], [], wait_s)[0]:
        return False
    try:
        return not connection.recv(4096)
    except OSError:
        return True


def _open_display(environ: Mapping[str, str]) -> socket.socket:
    """A set-up connection to the X server."""
    display = environ.get("DISPLAY", "")
    if not display:
        wayland = " (OpenCV needs X11: start Xwayland)" if environ.get("WAYLAND_DISPLAY") else ""
        raise SinkError(
            f"screen: no display: DISPLAY is not set{wayland}; use a desktop session, ssh -X, or xvfb-run"
        )
    parsed = _DISPLAY.match(display)
    if parsed is None:
        raise SinkError(f"screen: no display: DISPLAY={display!r} does not look like [host]:number")
    host, number = parsed["host"], int(parsed["number"])
    refusal = ""
    for name, data in (*_cookies(environ, number), (b"", b"")):
        try:
            connection = _connect(host, number)
        except OSError as error:
            reason = error.strerror or str(error)
            raise SinkError(
                f"screen: no display: the X server {display} does not answer: {reason}"
            ) from error
        refusal = _refusal(connection, name, data)
        if not refusal:
            return connection
        connection.close()
    raise SinkError(f"screen: no display: the X server {display} {refusal}")


def _load_plugin() -> None:
    """Load Qt's X11 plugin as Qt would: a missing system library is named by the loader.

    OpenCV's wheel brings a libX11-xcb of its own but uses the system's libX11, whose inner layout changed:
    the call by which Qt claims all events misses, Xlib swallows those that map the window, and one window in
    four stays black. Loaded first, the system's libX11-xcb is the one that Qt's call reaches.
    """
    plugin = Path(cv2.__file__).parent / "qt/plugins/platforms/libqxcb.so"
    if not plugin.exists():
        return
    try:
        ctypes.CDLL("libX11-xcb.so.1", mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        logger.warning("the window may stay black (apt-get install libx11-xcb1 helps): %s", error)
    try:
        ctypes.CDLL(str(plugin))
    except OSError as error:
        raise SinkError(f"screen: OpenCV's window library cannot be loaded: {error}") from error


def _check_x11_libraries(packages: Path) -> None:
    """The wheel of PyAV brings libraries of the same names as OpenCV's (libxcb-shm and others), bound to a
    libxcb of its own. The loader keeps those that come first, and with PyAV's Qt waits for its display for
    ever, at full speed. So our packages import OpenCV before PyAV; a program that did not is told.
    """
    own = {library.name for library in packages.glob("opencv*.libs/libxcb-*")}
    for line in Path("/proc/self/maps").read_text().splitlines():
        library = Path(line.rpartition(" ")[2])
        if library.name in own and not library.parent.name.startswith("opencv"):
            raise SinkError(
                f"screen: {library} was loaded before OpenCV's library of that name, and a window hangs: "
                "import cv2 or streamfuse.pipeline before av"
            )


def _refusal(connection: socket.socket, name: bytes, data: bytes) -> str:
    """Set up the connection; why the server will not have it, empty when it will."""
    try:
        connection.sendall(_setup_request(name, data))
        answer = connection.recv(8)
        if len(answer) < 8:
            return "closed the connection"
        if answer[0] == _SUCCESS:
            return ""
        text = connection.recv(answer[1]).decode(errors="replace").strip()
        return f"refuses: {text or 'authorisation needed'}"
    except OSError as error:
        return f"does not answer: {error.strerror or error}"


def _connect(host: str, number: int) -> socket.socket:
    if host not in ("", "unix"):
        return socket.create_connection((host, X_PORT + number), timeout=TIMEOUT_S)
    path = f"/tmp/.X11-unix/X{number}"
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(TIMEOUT_S)
    try:
        connection.connect("\0" + path)  # the abstract socket first, as libxcb does
    except OSError:
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            raise
    return connection


def _setup_request(name: bytes, data: bytes) -> bytes:
    def padded(value: bytes) -> bytes:
        return value + bytes(-len(value) % 4)

    return struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(name), len(data)) + padded(name) + padded(data)


def _cookies(environ: Mapping[str, str], number: int) -> Iterator[tuple[bytes, bytes]]:
    """The cookies for a display number in the Xauthority file: five length-prefixed fields an entry."""
    path = Path(environ.get("XAUTHORITY") or Path(environ.get("HOME", "/")) / ".Xauthority")
    try:
        content = path.read_bytes()
    except OSError:
        return
    position = 0
    while position + 2 <= len(content):
        position += 2  # the address family: any address may be ours
        fields = []
        for _ in range(4):
            (length,) = struct.unpack_from(">H", content.ljust(position + 2, b"\0"), position)
            fields.append(content[position + 2 : position + 2 + length])
            position += 2 + length
        _, entry_number, name, data = fields
        if name == COOKIE and entry_number in (b"", str(number).encode()):
            yield name, data
