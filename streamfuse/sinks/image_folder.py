"""Image sequences: one picture a frame, each complete or absent, their times in a table beside them."""

import csv
import logging
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self, TextIO

import cv2
from pydantic import Field, model_validator

from streamfuse.clock import NS_PER_S, Clock
from streamfuse.errors import SinkError
from streamfuse.frame import FusedFrame
from streamfuse.inputs import IMAGE_SUFFIXES, of_kind
from streamfuse.registry import Options
from streamfuse.sinks.colormap import Colormap
from streamfuse.sinks.media_time import MediaTime
from streamfuse.sinks.views import OVERLAY_COLORMAP, View, render

log = logging.getLogger(__name__)

SUFFIXES = {"png": ".png", "jpeg": ".jpg"}
TIMES_NAME = "timestamps.csv"
"""Where the image folder source looks for times."""
DEFAULT_JPEG_QUALITY = 95
"""Hardly visible loss at a quarter of a PNG's size."""


class ImageFolderOptions(Options):
    """Options of the `images` sink."""

    path: Path = Field(description="output folder, made when missing")
    format: Literal["png", "jpeg"] = Field("png", description="png is lossless")
    quality: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description=f"of jpeg; null: {DEFAULT_JPEG_QUALITY}"
    )
    names: Literal["source", "number"] = Field(
        "source", description="source: as the visible picture was named, numbers where it had no name"
    )
    timestamps: bool = Field(
        True, description=f"keep the times in {TIMES_NAME}, as sources of kind images read them"
    )
    picture: View = Field("fused", description="which picture of the frame is written")
    colormap: Colormap = Field(OVERLAY_COLORMAP, description="of the infrared in the overlay")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.format == "png" and self.quality is not None:
            raise ValueError("quality does not apply to png, which is lossless")
        return self


class ImageFolderSink:
    """Writes each frame as an image file. A picture of the same name is overwritten."""

    Options: ClassVar[type[ImageFolderOptions]] = ImageFolderOptions

    def __init__(self, options: ImageFolderOptions, *, clock: Clock) -> None:
        self._options = options
        self._folder = options.path
        self._suffix = SUFFIXES[options.format]
        self._parameters: list[int] = []  # OpenCV's own choice for PNG is its fastest one
        if options.format == "jpeg":
            self._parameters = [cv2.IMWRITE_JPEG_QUALITY, options.quality or DEFAULT_JPEG_QUALITY]
        self._written: set[str] = set()
        self._time = MediaTime(keep_dates=True)
        self._times: TextIO | None = None
        self._opened = False

    def open(self) -> None:
        """Make the folder and prove that it can be written. Raises SinkError."""
        if self._opened:
            return
        probe = self._folder / ".streamfuse-probe"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
            if self._options.timestamps:
                self._times = (self._folder / TIMES_NAME).open(
                    "w", newline="", encoding="utf-8", errors="surrogateescape"
                )
                self._tell("name", "timestamp_ns")
        except OSError as error:
            raise SinkError(f"{self._folder}: cannot be written: {error.strerror}") from error
        if left := sum(of_kind(file, IMAGE_SUFFIXES) for file in self._folder.iterdir()):
            log.warning("%s: holds %d pictures already; those of other names stay", self._folder, left)
        self._opened = True

    def write(self, frame: FusedFrame) -> None:
        """Write one picture. Raises SinkError."""
        self.open()
        picture = render(frame, self._options.picture, colormap=self._options.colormap)
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode(self._suffix, bgr, self._parameters)
        path = self._folder / (self._name(frame) + self._suffix)
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_bytes(data.tobytes())
            partial.replace(path)
            self._tell(path.name, round(self._time.seconds(frame) * NS_PER_S))
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise SinkError(f"{path}: writing failed: {error.strerror}; earlier pictures are kept") from error

    def close(self) -> None:
        """Close the table; every picture was complete when it got its name."""
        if self._times is not None:
            self._times.close()
            self._times = None

    def _tell(self, *row: str | int) -> None:
        """Add a row to the table, at once."""
        if self._times is not None:
            csv.writer(self._times, lineterminator="\n").writerow(row)
            self._times.flush()

    def _name(self, frame: FusedFrame) -> str:
        number = f"{frame.seq:06d}"
        source = frame.pair.vis.name
        if self._options.names == "number" or not source:
            return number
        # several infrared pictures may belong to one visible picture
        name = f"{source}_{number}" if source in self._written else source
        self._written.add(source)
        return name
