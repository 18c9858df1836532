"""Where something changed in a picture, in a form that both cameras agree on.

Heat and light show different contrasts of one moving thing, but it moves at the same place at the same time.
The magnitude of the change over a fixed stretch of time, less what noise and coding change anyway, small and
smooth, is what an infrared and a visible stream of one scene have in common.

Both streams use the same stretch of time, whatever their rates: the change then is one and the same function
of the scene in both, and correlating the two is not drawn toward either's sampling grid.
"""

from collections import deque
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.clock import NS_PER_S
from streamfuse.frame import Frame, Image8
from streamfuse.sampling import Points, apply_matrix, pixel_grid, pull_map, resize_matrix

Plane = npt.NDArray[np.float32]
HalfPlane = npt.NDArray[np.float16]

RASTER_SIDE = 160
"""Columns that changes are looked for at: averaging 4 x 4 pixels of a VGA picture takes out coding noise, and
a walker is still several pixels wide."""
MAP_SIDE = 80
"""Columns of an activity map: smooth as it is (BLUR), more would say nothing new."""
BLUR = 1.5
"""Standard deviation in raster pixels: as wide as parallax and a coarse registration are uncertain (6 pixels
of a VGA picture), and as what walks or drives moves in a frame, without which a peak in time has a cusp."""
BASELINE_S = 0.1
"""Time over which a change is taken: the period of slow thermal cores, so that all streams can use the same,
and long enough for a distant walker to move by more than noise."""
BASELINE_TOLERANCE = 0.5
"""Share of the baseline by which two frames' distance may miss it (slow or jittering streams)."""
NOISE_FACTOR = 6.0
"""Of the median change, 0.67 standard deviations of noise: four of these are passed by 1 pixel in 16,000."""
MIN_CHANGE = 2.0
"""Grey levels: what a codec changes in textured places of an averaged picture is about 1."""
ACTIVE_CHANGE = 8.0
"""Grey levels: noise and the picture-wide flicker at a codec's key frames stay below, events do not."""
MIN_ACTIVE_SHARE = 4e-4
"""Share of the raster that must have changed so much: eight pixels, a walker at fifty metres."""


def raster_size(image: Image8) -> tuple[int, int]:
    """(width, height) of a picture's raster; small pictures keep their size."""
    height, width = image.shape[:2]
    scale = min(1.0, RASTER_SIDE / width)
    return max(1, round(width * scale)), max(1, round(height * scale))


@dataclass(slots=True, eq=False)
class Snapshot:
    """A picture at raster size, and its activity once somebody asked.

    image: float16 (h, w), grey levels. map: float32, see `ActivityTrack.activity`; `t` its time in seconds:
    the middle of the two pictures compared.
    """

    t_capture: float
    image: HalfPlane
    map: Plane | None = field(default=None)
    t: float = 0.0
    active: bool = False


class ActivityTrack:
    """The recent pictures of one stream and what changed between them. One thread uses it.

    Args:
        keep_s: how long pictures are kept.
    """

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self.size: tuple[int, int] | None = None
        self.full_size: tuple[int, int] | None = None
        self._snapshots: deque[Snapshot] = deque()
        self._baseline_s = 0.0

    def add(self, frame: Frame) -> None:
        """Keep a frame. Repeats are not pictures: they only say when the last one was sent again."""
        if frame.duplicate or frame.frozen:
            return
        image = frame.image
        size = (image.shape[1], image.shape[0])
        if self.full_size != size:
            self.clear()
            self.full_size, self.size = size, raster_size(image)
        assert self.size is not None
        if image.ndim == 3:
            image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
        # In floating point: rounding averages to whole grey levels would be most of the noise.
        small = cv2.resize(image.astype(np.float32), self.size, interpolation=cv2.INTER_AREA)
        t = frame.t_capture / NS_PER_S
        if not self._snapshots or t > self._snapshots[-1].t_capture:
            self._snapshots.append(Snapshot(t, small.astype(np.float16)))
        while self._snapshots[0].t_capture < t - self._keep_s:
            self._snapshots.popleft()

    def clear(self) -> None:
        self._snapshots.clear()

    @property
    def newest_s(self) -> float | None:
        return self._snapshots[-1].t_capture if self._snapshots else None

    @property
    def oldest_s(self) -> float | None:
        return self._snapshots[0].t_capture if self._snapshots else None

    @property
    def period_s(self) -> float | None:
        """Median distance of the pictures kept; None with fewer than three."""
        if len(self._snapshots) < 3:
            return None
        return float(np.median(np.diff([snapshot.t_capture for snapshot in self._snapshots])))

    def activity(self, begin_s: float, end_s: float, baseline_s: float) -> list[Snapshot]:
        """The maps whose time lies in [begin_s, end_s).

        |picture(t + baseline / 2) - picture(t - baseline / 2)| beyond what noise changes, smoothed.
        """
        if abs(baseline_s - self._baseline_s) > 0.25 * self._baseline_s:
            self._baseline_s = baseline_s
            for snapshot in self._snapshots:
                snapshot.map = None
        found = []
        earlier = 0
        kept = list(self._snapshots)
        for index, snapshot in enumerate(kept):
            wanted = snapshot.t_capture - self._baseline_s
            while earlier + 1 < index and abs(kept[earlier + 1].t_capture - wanted) <= abs(
                kept[earlier].t_capture - wanted
            ):
                earlier += 1
            before = kept[earlier]
            miss = abs(before.t_capture - wanted)
            middle = (snapshot.t_capture + before.t_capture) / 2
            if index == earlier or miss > BASELINE_TOLERANCE * self._baseline_s:
                continue
            if begin_s <= middle < end_s:
                if snapshot.map is None or snapshot.t != middle:
                    snapshot.map, snapshot.active = _change(before.image, snapshot.image)
                    snapshot.t = middle
                found.append(snapshot)
        return found


def _change(before: HalfPlane, after: HalfPlane) -> tuple[Plane, bool]:
    """What changed, beyond noise; and whether enough did to mean anything."""
    difference = after.astype(np.float32) - before
    # A gain control or a cloud moves the whole picture.
    magnitude = np.abs(difference - np.median(difference))
    noise = max(MIN_CHANGE, NOISE_FACTOR * float(np.median(magnitude)))
    beyond = np.maximum(magnitude - np.float32(noise), 0)
    active = np.count_nonzero(beyond > ACTIVE_CHANGE) >= MIN_ACTIVE_SHARE * beyond.size
    sigma = BLUR * beyond.shape[1] / RASTER_SIDE
    smooth = cv2.GaussianBlur(beyond, (0, 0), sigma)
    rows, columns = map_shape((smooth.shape[1], smooth.shape[0]))
    return np.asarray(cv2.resize(smooth, (columns, rows), interpolation=cv2.INTER_AREA), np.float32), active


def map_shape(size: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of the activity map of pictures of (width, height)."""
    columns = min(MAP_SIDE, size[0])
    return max(1, round(size[1] * columns / size[0])), columns


def map_points(vis_size: tuple[int, int]) -> Points:
    """The visible pixel at the centre of each cell of the common map: float32 (rows, columns, 2)."""
    rows, columns = map_shape(vis_size)
    return apply_matrix(resize_matrix(vis_size, (columns, rows)), pixel_grid((rows, columns)))


def sampled(snapshot: Snapshot, positions: Points, full_size: tuple[int, int]) -> Plane:
    """A map at full-size pixel positions, 0 where the camera did not look: float32 (rows, columns)."""
    assert snapshot.map is not None
    height, width = snapshot.map.shape
    at = apply_matrix(resize_matrix((width, height), full_size), positions)
    values, covered = pull_map(snapshot.map, at)  # type: ignore[type-var]
    return np.where(covered > 0, values, np.float32(0))
