"""Sobel edges, and how much of them a fused picture keeps (Xydeas and Petrovic 2000)."""

from typing import Literal, NamedTuple

import cv2
import numpy as np

from streamfuse.metrics.picture import Floats, Picture, remembered

Angle = Literal["four_quadrant", "ratio"]

# Sigmoid parameters of the paper: gain, slope and centre for edge strength and for orientation.
STRENGTH_GAIN, STRENGTH_SLOPE, STRENGTH_CENTRE = 0.9994, 15.0, 0.5
ANGLE_GAIN, ANGLE_SLOPE, ANGLE_CENTRE = 0.9879, 22.0, 0.8


class Sobel(NamedTuple):
    """Horizontal and vertical response (up is positive) and their magnitude, each float64 (H, W)."""

    x: Floats
    y: Floats
    magnitude: Floats


def _responses(picture: Picture, dx: int, dy: int) -> Floats:
    response = cv2.Sobel(picture.pixels, cv2.CV_64F, dx, dy, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(response, dtype=np.float64)


@remembered
def sobel(picture: Picture) -> Sobel:
    """3x3 Sobel responses. Outside the picture counts as black, so a bright border is a strong edge."""
    x = _responses(picture, 1, 0)
    # Subtracted from 0 and not negated: -0.0 would turn an edge by 2 pi.
    y = 0.0 - _responses(picture, 0, 1)
    return Sobel(x, y, np.sqrt(x**2 + y**2))


@remembered
def _angle(picture: Picture, kind: Angle) -> Floats:
    x, y, _ = sobel(picture)
    if kind == "four_quadrant":
        return np.asarray(np.arctan2(y, x))
    # The angle of the edge line, whatever side is bright: (-pi/2, pi/2].
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x == 0, np.pi / 2, np.arctan(y / x))


@remembered
def _strength_kept(source: Picture, fused: Picture) -> Floats:
    before, after = sobel(source).magnitude, sobel(fused).magnitude
    smaller, larger = np.minimum(before, after), np.maximum(before, after)
    # Where both are equal the evaluators in use take the magnitude itself instead of 1.
    ratio = np.where(before == after, after, smaller / np.maximum(larger, 1.0))
    return STRENGTH_GAIN / (1 + np.exp(-STRENGTH_SLOPE * (ratio - STRENGTH_CENTRE)))


def _edges_kept(source: Picture, fused: Picture, kind: Angle) -> Floats:
    turn = np.abs(_angle(source, kind) - _angle(fused, kind))
    likeness = 1 - turn / (np.pi / 2)
    angle_kept = ANGLE_GAIN / (1 + np.exp(-ANGLE_SLOPE * (likeness - ANGLE_CENTRE)))
    return _strength_kept(source, fused) * angle_kept


@remembered
def edge_preservation(a: Picture, b: Picture, fused: Picture, kind: Angle) -> float:
    """Share of the sources' edges found again, weighted by their magnitude; 0 when neither has an edge."""
    weight_a, weight_b = sobel(a).magnitude, sobel(b).magnitude
    total = float(weight_a.sum() + weight_b.sum())
    if total == 0:
        return 0.0
    kept = np.vdot(_edges_kept(a, fused, kind), weight_a) + np.vdot(_edges_kept(b, fused, kind), weight_b)
    return float(kept) / total
