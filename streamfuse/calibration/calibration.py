"""The geometry of a rig: where a visible pixel lies in the raw infrared picture.

visible pixel -> (undistort by the visible lens) -> homography -> (distort by the infrared lens) -> raw
infrared pixel. The output of the product keeps the visible camera's own geometry, so the visible picture is
never resampled: its distortion is followed by the infrared instead. Lenses are optional, in OpenCV's model
(k1, k2, p1, p2[, k3[, k4, k5, k6]]); the homography holds for the scene at large, and what parallax leaves
is the registrar's.
"""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import cv2
import numpy as np
import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from streamfuse.errors import CalibrationError, ConfigError, DataError
from streamfuse.frame import Image8, Image16, Mask
from streamfuse.registry import Options
from streamfuse.sampling import (
    NO_SECOND_MAP,
    QUICK,
    Matrix,
    Points,
    apply_matrix,
    pixel_grid,
    pull_map,
    pull_matrix,
    resize_matrix,
)
from streamfuse.yaml_text import read_yaml

_Image = TypeVar("_Image", Image8, Image16)
MIN_SIDE, MAX_SIDE = 8, 16384
"""Pixels of a picture; smaller ones hold nothing to align, larger ones no camera has."""
Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE)]
Row = tuple[float, float, float]
DISTORTION_LENGTHS = (0, 4, 5, 8)
"""Numbers of coefficients in OpenCV's rational and polynomial models."""
MAX_ZOOM = 64.0
"""Infrared pixels per visible pixel, or the reverse, beyond which a homography is a mistake: 80x60 beside 4K
is 48."""
LOOKS = 33
"""Rows and columns of points by which it is told whether the two pictures have anything in common."""
TABLE_MARGIN = 0.25
"""Of the longer side: no registrar believes larger displacements."""
REDUCE_ABOVE = 1.5
"""Infrared pixels per visible pixel above which the infrared is averaged first: sampling would alias."""


class Intrinsics(Options):
    """A lens: focal lengths and principal point in pixels (integer pixel centres), and distortion."""

    fx: Annotated[float, Field(gt=0)]
    fy: Annotated[float, Field(gt=0)]
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()

    @field_validator("distortion")
    @classmethod
    def _known_model(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) not in DISTORTION_LENGTHS:
            raise ValueError(f"needs 0, 4, 5 or 8 coefficients (k1, k2, p1, p2, ...), got {len(value)}")
        return value

    @property
    def matrix(self) -> Matrix:
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])

    def undistort(self, pixels: Points) -> Points:
        """Pixels (..., 2) of the real lens to those of the ideal one with the same focal length."""
        if not any(self.distortion):
            return pixels
        k, rows = self.matrix, pixels.reshape(-1, 1, 2)
        ideal = cv2.undistortPoints(rows, k, np.array(self.distortion), P=k)
        return np.asarray(ideal, np.float32).reshape(pixels.shape)

    def distort(self, pixels: Points) -> Points:
        """The inverse of `undistort`."""
        if not any(self.distortion):
            return pixels
        rays = np.ones((pixels.size // 2, 3), np.float64)
        rays[:, :2] = (pixels.reshape(-1, 2) - (self.cx, self.cy)) / (self.fx, self.fy)
        real, _ = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), self.matrix, np.array(self.distortion))
        return np.asarray(real, np.float32).reshape(pixels.shape)


class RigCalibration(Options):
    """Geometry of one rig.

    ir_size, vis_size: (width, height) of the raw pictures it was made for.
    homography: 3 x 3, ideal visible pixels to ideal infrared pixels.
    residual_px: what estimation left, mean in visible pixels. frames: pairs it rests on. made_by: how.
    """

    ir_size: tuple[Side, Side]
    vis_size: tuple[Side, Side]
    homography: tuple[Row, Row, Row]
    ir_intrinsics: Intrinsics | None = None
    vis_intrinsics: Intrinsics | None = None
    residual_px: Annotated[float, Field(ge=0)] | None = None
    frames: Annotated[int, Field(ge=0)] | None = None
    made_by: str = ""

    @field_validator("homography")
    @classmethod
    def _usable(cls, value: tuple[Row, Row, Row]) -> tuple[Row, Row, Row]:
        matrix = np.array(value)
        if not np.isfinite(matrix).all() or abs(matrix[2, 2]) < 1e-9:
            raise ValueError("must be finite and have a lower right element other than 0")
        matrix = matrix / matrix[2, 2]
        determinant = np.linalg.det(matrix)
        if not MAX_ZOOM**-2 < determinant < MAX_ZOOM**2:
            raise ValueError(
                f"magnifies areas {determinant:.3g} times from visible to infrared pixels; "
                f"{MAX_ZOOM**-2:.2g} to {MAX_ZOOM**2:.3g} is possible (negative: mirrored)"
            )
        return value

    @model_validator(mode="after")
    def _meet(self) -> Self:
        width, height = self.vis_size
        steps = np.linspace(0, 1, LOOKS, dtype=np.float32)
        looks = np.stack(np.meshgrid(steps * (width - 1), steps * (height - 1)), axis=-1)
        x, y = np.moveaxis(self.to_infrared(looks), -1, 0)
        if not ((x >= 0) & (y >= 0) & (x < self.ir_size[0]) & (y < self.ir_size[1])).any():
            raise ValueError("the infrared covers no part of the visible picture")
        return self

    @classmethod
    def identity(cls, *, ir_size: tuple[int, int], vis_size: tuple[int, int]) -> Self:
        """Both cameras look at the same rectangle: the infrared is only resized. Sizes (width, height).

        Raises DataError for pictures too small, too large or too unlike in size.
        """
        try:
            return cls.from_matrix(resize_matrix(ir_size, vis_size), ir_size=ir_size, vis_size=vis_size)
        except CalibrationError as error:
            sizes = " and visible ".join(f"{width}x{height}" for width, height in (ir_size, vis_size))
            raise DataError(
                f"infrared {sizes} cannot be brought together: sides must be of {MIN_SIDE} to {MAX_SIDE} "
                f"pixels, and areas at most {MAX_ZOOM**2:g} times apart"
            ) from error

    @classmethod
    def from_matrix(
        cls, matrix: Matrix, *, ir_size: tuple[int, int], vis_size: tuple[int, int], **about: Any
    ) -> Self:
        """From a float64 (3, 3) homography, visible to infrared pixels. Raises CalibrationError."""
        if np.shape(matrix) != (3, 3):
            raise CalibrationError(f"no usable calibration: the homography is {np.shape(matrix)}, not (3, 3)")
        with np.errstate(divide="ignore", invalid="ignore"):  # what is not finite is refused below
            scaled = np.asarray(matrix, np.float64) / np.float64(matrix[2][2])
        rows = tuple(tuple(float(value) for value in row) for row in scaled)
        try:
            return cls(ir_size=ir_size, vis_size=vis_size, homography=rows, **about)
        except ValidationError as error:
            raise CalibrationError(f"no usable calibration: {_explain(error)}") from error

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a YAML or JSON file. Raises CalibrationError naming the file and the key."""
        try:
            data = read_yaml(Path(path))
        except ConfigError as error:
            raise CalibrationError(str(error)) from error
        if not isinstance(data, dict):
            raise CalibrationError(
                f"{path}: not a calibration, which has the keys ir_size, vis_size, homography"
            )
        data.pop("calib_id", None)
        try:
            return cls(**data)
        except (ValidationError, TypeError) as error:
            raise CalibrationError(f"{path}: {_explain(error)}") from error

    def save(self, path: Path | str) -> None:
        """Write as YAML (JSON when the name ends so). Raises CalibrationError."""
        data = {"calib_id": self.calib_id} | self.model_dump(mode="json", exclude_none=True)
        as_json = Path(path).suffix.lower() == ".json"
        # JSON is YAML in flow style; width keeps a matrix row on one line.
        text = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=1000)
        if as_json:
            import json

            text = json.dumps(data, indent=2) + "\n"
        try:
            Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise CalibrationError(f"{path}: cannot be written: {error.strerror}") from error

    @property
    def calib_id(self) -> str:
        """Twelve hex digits that change whenever the geometry does."""
        geometry = self.model_dump_json(exclude={"residual_px", "frames", "made_by"})
        return hashlib.sha256(geometry.encode()).hexdigest()[:12]

    @property
    def matrix(self) -> Matrix:
        """The homography, float64 (3, 3)."""
        return np.array(self.homography, np.float64)

    @property
    def is_homography(self) -> bool:
        """No lens bends anything: `matrix` says it all."""
        lenses = (self.ir_intrinsics, self.vis_intrinsics)
        return not any(any(lens.distortion) for lens in lenses if lens is not None)

    def to_infrared(self, pixels: Points) -> Points:
        """Visible pixels, float32 (..., 2), to raw infrared pixels."""
        ideal = pixels if self.vis_intrinsics is None else self.vis_intrinsics.undistort(pixels)
        mapped = apply_matrix(self.matrix, ideal)
        return mapped if self.ir_intrinsics is None else self.ir_intrinsics.distort(mapped)

    @cached_property
    def positions(self) -> Points:
        """Where each visible pixel lies in the raw infrared: float32 (H, W, 2)."""
        margin, (width, height) = self._margin, self.vis_size
        return np.ascontiguousarray(self._table[margin : margin + height, margin : margin + width])

    def look_up(self, pixels: Points) -> Points:
        """`to_infrared` of a whole map of visible pixels, float32 (H, W, 2), in 2 ms instead of 100.

        Interpolated in a table of every pixel: in between, lenses bend by far less than 0.01 pixel. Pixels
        beyond the table's margin come out as its border.
        """
        at = pixels + np.float32(self._margin)
        found = cv2.remap(self._table, at, NO_SECOND_MAP, QUICK, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(found, np.float32)

    @property
    def table(self) -> tuple[Points, int]:
        """What `look_up` interpolates in: float32 (H + 2 margin, W + 2 margin, 2), and the margin."""
        return self._table, self._margin

    @property
    def _margin(self) -> int:
        """Visible pixels around the picture that `look_up` knows as well."""
        return round(max(self.vis_size) * TABLE_MARGIN)

    @cached_property
    def _table(self) -> Points:
        """`to_infrared` of every visible pixel and of the margin around them."""
        margin, (width, height) = self._margin, self.vis_size
        return self.to_infrared(pixel_grid((height + 2 * margin, width + 2 * margin)) - np.float32(margin))

    @cached_property
    def reduction(self) -> tuple[tuple[int, int], Matrix] | None:
        """Size to average the infrared down to before sampling and the matrix into it; None: not needed."""
        x, y = self.vis_size[0] / 2, self.vis_size[1] / 2
        centre, right, below = self.to_infrared(np.array([[x, y], [x + 1, y], [x, y + 1]], np.float32))
        zoom = float(np.sqrt(abs(np.linalg.det(np.stack([right - centre, below - centre]).astype(float)))))
        if zoom <= REDUCE_ABOVE:
            return None
        size = (max(1, round(self.ir_size[0] / zoom)), max(1, round(self.ir_size[1] / zoom)))
        return size, resize_matrix(size, self.ir_size)

    def bring_infrared(self, ir: _Image, *, sharp: bool = False) -> tuple[_Image, Mask]:
        """The raw infrared picture in visible geometry, and where it holds.

        Args:
            ir: uint8 or uint16 (H, W) of `ir_size`.
            sharp: for pictures that are shown, see `sampling.SHARP`.

        Returns:
            (image of the same type and `vis_size` with the border replicated outside, mask of 255 and 0).
            A picture that already fits is returned itself.

        Raises:
            CalibrationError: the picture has another size.
        """
        shape = (self.vis_size[1], self.vis_size[0])
        image, matrix = self.prepared(ir)
        if self.is_homography:
            return pull_matrix(image, matrix @ self.matrix, shape, sharp=sharp)
        return pull_map(image, apply_matrix(matrix, self.positions), sharp=sharp)

    def check_infrared(self, shape: tuple[int, ...]) -> None:
        """Raise CalibrationError unless raw infrared pictures of `shape` (rows, columns) are the rig's."""
        if (shape[1], shape[0]) != self.ir_size:
            raise CalibrationError(
                f"the calibration is for infrared pictures of {self.ir_size[0]}x{self.ir_size[1]}, "
                f"this one is {shape[1]}x{shape[0]}"
            )

    def check_visible(self, shape: tuple[int, ...]) -> None:
        """Raise DataError unless visible pictures of `shape` (rows, columns) are the rig's."""
        if (shape[1], shape[0]) != self.vis_size:
            raise DataError(
                f"the calibration is for visible pictures of {self.vis_size[0]}x{self.vis_size[1]}, "
                f"this one is {shape[1]}x{shape[0]}"
            )

    def prepared(self, ir: _Image) -> tuple[_Image, Matrix]:
        """`ir`, averaged down when it is much finer than the visible, and raw pixels -> its pixels.

        Raises CalibrationError when the size is not the rig's.
        """
        self.check_infrared(ir.shape)
        if self.reduction is None:
            return ir, np.eye(3)
        size, matrix = self.reduction
        reduced: Any = cv2.resize(ir, size, interpolation=cv2.INTER_AREA)
        return reduced, matrix


def _explain(error: ValidationError | TypeError) -> str:
    """The first complaint as "key: what is wrong"."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "calibration"
    hint = f", got {first['input']!r:.60}" if first["type"] not in ("missing", "value_error") else ""
    return f"{key}: {first['msg'].removeprefix('Value error, ')}{hint}"
