"""Where planes and facets fall on a picture: clipping, mip choice, rasterising."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.synth.geometry import NEAR_M, Camera, Matrix

SUPERSAMPLE = 3
"""Facets are filled without anti-aliasing at this multiple, then averaged down: one edge for all canvases."""
MAX_SIDE = 1800
"""Supersampled pixels; a solid that fills the picture is drawn with less supersampling instead."""

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, ends excluded."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A mip level on the picture: the part of it that may be seen, and its homography into the box."""

    level: int
    rows: slice
    columns: slice
    to_patch: Matrix
    box: Box

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the box."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]


def place(to_pixels: Matrix, sizes: list[tuple[int, ...]], ppm: float, camera: Camera) -> Placed | None:
    """Place a texture, cut off in front of the near plane; None when it is out of sight.

    to_pixels: plane to picture, third row depth in metres. sizes: (rows, columns) of each mip level.
    """
    u0, u1, v0, v1 = 0.0, sizes[0][1] / ppm, 0.0, sizes[0][0] / ppm
    du, dv, depth0 = (float(value) for value in to_pixels[2])
    depths = [depth0 + du * u + dv * v for u, v in ((u0, v0), (u1, v0), (u1, v1), (u0, v1))]
    if max(depths) <= NEAR_M:
        return None
    if min(depths) < NEAR_M:
        # Cut along the steeper axis, where the whole other axis is still in front.
        if abs(du) * u1 >= abs(dv) * v1:
            limit = (NEAR_M - depth0 - min(0.0, dv * v1)) / du
            u0, u1 = (max(u0, limit), u1) if du > 0 else (u0, min(u1, limit))
        else:
            limit = (NEAR_M - depth0 - min(0.0, du * u1)) / dv
            v0, v1 = (max(v0, limit), v1) if dv > 0 else (v0, min(v1, limit))
        if u1 - u0 < 2 / ppm or v1 - v0 < 2 / ppm:
            return None
    image = np.array([[u0, v0, 1], [u1, v0, 1], [u1, v1, 1], [u0, v1, 1]]) @ to_pixels.T
    xy = image[:, :2] / image[:, 2:]
    box = _box(xy, camera)
    if box is None:
        return None
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = xy.tolist()
    along_u = max(math.hypot(bx - ax, by - ay), math.hypot(cx - dx, cy - dy)) / (u1 - u0)
    along_v = max(math.hypot(cx - bx, cy - by), math.hypot(dx - ax, dy - ay)) / (v1 - v0)
    # Across the shrunk direction linear sampling aliases, across the other one mips blur: in between.
    scale = math.sqrt(along_u * along_v) / ppm
    level = min(max(round(-math.log2(max(scale, 1e-6))), 0), len(sizes) - 1)
    texel = 2.0**level / ppm
    rows = slice(int(v0 / texel), min(sizes[level][0], math.ceil(v1 / texel)))
    columns = slice(int(u0 / texel), min(sizes[level][1], math.ceil(u1 / texel)))
    if rows.stop <= rows.start or columns.stop <= columns.start:
        return None
    texel_to_plane = np.array(
        [[texel, 0, (columns.start + 0.5) * texel], [0, texel, (rows.start + 0.5) * texel], [0, 0, 1]]
    )
    to_patch = to_pixels @ texel_to_plane
    to_patch[0] -= box[0] * to_patch[2]
    to_patch[1] -= box[1] * to_patch[2]
    return Placed(level, rows, columns, to_patch, box)


def _box(xy: Matrix, camera: Camera) -> Box | None:
    """Pixels around image points, within the picture; None when there are none."""
    left, top = xy.min(0).tolist()
    right, bottom = xy.max(0).tolist()
    if right <= 0 or bottom <= 0 or left >= camera.width or top >= camera.height:
        return None
    x0, y0 = max(math.floor(left), 0), max(math.floor(top), 0)
    x1, y1 = min(math.ceil(right) + 1, camera.width), min(math.ceil(bottom) + 1, camera.height)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def rasterise(
    points: Matrix,
    faces: list[npt.NDArray[np.int64]],
    triples: npt.NDArray[np.int64],
    bias: Matrix,
    camera: Camera,
) -> tuple[npt.NDArray[np.uint8], Box] | None:
    """Facet number + 1 on a supersampled grid over a box of pixels; None when nothing is seen."""
    corners = points[triples]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    seen = np.flatnonzero((normals * (corners[:, 0] - camera.c)).sum(1) < 0)
    image = camera.to_pixels(points)
    polygons = [image[faces[number]] for number in seen]
    if image[:, 2].min() < NEAR_M:
        polygons = [_in_front(polygon) for polygon in polygons]
        kept = [k for k, polygon in enumerate(polygons) if len(polygon) >= 3]
        polygons, seen = [polygons[k] for k in kept], seen[kept]
    if not polygons:
        return None
    outlines = [polygon[:, :2] / polygon[:, 2:] for polygon in polygons]
    box = _box(np.concatenate(outlines), camera)
    if box is None:
        return None
    x0, y0, x1, y1 = box
    ss = max(1, min(SUPERSAMPLE, MAX_SIDE // max(x1 - x0, y1 - y0)))
    index = np.zeros(((y1 - y0) * ss, (x1 - x0) * ss), np.uint8)
    far = np.linalg.norm(corners[seen].mean(1) - camera.c, axis=1) - bias[seen]
    for k in np.argsort(-far):
        # Pixel centres to supersampled pixel centres, in 1/16 px for the rasteriser.
        fixed = np.rint(((outlines[k] - (x0, y0) + 0.5) * ss - 0.5) * 16).astype(np.int32)
        cv2.fillConvexPoly(index, fixed, int(seen[k]) + 1, cv2.LINE_8, 4)
    return index, box


def _in_front(polygon: Matrix) -> Matrix:
    """The part of a polygon (n, 3), homogeneous, beyond the near plane; may have fewer than 3 corners."""
    depth = polygon[:, 2] - NEAR_M
    kept: list[Matrix] = []
    for k in range(len(polygon)):
        a, b = polygon[k - 1], polygon[k]
        da, db = depth[k - 1], depth[k]
        if (da >= 0) != (db >= 0):
            kept.append(a + (b - a) * (da / (da - db)))
        if db >= 0:
            kept.append(b)
    return np.array(kept).reshape(-1, 3)
