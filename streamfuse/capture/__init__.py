"""Sources, and what turns their raw pictures into stamped, conditioned frames."""

# Before any module imports PyAV, see `sinks.display`.
import cv2  # noqa: F401

from streamfuse.capture.options import SourceOptions
from streamfuse.registry import Registry

SOURCES = Registry(
    "source",
    {
        "file": "streamfuse.capture.video_file:VideoFileSource",
        "images": "streamfuse.capture.image_folder:ImageFolderSource",
        "network": "streamfuse.capture.network:NetworkSource",
        "v4l2": "streamfuse.capture.v4l2:V4l2Source",
        "synthetic": "streamfuse.capture.synthetic:SyntheticSource",
        "python": "streamfuse.capture.python:PythonSource",
    },
    needs=("open", "read", "close"),
    made_with="clock",
    options=SourceOptions,
)
