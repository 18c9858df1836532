"""A mount that creeps: the field carried along by the infrared picture's own motion.

The field belongs to the rig, and what moves through the pictures does not move it. When the rig sways both
pictures move together and the field stays. But when the visible picture stands and the infrared one moves as
a whole, one camera has moved against the other, and the field moves with it. Matching sees that by itself,
except where it has nothing to tell: smoke hides the scene from the visible camera only. So a visible picture
that stood while it was seen is believed to stand, as long as it is not seen to move together with the
infrared (smoke moves, too, but alone), and as long as the infrared does no more than creep.
"""

import numpy as np

from streamfuse.clock import NS_PER_MS, NS_PER_S
from streamfuse.frame import Image8, Mask
from streamfuse.registration.own_motion import OwnMotion
from streamfuse.sampling import Matrix, apply_matrix

PERIOD_NS = 120 * NS_PER_MS
"""Between two looks: creeping is slow, and a look costs 2 to 3 ms."""
STILL_PX = 0.5
"""Of a 640-pixel picture: a visible picture that moved by no more stands still; a hand or a vehicle moves it
by more than that within a second."""
STILL_LOOKS = 8
"""With a visible picture that stands, before it is believed to: a second."""
TOGETHER = 0.5
"""Of its length, by which the visible motion may differ from the infrared one and still be the rig's."""
UNSEEN_LOOKS = 8
"""In a row in which nothing of the visible reference is seen, before another one is taken."""
CREEP_PX_S = 5.0
"""Of a 640-pixel picture, a second: what moves faster is no mount that gives way."""
LEAST_PX = 0.1
"""Of a 640-pixel picture: smaller steps wait until they add up, for moving a field costs a pass over it."""


class Creep:
    """Watches both pictures of a pair of streams."""

    def __init__(self) -> None:
        self._motions = {"ir": OwnMotion(), "vis": OwnMotion()}
        self.forget()

    def forget(self) -> None:
        """Begin anew: nothing is known of what stands."""
        self._restart()
        self._t_ns: int | None = None

    def _restart(self) -> None:
        for motion in self._motions.values():
            motion.forget()
        self._still = 0
        self._last = self._applied = np.eye(3)
        self._look_anew()

    def _look_anew(self) -> None:
        """The next visible picture is the one to compare with."""
        self._motions["vis"].forget()
        self._unseen = 0
        self._since: Matrix | None = None

    def step(self, ir: Image8, vis: Image8, *, t_ns: int, valid: Mask | None = None) -> Matrix | None:
        """How far the infrared has moved by itself since the last step that was returned.

        Args:
            ir, vis: uint8 (H, W), the infrared in visible geometry. valid: 255 where `ir` holds picture.
            t_ns: capture time.

        Returns:
            Where its points are now, float64 (3, 3): p_now = matrix @ p_then; None: nowhere else.
        """
        if self._t_ns is not None and 0 <= t_ns - self._t_ns < PERIOD_NS:
            return None
        elapsed = 0.0 if self._t_ns is None else abs(t_ns - self._t_ns) / NS_PER_S
        self._t_ns = t_ns
        moved, stood = self._motions["ir"].update(ir, valid), self._motions["vis"].update(vis)
        if moved is None:
            self._restart()
            return None
        shape = (vis.shape[0], vis.shape[1])
        if _distance(moved, self._last, shape) > CREEP_PX_S * elapsed:
            self._restart()
            return None
        self._last = moved
        self._compare(moved, stood, shape)
        if self._still < STILL_LOOKS:
            self._applied = moved
            return None
        if _distance(moved, self._applied, shape) < LEAST_PX:
            return None
        found = moved @ np.linalg.inv(self._applied)
        self._applied = moved
        return np.asarray(found, np.float64)

    def _compare(self, moved: Matrix, stood: Matrix | None, shape: tuple[int, int]) -> None:
        """Whether the visible picture stands, or both move together, since its reference was taken."""
        if self._since is None:
            self._since = moved
        if stood is None:
            self._unseen += 1
            if self._unseen > UNSEEN_LOOKS:
                self._look_anew()
            return
        self._unseen = 0
        length = _distance(stood, np.eye(3), shape)
        if length <= STILL_PX:
            self._still += 1
            return
        together = _distance(stood, moved @ np.linalg.inv(self._since), shape) < TOGETHER * length
        self._look_anew()
        if together:
            self._still = 0


def _distance(one: Matrix, other: Matrix, shape: tuple[int, int]) -> float:
    """Root mean square distance between two maps over a picture of `shape`, pixels of 640 columns."""
    rows, columns = shape
    x, y = np.meshgrid(np.linspace(0, columns - 1, 5), np.linspace(0, rows - 1, 5))
    places = np.stack([x, y], axis=-1).astype(np.float32)
    apart = apply_matrix(one, places) - apply_matrix(other, places)
    return float(np.sqrt(np.mean(np.sum(apart**2, axis=-1)))) * 640 / max(shape)
