"""The field over time: steady where nothing changes, quick where something did.

On a rig that stands still successive fields differ by noise alone. A recursive mean takes it out: weighted by
confidence, over few frames after a start and over about 1 / STEADY_GAIN later. What would make it lag is seen
in the innovations (field found - field held): when several in a row point the same way the gain rises. An
innovation far beyond the noise is not mixed in at all. It waits for a second one like it, as a real change
brings and a slip of the registrar does not, and then the filter begins anew from there.

Everything is judged on a coarse grid of displacements; the field itself is only mixed, matrix with matrix or
flow with flow, so that its form and smoothness stay the registrar's.
"""

from dataclasses import replace
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.frame import Registration
from streamfuse.sampling import Matrix, apply_matrix, positions_of

GRID = (8, 6)
"""Places (columns, rows) where fields are compared: smooth fields hold no more than that many freedoms."""
REFERENCE_SIDE = 640
"""Pixels are counted on pictures whose longer side is this; thresholds grow and shrink with the picture."""
STEADY_GAIN = 0.15
"""Leaves sqrt(k^2 / (2 - k)) = 11 % of the step from frame to frame that white noise makes, and 28 % of its
deviation; a drift of 0.05 px a frame is followed 0.3 px behind."""
FIRST_NOISE = 0.5
"""Pixels; assumed until the innovations have told. Classical registrars measured 0.2 to 0.6."""
NOISE_MEMORY = 0.05
NOISE_OF_SURPRISE = 0.87
"""White noise over what is left of an innovation without the trend: sqrt(3 / 4). A drift leaves nothing."""
GATE = 3.0
"""Times the noise: an innovation beyond is no noise."""
MIN_GATE = 1.0
"""Pixels: smaller changes are never withheld, whatever the noise."""
PERSISTENCE = 0.5
"""Weight of the newest innovation in their running mean, the trend; 0.58 of white noise is left in it."""
TREND, MIN_TREND = 1.75, 0.3
"""The gain is 1 when the trend is this many times the noise (3 sigma of what noise leaves) or pixels, and
falls with its square: a drift is followed closely, and noise hardly raises the gain."""
MAX_WITHHELD = 3
"""Wild innovations in a row that do not confirm one another; then the newest field is believed: something
moves faster than it is seen twice."""

Points = npt.NDArray[np.float32]
Verdict = Literal["started", "followed", "withheld", "jumped"]


class FieldFilter:
    """Recursive, gated mean of the fields of one stream pair."""

    def __init__(self) -> None:
        self.field: Registration | None = None
        self._points: Points | None = None
        self._weight = 0.0
        self._noise = FIRST_NOISE
        self._trend: Points | float = 0.0
        self._pending: Points | None = None
        self._withheld = 0

    def restart(self, found: Registration, shape: tuple[int, int]) -> None:
        """Begin anew from a field. The noise stays as learnt: it is the registrar's."""
        self.field, self._points = found, displacements(found, shape)
        self._weight, self._trend = 1.0, 0.0
        self._pending, self._withheld = None, 0

    def carry(self, motion: Matrix, shape: tuple[int, int]) -> None:
        """Move the field held along with the infrared picture: p_now = motion @ p_then."""
        if self.field is not None:
            self.field = carried(self.field, motion)
            self._points = displacements(self.field, shape)

    def distance(self, found: Registration, shape: tuple[int, int]) -> float:
        """Root mean square distance from the field held, pixels of a REFERENCE_SIDE picture."""
        assert self._points is not None
        return _length(displacements(found, shape) - self._points) / _unit(shape)

    def update(self, found: Registration, shape: tuple[int, int]) -> Verdict:
        """Take in the field of one frame of `shape` (rows, columns); `field` is then the one to use."""
        if self.field is None or self._points is None:
            self.restart(found, shape)
            return "started"
        innovation = (displacements(found, shape) - self._points) / _unit(shape)
        size, gate = _length(innovation), max(MIN_GATE, GATE * self._noise)
        if size > gate:
            return self._doubt(found, innovation, gate, shape)
        self._pending, self._withheld = None, 0
        surprise = _length(innovation - self._trend) * NOISE_OF_SURPRISE
        self._noise = float(np.sqrt((1 - NOISE_MEMORY) * self._noise**2 + NOISE_MEMORY * surprise**2))
        self._trend = (1 - PERSISTENCE) * self._trend + PERSISTENCE * innovation
        confidence = max(found.confidence, 1e-3)
        self._weight = min(self._weight + confidence, 1 / STEADY_GAIN)
        moving = _length(self._trend) / max(MIN_TREND, TREND * self._noise)
        gain = confidence * max(1 / self._weight, min(1.0, moving**2))
        self.field = mixed(self.field, found, gain)
        self._points = displacements(self.field, shape)
        return "followed"

    def _doubt(self, found: Registration, innovation: Points, gate: float, shape: tuple[int, int]) -> Verdict:
        """A change beyond noise: believed when it comes again."""
        pending, self._pending = self._pending, innovation
        self._withheld += 1
        again = pending is not None and _length(innovation - pending) <= max(gate, _length(pending) / 2)
        if again or self._withheld > MAX_WITHHELD:
            self.restart(found, shape)
            return "jumped"
        return "withheld"


def displacements(registration: Registration, shape: tuple[int, int]) -> Points:
    """The field at the middles of a coarse grid, float32 (rows * columns, 2), pixels."""
    columns, rows = GRID
    x = (np.arange(columns) + 0.5) * shape[1] / columns - 0.5
    y = (np.arange(rows) + 0.5) * shape[0] / rows - 0.5
    if registration.flow is not None:
        at = np.ix_(np.rint(y).astype(np.intp), np.rint(x).astype(np.intp))
        return np.asarray(registration.flow[at].reshape(-1, 2), np.float32)
    assert registration.matrix is not None
    places = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)
    return apply_matrix(registration.matrix, places) - places


def mixed(held: Registration, found: Registration, gain: float) -> Registration:
    """held + gain * (found - held), all else as in `found`. Exact for affine matrices and for flows; between
    two homographies near the identity the error is of second order in their distance."""
    if held.matrix is not None and found.matrix is not None:
        before, now = held.matrix / held.matrix[2, 2], found.matrix / found.matrix[2, 2]
        return replace(found, matrix=before + gain * (now - before))
    if held.flow is not None and found.flow is not None and held.flow.shape == found.flow.shape:
        flow = cv2.addWeighted(held.flow, 1 - gain, found.flow, gain, 0)
        support = found.support
        if held.support is not None and support is not None and held.support.shape == support.shape:
            support = held.support + np.float32(gain) * (support - held.support)
        return replace(found, flow=np.asarray(flow, np.float32), support=support)
    return found


def carried(field: Registration, motion: Matrix) -> Registration:
    """The field once the infrared picture has moved by an affine map: p_now = motion @ p_then."""
    if field.matrix is not None:
        return replace(field, matrix=motion @ field.matrix)
    assert field.flow is not None
    positions = positions_of(field.flow)
    moved = apply_matrix(motion, positions)
    return replace(field, flow=field.flow + (moved - positions))


def _unit(shape: tuple[int, int]) -> float:
    return max(shape) / REFERENCE_SIDE


def _length(points: Points | float) -> float:
    """Root mean square length of the displacements."""
    return float(np.sqrt(np.mean(np.sum(np.square(points), axis=-1))))
