"""How has a picture as a whole moved since an earlier one of its stream? For fields that nothing else renews.

Direct alignment of thumbnails: an affine map by Gauss-Newton steps with the mean gradient of both pictures
(efficient second-order minimisation: Malis, ICRA 2004), one or two a frame, from where the last frame was.
People who walk through are taken out twice: pixels by robust weights, and whole blocks that no longer
resemble the reference. Always against the same reference, so that errors do not add up. 0.5 ms a frame.
"""

import cv2
import numpy as np
import numpy.typing as npt

from streamfuse.frame import Image8, Mask
from streamfuse.sampling import Matrix, resize_matrix

SIZE = (160, 120)
"""Columns and rows of the thumbnail: a pixel of it is four of a 640-pixel picture, and a whole picture of
them still tells a hundredth of that."""
DETAIL = 15
"""Side of the box whose mean is taken off: what gain control and shade change is coarser."""
SOFT = 1.0
"""Gaussian that makes a thumbnail smooth enough for gradients, pixels."""
BLOCKS = (8, 6)
"""Columns and rows of blocks, 20 x 20 thumbnail pixels each."""
ALIKE = 0.5
"""Correlation with the reference from which a block counts as the same."""
MIN_BLOCKS = 8
"""A sixth of the blocks must be the same for the motion to be known."""
MIN_DEVIATION = 1.0
"""Grey levels of contrast below which a block has nothing to recognise."""
STEPS, CONVERGED = 3, 0.02
"""At most so many a frame, and none after one of so few thumbnail pixels."""
STIFFNESS = 0.02
"""Of the information of a picture seen whole: what little of it is seen moves the rest as it moved before."""
OUTLIER = 2.0
"""Times the median difference at which a pixel weighs a quarter (Geman and McClure's weights)."""
LEAST_DIFFERENCE = 0.5
"""Grey levels that are never an outlier: rounding."""

Plane = npt.NDArray[np.float32]


class OwnMotion:
    """The motion of one stream since its reference picture."""

    def __init__(self) -> None:
        columns, rows = SIZE
        x, y = np.meshgrid(np.linspace(-1, 1, columns), np.linspace(-0.75, 0.75, rows))
        self._places = np.stack([np.ones_like(x), x, y]).reshape(3, -1).astype(np.float32)
        self.forget()

    def forget(self) -> None:
        """The next picture is the reference."""
        self._reference: Plane | None = None
        self._seen = np.zeros(0, bool)
        self._motion = np.zeros((2, 3))

    def update(self, image: Image8, valid: Mask | None = None) -> Matrix | None:
        """Where the reference's points are in `image`: p_now = matrix @ p_then, pixels of the picture.

        Args:
            image: uint8 (H, W), the same size from picture to picture. valid: 255 where it holds picture.

        Returns:
            float64 (3, 3); None where too little of the reference is seen.
        """
        plane = _thumbnail(image)
        covered = _covered(valid)
        if self._reference is None:
            self._reference, self._slopes = plane, _slopes(plane)
            self._texture = _block_means(plane * plane) >= MIN_DEVIATION**2
            self._seen = self._texture.copy()
        known = self._motion.copy()
        for _ in range(STEPS):
            step = self._step(plane, covered)
            if np.abs(step).max() < CONVERGED:
                break
        seen = self._texture & (self._likeness(plane) >= ALIKE)
        if seen.sum() < MIN_BLOCKS:
            self._motion = known
            return None
        self._seen = seen
        return self._matrix((image.shape[1], image.shape[0]))

    def _step(self, plane: Plane, covered: Plane) -> npt.NDArray[np.float64]:
        """One Gauss-Newton step towards the present picture."""
        assert self._reference is not None
        moved = self._pulled(plane)
        rest = moved - self._reference
        weight = cv2.resize(self._seen.astype(np.float32), SIZE, interpolation=cv2.INTER_LINEAR) * covered
        there = np.abs(rest[::2, ::2][weight[::2, ::2] > 0])
        typical = float(np.median(there)) if there.size else 0.0
        weight /= (1 + (rest / (OUTLIER * typical + LEAST_DIFFERENCE)) ** 2) ** 2
        gradient = (_slopes(moved) + self._slopes) / 2
        design = (gradient.reshape(2, 1, -1) * self._places).reshape(6, -1)
        weighted = design * weight.reshape(-1)
        normal = (weighted @ design.T).astype(np.float64)
        whole = np.kron(np.diag(np.mean(self._slopes**2, axis=(1, 2))), self._places @ self._places.T).astype(
            np.float64
        )
        found = np.linalg.solve(
            normal + STIFFNESS * whole + 1e-3 * np.eye(6), -(weighted @ rest.reshape(-1)).astype(np.float64)
        ).reshape(2, 3)
        self._motion += found
        return np.asarray(found, np.float64)

    def _pulled(self, plane: Plane) -> Plane:
        """The present picture as the reference saw it."""
        pulled = cv2.warpAffine(
            plane,
            self._matrix(SIZE)[:2],
            SIZE,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(pulled, np.float32)

    def _likeness(self, plane: Plane) -> Plane:
        """Correlation with the reference, block by block."""
        assert self._reference is not None
        moved = self._pulled(plane)
        product = _block_means(moved * self._reference)
        energy = _block_means(moved * moved) * _block_means(self._reference * self._reference)
        return np.asarray(product / np.sqrt(energy + 1e-6), np.float32)

    def _matrix(self, size: tuple[int, int]) -> Matrix:
        """The motion as a matrix on pictures of a size (columns, rows)."""
        columns, rows = SIZE
        unit = np.array([[2 / (columns - 1), 0, -1], [0, 1.5 / (rows - 1), -0.75], [0, 0, 1.0]])
        matrix = np.eye(3)
        matrix[:2] += np.roll(self._motion, -1, axis=1) @ unit
        to_thumbnail = resize_matrix(SIZE, size)
        return np.asarray(np.linalg.inv(to_thumbnail) @ matrix @ to_thumbnail, np.float64)


def _thumbnail(image: Image8) -> Plane:
    small = cv2.resize(image, SIZE, interpolation=cv2.INTER_AREA).astype(np.float32)
    soft = cv2.GaussianBlur(small, (0, 0), SOFT)
    return np.asarray(soft - cv2.blur(soft, (DETAIL, DETAIL)), np.float32)


def _covered(valid: Mask | None) -> Plane:
    """1 where a thumbnail holds picture, well away from where it does not."""
    if valid is None:
        return np.ones(SIZE[::-1], np.float32)
    small = cv2.resize(valid, SIZE, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.erode(small, np.ones((5, 5), np.uint8)) == 255, np.float32)


def _slopes(plane: Plane) -> Plane:
    """(2, H, W): derivatives to the right and down."""
    kernel = np.array([[-0.5, 0, 0.5]], np.float32)
    return np.stack([cv2.filter2D(plane, -1, kernel), cv2.filter2D(plane, -1, kernel.T)])


def _block_means(values: Plane) -> Plane:
    return np.asarray(cv2.resize(values, BLOCKS, interpolation=cv2.INTER_AREA), np.float32)
