"""Cameras of this machine (Video4Linux): USB webcams, thermal cores, frame grabbers.

Not yet tried on a real camera: the machines this was written and tested on have none. What is tested are the
errors, and everything behind the opening of the device, which is shared with the network sources.
"""

import errno
import sys
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import av
import av.error
from av.container import InputContainer
from pydantic import Field

from streamfuse.capture._av import SensorUnit
from streamfuse.capture._live import LiveVideoSource
from streamfuse.capture.devices import find_cameras
from streamfuse.capture.options import SourceOptions
from streamfuse.clock import Clock
from streamfuse.errors import SourceError, SourceInterrupted

CameraFormat = Literal["auto", "y16", "grey", "yuyv", "uyvy", "nv12", "mjpeg", "h264"]
_FFMPEG_FORMATS: dict[CameraFormat, str] = {
    "y16": "gray16le",
    "grey": "gray",
    "yuyv": "yuyv422",
    "uyvy": "uyvy422",
    "nv12": "nv12",
    "mjpeg": "mjpeg",
    "h264": "h264",
}


class V4l2Options(SourceOptions):
    """A camera of this machine."""

    device: Path = Field(
        description="prefer a stable name of /dev/v4l/by-path or by-id (`streamfuse devices` lists them): "
        "/dev/videoN changes from start to start"
    )
    format: CameraFormat = Field(
        "auto", description="what the camera is to send; y16: raw 16-bit counts; auto: what it is set to"
    )
    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = Field(
        None, description="width, height; null: what the camera is set to"
    )
    fps: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None, description="null: what the camera is set to"
    )
    open_timeout_s: Annotated[float, Field(gt=0)] = Field(
        10.0, description="longest wait for the first picture"
    )
    unit: SensorUnit = Field("counts", description="what the values of 16-bit pictures mean")
    threads: Annotated[int, Field(ge=1, le=16)] = Field(1, description="decoder threads, for mjpeg and h264")


class V4l2Source(LiveVideoSource):
    """Captures from a camera. Pictures: as `VideoFileSource`.

    PTS are the driver's stamps, for USB cameras the host's monotonic time when the transfer of a picture
    began. A driver that hangs without reporting an error keeps the device busy until it is unplugged.
    """

    Options: ClassVar[type[V4l2Options]] = V4l2Options

    def __init__(self, options: V4l2Options, *, clock: Clock) -> None:
        super().__init__(
            name=str(options.device),
            open_timeout_s=options.open_timeout_s,
            stall_s=options.reconnect.stall_s,
            unit=options.unit,
            threads=options.threads,
            clock=clock,
        )
        self._options = options

    def _connect(self) -> InputContainer:
        if sys.platform != "linux":
            raise SourceError(f"{self._name}: v4l2 cameras exist on Linux only")
        options = self._options
        settings: dict[str, str] = {}
        if options.format != "auto":
            settings["input_format"] = _FFMPEG_FORMATS[options.format]
        if options.size is not None:
            settings["video_size"] = f"{options.size[0]}x{options.size[1]}"
        if options.fps is not None:
            settings["framerate"] = f"{options.fps:g}"
        try:
            return av.open(
                str(options.device),
                "r",
                format="v4l2",
                options=settings,
                timeout=(options.open_timeout_s, options.reconnect.stall_s),
            )
        except av.error.FFmpegError as error:
            raise self._explain_refusal(error) from error

    def _explain_refusal(self, error: av.error.FFmpegError) -> SourceError:
        name = self._name
        if isinstance(error, av.error.FileNotFoundError):
            return SourceInterrupted(f"{name}: no such device; {_what_there_is()}")
        if isinstance(error, av.error.PermissionError):
            return SourceError(f"{name}: may not be used; add this user to the group 'video'")
        reason = error.strerror or "unknown error"
        if isinstance(error, av.error.OSError) and error.errno == errno.EBUSY:
            return SourceInterrupted(f"{name}: in use by another program")
        if isinstance(error, av.error.ArgumentError) or error.errno == errno.EINVAL:
            asked = self._options.model_dump(include={"format", "size", "fps"}, exclude_none=True)
            return SourceError(f"{name}: the camera does not do {asked}; see `streamfuse devices` ({reason})")
        return SourceError(f"{name}: not a camera that can be used ({reason}); {_what_there_is()}")

    def _explain(self, error: av.error.FFmpegError) -> SourceError:
        return SourceInterrupted(f"{self._name}: the camera is gone ({error.strerror})")


def _what_there_is() -> str:
    cameras = find_cameras()
    if not cameras:
        return "this machine has no cameras"
    names = (f"{camera.stable[0] if camera.stable else camera.device} ({camera.name})" for camera in cameras)
    return "there are " + ", ".join(names)
