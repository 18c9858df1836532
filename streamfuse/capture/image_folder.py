"""A folder of pictures as a video: 8- or 16-bit PNG, TIFF, JPEG, BMP.

Where the time stamps come from is decided once, for the whole folder: a sidecar CSV, the file names, or a
fixed rate. Stamps from names or a CSV are kept as they are (nanoseconds, often since 1970), so that two
folders stamped by one clock stay comparable.
"""

import logging
import re
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from streamfuse.capture._av import SensorUnit
from streamfuse.capture.image_stamps import Timeline, by_csv, by_name, by_rate, names_hold_times
from streamfuse.capture.options import LONGEST_S, SourceOptions
from streamfuse.clock import Clock
from streamfuse.errors import SourceError
from streamfuse.frame import Image8, Image16, RawFrame, SourceInfo
from streamfuse.inputs import IMAGE_SUFFIXES, of_kind
from streamfuse.pictures import read_picture

log = logging.getLogger(__name__)

CSV_NAME = "timestamps.csv"
DEFAULT_FPS = 25.0
"""For a folder that says nothing about time: pictures still need a distance in time."""


class ImageFolderOptions(SourceOptions):
    """Pictures in a folder, in natural order of their names (2 before 10)."""

    path: Path
    timestamps: Literal["auto", "name", "csv", "rate"] = Field(
        "auto",
        description="auto: the CSV if there is one, else the names if each holds a time finer than a second, "
        "else the rate",
    )
    csv: Path | None = Field(
        None,
        description="columns name and timestamp_s, timestamp_ms, timestamp_us or timestamp_ns; "
        f"null: {CSV_NAME} in the folder",
    )
    fps: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None, description=f"rate when neither CSV nor names give the time; null: {DEFAULT_FPS:g}"
    )
    start_s: Annotated[float, Field(ge=0, le=LONGEST_S)] | None = Field(
        None, description="first picture to deliver, in seconds after the first one of the folder"
    )
    end_s: Annotated[float, Field(gt=0, le=LONGEST_S)] | None = Field(
        None, description="deliver the pictures before this, in seconds after the first one of the folder"
    )
    unit: SensorUnit = Field("counts", description="what the values of 16-bit pictures mean")


class ImageFolderSource:
    """Reads the pictures of a folder, all of one size.

    Pictures: uint8 (H, W) or (H, W, 3) RGB, or uint16 (H, W). EXIF orientation is applied.
    """

    Options: ClassVar[type[ImageFolderOptions]] = ImageFolderOptions
    live = False

    def __init__(self, options: ImageFolderOptions, *, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._timeline: Timeline | None = None
        self._next = 0
        self._first: Image8 | Image16 | None = None

    def open(self) -> SourceInfo:
        """List the pictures, settle their time stamps, read the first one.

        Raises:
            SourceError: no such folder, no pictures in it or between start and end, stamps that are missing
                or not distinct, a first picture that cannot be read.
        """
        folder, start_s, end_s = self._options.path, self._options.start_s, self._options.end_s
        whole = self._find_timeline(list_images(folder))
        timeline = whole.between(start_s, end_s)
        if not timeline.paths:
            last_s = float((whole.pts[-1] - whole.pts[0]) * whole.time_base)
            raise SourceError(f"{folder}: no picture in the span asked for; the last one is at {last_s:g} s")
        image = read_sensor_picture(timeline.paths[0])
        self._timeline, self._next, self._first = timeline, 0, image
        return SourceInfo(
            width=image.shape[1],
            height=image.shape[0],
            fps=whole.fps,
            frame_count=len(timeline.paths),
            time_base=timeline.time_base,
            pixel_format=f"gray{8 * image.itemsize}" if image.ndim == 2 else "rgb24",
            codec=timeline.paths[0].suffix.lstrip(".").lower(),
            detail=f"times from {timeline.origin}",
        )

    def read(self) -> RawFrame | None:
        timeline, first, i = self._timeline, self._first, self._next
        if timeline is None or first is None or i >= len(timeline.paths):
            return None
        path = timeline.paths[i]
        t_arrival = self._clock.now_ns()
        image = first if i == 0 else read_sensor_picture(path)
        if image.shape != first.shape or image.dtype != first.dtype:
            raise SourceError(
                f"{path}: {_shape(image)}, but {timeline.paths[0].name} is {_shape(first)}; "
                "the pictures of a sequence must be alike (for separate pictures: fuse --independent)"
            )
        self._next += 1
        return RawFrame(
            image=image,
            t_arrival=t_arrival,
            pts=timeline.pts[i],
            time_base=timeline.time_base,
            t_capture_hint=None if timeline.origin == "rate" else timeline.pts[i],
            unit="agc8" if image.dtype == np.uint8 else self._options.unit,
            name=path.stem,
        )

    def close(self) -> None:
        self._timeline = self._first = None

    def _find_timeline(self, paths: list[Path]) -> Timeline:
        options = self._options
        table = options.csv or options.path / CSV_NAME
        how = options.timestamps
        if how == "auto":
            if options.csv is not None or table.is_file():
                how = "csv"
            else:
                how = "name" if options.fps is None and names_hold_times(paths) else "rate"
        if how != "rate" and options.fps is not None:
            raise SourceError(f"{options.path}: fps {options.fps:g} given, but its times come from the {how}")
        if how != "csv" and options.csv is not None:
            raise SourceError(f"{options.path}: csv {options.csv} given, but its times come from the {how}")
        if how == "csv":
            return by_csv(paths, table)
        if how == "name":
            return by_name(paths)
        if options.fps is None:
            log.info("%s: no time stamps, %g pictures a second assumed", options.path, DEFAULT_FPS)
        return by_rate(paths, options.fps or DEFAULT_FPS)


def list_images(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order. Raises SourceError when it is no folder or has none."""
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "no such folder"
        raise SourceError(f"{folder}: {problem}; 'images' reads a folder of pictures")
    found = [path for path in folder.iterdir() if of_kind(path, IMAGE_SUFFIXES)]
    if not found:
        raise SourceError(f"{folder}: holds no pictures ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return sorted(found, key=lambda path: natural_key(path.name))


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sorting key in which numbers count as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def read_sensor_picture(path: Path) -> Image8 | Image16:
    """Read a picture as a `RawFrame` holds it. Raises SourceError naming the file."""
    image = read_picture(path)
    if image.ndim == 3 and image.dtype == np.uint16:
        raise SourceError(f"{path}: 16-bit colour; 16-bit pictures must have one channel")
    return image


def _shape(image: Image8 | Image16) -> str:
    colour = "grey" if image.ndim == 2 else "colour"
    return f"{image.shape[1]}x{image.shape[0]} {8 * image.itemsize}-bit {colour}"
