"""An RTSP server of its own process, run by the system's Python, which has GStreamer's bindings.

Usage: rtsp_server.py SETTINGS, a JSON object (see `rtsp.RtspServer`). Prints the port it listens on. Ends
when its standard input closes, so it never outlives the test that started it.
"""

import json
import os
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402


def picture_source(mount: str, settings: dict[str, object]) -> str:
    """A GStreamer source: a file when the mount names one, else a test pattern."""
    size = f"width={settings['width']},height={settings['height']}"
    if os.path.exists(mount):
        return f"filesrc location={mount} ! decodebin ! videoconvert ! videoscale ! video/x-raw,{size}"
    return f"videotestsrc is-live=true pattern={mount} ! video/x-raw,{size},framerate={settings['fps']}/1"


def main() -> None:
    settings = json.loads(sys.argv[1])
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(settings["port"]))
    user = settings["user"]
    if user:
        access = GstRtspServer.RTSPAuth()
        token = GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "user")
        access.add_basic(GstRtspServer.RTSPAuth.make_basic(user, settings["password"]), token)
        server.set_auth(access)
    for path, mount in settings["mounts"].items():
        factory = GstRtspServer.RTSPMediaFactory()
        encoder = f"x264enc tune=zerolatency speed-preset=ultrafast key-int-max={settings['gop']}"
        factory.set_launch(
            f"( {picture_source(mount, settings)} ! videoconvert ! {encoder} "
            "! rtph264pay name=pay0 pt=96 config-interval=1 )"
        )
        factory.set_shared(True)
        if settings["tcp_only"]:
            factory.set_protocols(GstRtsp.RTSPLowerTrans.TCP)
        if user:
            rights = "user,media.factory.access=true,media.factory.construct=true"
            factory.add_role_from_structure(Gst.Structure.from_string(rights)[0])
        server.get_mount_points().add_factory(f"/{path}", factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    loop = GLib.MainLoop()
    GLib.io_add_watch(sys.stdin.fileno(), GLib.IO_HUP, lambda *_: loop.quit())
    loop.run()


main()
