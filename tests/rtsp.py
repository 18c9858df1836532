"""A real RTSP camera for tests: `with RtspServer({"cam": "ball"}) as server: ... server.url("cam")`."""

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

SYSTEM_PYTHON = "/usr/bin/python3"
SCRIPT = Path(__file__).with_name("rtsp_server.py")
PACKAGES = "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-ugly"


class RtspServer:
    """GStreamer's RTSP server in its own process, H.264.

    A test that makes one is skipped where Debian's packages are missing, and fails there in CI.

    Args:
        mounts: path -> a `videotestsrc` pattern ("ball", "smpte", ...) or a video file, played once.
        gop: pictures from one key frame to the next.
        tcp_only: refuse UDP.
        user, password: ask for them.
    """

    def __init__(
        self,
        mounts: dict[str, str],
        *,
        width: int = 320,
        height: int = 240,
        fps: int = 30,
        gop: int = 30,
        tcp_only: bool = False,
        user: str = "",
        password: str = "",
    ) -> None:
        _require_gstreamer()
        self.port = 0
        self._user_info = f"{user}:{password}@" if user else ""
        self._settings = {
            "mounts": mounts,
            "width": width,
            "height": height,
            "fps": fps,
            "gop": gop,
            "tcp_only": tcp_only,
            "user": user,
            "password": password,
        }
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Serve; after a `stop`, on the same port as before."""
        settings = json.dumps(self._settings | {"port": self.port})
        self._process = subprocess.Popen(
            [SYSTEM_PYTHON, str(SCRIPT), settings], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def stop(self) -> None:
        """Die without a good-bye, as a camera does that loses its power."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()

    def url(self, path: str, *, credentials: bool = True) -> str:
        return f"rtsp://{self._user_info if credentials else ''}127.0.0.1:{self.port}/{path}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _require_gstreamer() -> None:
    check = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    command = [SYSTEM_PYTHON, "-c", check]
    if Path(SYSTEM_PYTHON).exists() and not subprocess.run(command, capture_output=True).returncode:
        return
    message = f"no RTSP server: {SYSTEM_PYTHON} lacks GStreamer's (Debian: apt-get install {PACKAGES})"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
