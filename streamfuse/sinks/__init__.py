"""Sinks: where fused frames go."""

# Before any module imports PyAV, see `sinks.display`.
import cv2  # noqa: F401

from streamfuse.registry import Registry

SINKS = Registry(
    "sink",
    {
        "file": "streamfuse.sinks.video_file:VideoFileSink",
        "images": "streamfuse.sinks.image_folder:ImageFolderSink",
        "screen": "streamfuse.sinks.screen:ScreenSink",
        "zmq": "streamfuse.sinks.zmq:ZmqSink",
        "python": "streamfuse.sinks.python:PythonSink",
        "frame-log": "streamfuse.sinks.frame_log:FrameLogSink",
        "pairing-table": "streamfuse.sinks.pairing_table:PairingTableSink",
    },
    needs=("open", "write", "close"),
    made_with="clock",
)
