"""Pictures, clips and displacement fields as the metrics take them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.capture.image_folder import list_images
from streamfuse.capture.video_file import VideoFileSource
from streamfuse.clock import RealClock
from streamfuse.errors import DataError
from streamfuse.evaluation.sets import VIS, Item, Stream
from streamfuse.flow import compose, invert
from streamfuse.frame import Flow, Image8, Image16, Mask
from streamfuse.pictures import read_picture
from streamfuse.sampling import positions_of

FLO_MAGIC = 202021.25
"""First float of a Middlebury .flo file."""
FLO_UNKNOWN = 1e9
"""Middlebury: a larger component, or NaN, marks a pixel without a known displacement."""
INVERSION_TOLERANCE = 0.05
"""Pixels. Where the inverse of a deformation is less exact, nothing is judged."""
DISPLACEMENT_UNIT = 64
"""`disp_q64` fields are stored in 1/64 px."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture of every stream, uint8 (H, W) or RGB (H, W, 3), and the fields that go with it.

    known: where a true field says something, (H, W); None without a true field.
    valid: masks, uint8 (H, W), 0 where a registered infrared has no picture; fused, it is the visible there.
    """

    name: str
    images: Mapping[Stream, Image8]
    flows: Mapping[Stream, Flow]
    known: npt.NDArray[np.bool_] | None = None
    valid: Mapping[Stream, Mask] = field(default_factory=dict)


def read_shot(item: Item) -> Shot:
    """Load one item of pictures. Raises DataError naming the file on another depth, size or form."""
    images: dict[Stream, Image8] = {}
    flows: dict[Stream, Flow] = {}
    known = None
    for stream, path in item.files.items():
        if not stream.is_field:
            images[stream] = _eight_bit(read_picture(path), path)
        elif stream.role == "flow_truth":
            flows[stream], known = read_true_field(path)
        else:
            flows[stream] = read_field(path)
    _check_sizes(images | flows, item.files)
    return Shot(item.name, images, flows, known)


def read_clip(item: Item) -> Iterator[Shot]:
    """The frames of one clip of every stream, in step.

    Raises:
        DataError: a stream ends before the others, or sizes differ.
    """
    streams = {stream: _frames(path) for stream, path in item.files.items()}
    number = 0
    while True:
        images = {stream: next(frames, None) for stream, frames in streams.items()}
        ended = [stream for stream, image in images.items() if image is None]
        if len(ended) == len(images):
            return
        if ended:
            longer = next(stream for stream in images if stream not in ended)
            raise DataError(
                f"{item.name}: {ended[0]} ({item.files[ended[0]]}) ends after {number} frames, "
                f"{longer} ({item.files[longer]}) goes on; clips to compare need as many frames each"
            )
        present = {stream: image for stream, image in images.items() if image is not None}
        if number == 0:
            _check_sizes(present, item.files)
        yield Shot(f"{number:06d}", present, {})
        number += 1


def _frames(path: Path) -> Iterator[Image8]:
    if path.is_dir():
        for file in list_images(path):
            yield _eight_bit(read_picture(file), file)
        return
    source = VideoFileSource(VideoFileSource.Options.model_validate({"path": path}), clock=RealClock())
    source.open()
    try:
        while (frame := source.read()) is not None:
            yield _eight_bit(frame.image, path)
    finally:
        source.close()


def _eight_bit(image: Image8 | Image16, path: Path) -> Image8:
    if image.dtype != np.uint8:
        raise DataError(f"{path}: {image.dtype} picture; metrics are defined on 8-bit pictures")
    return image.astype(np.uint8, copy=False)


def _check_sizes(arrays: Mapping[Stream, npt.NDArray[Any]], files: Mapping[Stream, Path]) -> None:
    height, width = arrays[VIS].shape[:2]
    for stream, array in arrays.items():
        if array.shape[:2] != (height, width):
            raise DataError(
                f"{stream}: {files[stream]} is {array.shape[1]}x{array.shape[0]}, "
                f"vis {files[VIS]} is {width}x{height}; pictures to compare must have one size"
            )


def read_field(path: Path) -> Flow:
    """A displacement field, float32 (H, W, 2), channels (dx, dy), pixels.

    `.npy`, Middlebury `.flo`, or `.npz` with one array (`flow`; `disp_q64` is in 1/64 px).

    Raises:
        DataError: unreadable, or of another shape.
    """
    array, _ = _read_field(path)
    return array


def read_true_field(path: Path) -> tuple[Flow, npt.NDArray[np.bool_]]:
    """The pull field a perfect registration finds, and where it is known, (H, W).

    Files that hold `disp` or `disp_q64` describe how the infrared was deformed,
    moved(p) = true(p + disp(p)), and are inverted; everything else is taken as the pull field itself.
    """
    array, deformation = _read_field(path)
    if deformation:
        return _undone(array)
    known = np.asarray((np.abs(array) < FLO_UNKNOWN).all(axis=-1))
    array[~known] = 0
    return array, known


def _undone(deformation: Flow) -> tuple[Flow, npt.NDArray[np.bool_]]:
    """The inverse of a deformation, and where it holds and stays inside the moved picture."""
    flow = invert(deformation)
    miss = np.abs(compose(deformation, flow)).max(axis=-1)
    height, width = flow.shape[:2]
    inside = cv2.inRange(positions_of(flow), (0, 0), (width - 1, height - 1)) > 0
    return flow, np.asarray(inside & (miss <= INVERSION_TOLERANCE))


def _read_field(path: Path) -> tuple[Flow, bool]:
    deformation = False
    try:
        if path.suffix.lower() == ".flo":
            array = _read_flo(path)
        else:
            loaded = np.load(path, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                array = loaded
            else:
                with loaded as archive:
                    name, array = _only_field(archive, path)
                deformation = name != "flow"
                if name == "disp_q64":
                    array = array / np.float32(DISPLACEMENT_UNIT)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a displacement field that can be read: {error}") from error
    if array.ndim != 3 or array.shape[2] != 2 or not np.issubdtype(array.dtype, np.number):
        raise DataError(f"{path}: a field has the shape (H, W, 2), channels (dx, dy), not {array.shape}")
    return array.astype(np.float32), deformation


def _only_field(archive: Any, path: Path) -> tuple[str, npt.NDArray[Any]]:
    for name in ("flow", "disp", "disp_q64"):
        if name in archive.files:
            return name, np.asarray(archive[name])
    raise DataError(f"{path}: holds {', '.join(archive.files)}; looked for flow, disp or disp_q64")


def _read_flo(path: Path) -> npt.NDArray[np.float32]:
    data = np.fromfile(path, "<f4")
    if data.size < 3 or data[0] != FLO_MAGIC:
        raise ValueError("no .flo header")
    width, height = data[1:3].view("<i4")
    return data[3:].reshape(int(height), int(width), 2)
