"""From matches to a field: a smooth basis fitted by robust, precision-weighted least squares.

The field is a cubic B-spline surface on a regular control grid, so it reproduces every affine map exactly.
What is affine in it is free, the rest is held by two penalties: a ridge (the displacement itself is small)
and bending energy (it is smooth). Everything is batched, in closed form, and differentiable, so a network
that makes matches can be trained through it. A prior field enters as further measurements.

Source of the robust scheme: iteratively reweighted least squares with Cauchy weights (Holland and Welsch,
1977).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

SPACING = 40.0
"""Control grid, working pixels: a cubic spline of this spacing is as wide as a Gaussian of sigma 23."""
SCALES = (6.0, 3.0, 2.0)
"""Residual at which a match weighs half, working pixels, one per round: wide first, so a bad start
recovers.
"""
TINY_RIDGE = 1e-3
"""Holds the affine part, too, to the start where there are no matches at all; px^-2."""


EVIDENCE_BLOCKS = 4
NO_INFORMATION = 1e-4
"""px^-2 per match: a cell that knows its displacement to 100 px knows nothing."""
HOLD = 0.1
"""Weight of what was known against what is seen as well now: nine tenths of a change are taken at once."""
ALWAYS_HELD = 0.1
"""px^-2 per match: so much holds a field wherever it is known at all. Less than a plain scene tells, but
enough that a field does not wander from frame to frame where there is nothing to see."""
LEAST_SEEN = 0.1
"""Share of what was known; a cell that sees less than that of it is held as if it saw so much."""
LEAST_RENEWED = 1 / 16
"""Share of what is known of a field that must be a frame's for the field to be that frame's."""


class Fit(NamedTuple):
    """coefficients (B, 2, I, J); weights (B, h, w) in 0..1, how much each match agrees with the field."""

    coefficients: Tensor
    weights: Tensor


def evidence(fit: Fit, precision: Tensor, support: Tensor) -> Tensor:
    """What a fit rests on, for judging it: (B, 3).

    Logarithm of the mean `support`; the same for the EVIDENCE_BLOCKS x EVIDENCE_BLOCKS parts of the picture,
    by the mean of the errors to be expected in them, so that one good corner is not enough; `support` against
    the matches' information that does not agree with the field, as a share. precision: (B, 3, h, w) as given
    to the fit. support: information as of `supported`.
    """
    information = told(precision)
    against = (information - information * fit.weights).mean(dim=(1, 2))
    known = support.mean(dim=(1, 2))
    parts = F.adaptive_avg_pool2d(support[:, None], EVIDENCE_BLOCKS)
    expected = torch.rsqrt(parts + NO_INFORMATION).mean(dim=(1, 2, 3))
    return torch.stack(
        [
            torch.log(known + NO_INFORMATION),
            -2 * torch.log(expected),
            known / (known + against + NO_INFORMATION),
        ],
        dim=1,
    )


def told(precision: Tensor) -> Tensor:
    """Information (B, h, w) of matches with a precision (B, 3, h, w): its mean over directions."""
    return (precision[:, 0] + precision[:, 2]) / 2


def holding(known: Tensor, precision: Tensor) -> Tensor:
    """Precision (B, h, w) with which a field that was `known` so well, (B, h, w), enters the next fit.

    What a scene tells falsely it tells again in every frame, so frames do not add up: a hundred that see a
    tenth as well must not outvote a good one. So cells weigh by a high power of their information, HOLD k^4
    against s^4, and where as much is seen as was known, the frame decides.
    """
    seen = torch.maximum(told(precision), LEAST_SEEN * known + NO_INFORMATION)
    return known.clamp_max(ALWAYS_HELD) + HOLD * known * (known / seen) ** 3


class Support(NamedTuple):
    """information (B, h, w): how well a fitted field is known, by the matches that agree and by what held it.
    renewed (B,): share of that which is this frame's, 0..1."""

    information: Tensor
    renewed: Tensor


def supported(fit: Fit, precision: Tensor, known: Tensor | None) -> Support:
    """What a fit leaves known of each cell when the field was `known` so well before, (B, h, w)."""
    agreeing = told(precision) * fit.weights
    if known is None:
        return Support(agreeing, torch.ones_like(agreeing[:, 0, 0]))
    taken = agreeing**4 / (agreeing**4 + HOLD * known**4 + NO_INFORMATION**4)
    information = torch.lerp(known, agreeing, taken)
    renewed = (taken * information).mean(dim=(1, 2)) / (information.mean(dim=(1, 2)) + NO_INFORMATION)
    return Support(information, renewed)


def _cubic(positions: Tensor, count: int, spacing: float, order: int) -> Tensor:
    """Values (order 0) or derivatives (1, 2) of `count` uniform cubic B-splines at positions: (N, count)."""
    t = (positions[:, None] / spacing) - torch.arange(-1, count - 1, dtype=positions.dtype)
    a = t.abs()
    near, far = a < 1, (a >= 1) & (a < 2)
    if order == 0:
        value = torch.where(near, 2 / 3 - a**2 + a**3 / 2, torch.where(far, (2 - a) ** 3 / 6, 0.0))
    elif order == 1:
        slope = torch.where(near, -2 * a + 1.5 * a**2, torch.where(far, -((2 - a) ** 2) / 2, 0.0))
        value = slope * torch.sign(t) / spacing
    else:
        value = torch.where(near, -2 + 3 * a, torch.where(far, 2 - a, 0.0)) / spacing**2
    return value


def _joined(xx: Tensor, xy: Tensor, yy: Tensor) -> Tensor:
    """Blocks (B, N, N) of a symmetric matrix to the whole, (B, 2N, 2N)."""
    return torch.cat([torch.cat([xx, xy], dim=2), torch.cat([xy, yy], dim=2)], dim=1)


@dataclass(frozen=True, slots=True)
class Axis:
    """One side of the control grid, over `length` working pixels."""

    length: int
    spacing: float
    count: int

    @classmethod
    def over(cls, length: int) -> "Axis":
        intervals = max(1, round(length / SPACING))
        return cls(length, length / intervals, intervals + 3)

    def at(self, positions: Tensor, order: int = 0) -> Tensor:
        """Basis (N, count) at positions in working pixels, float64 in, float32 out."""
        return _cubic(positions.double(), self.count, self.spacing, order).float()

    def greville(self) -> Tensor:
        """The coefficients with which the splines add up to x, centred and scaled to about -1..1."""
        points = (torch.arange(self.count) - 1) * self.spacing
        return 2 * points / self.length - 1


class SplineFit:
    """Fits for one size of the working picture.

    Args:
        shape: (H, W) of the working picture.
        cells: (h, w) of the match grid.
        pitch: working pixels between matches; offset: position of the first one.
        device: where matches will be.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        cells: tuple[int, int],
        *,
        pitch: float,
        offset: float,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shape, self.cells = shape, cells
        self.y, self.x = Axis.over(shape[0]), Axis.over(shape[1])
        self.by = self.y.at(torch.arange(cells[0]) * pitch + offset).to(device)
        self.bx = self.x.at(torch.arange(cells[1]) * pitch + offset).to(device)
        self.by_inverse, self.bx_inverse = torch.linalg.pinv(self.by), torch.linalg.pinv(self.bx)
        self.yy = torch.einsum("hi,hk->ikh", self.by, self.by).flatten(0, 1)
        self.xx = torch.einsum("wj,wl->wjl", self.bx, self.bx).flatten(1)
        size = self.y.count * self.x.count
        gy, gx = torch.meshgrid(self.y.greville(), self.x.greville(), indexing="ij")
        self.affine = torch.stack([torch.ones(size), gx.flatten(), gy.flatten()], dim=1).to(device)
        """(IJ, 3): coefficients of the fields 1, x, y."""
        projector = self.affine @ torch.linalg.pinv(self.affine)
        self.ridge = torch.eye(size, device=device) - projector
        self.bending = self._bending().to(device)

    def _bending(self) -> Tensor:
        """Mean of uxx^2 + 2 uxy^2 + uyy^2 over the picture as a quadratic form, times 1000^2 px^2 for
        scale.
        """

        def gram(axis: Axis, order: int) -> Tensor:
            points = (torch.arange(0, axis.length * 2) + 0.5) / 2
            basis = axis.at(points, order).double()
            return basis.T @ basis / len(points)

        energy = sum(
            factor * torch.kron(gram(self.y, oy), gram(self.x, ox))
            for factor, oy, ox in ((1.0, 0, 2), (2.0, 1, 1), (1.0, 2, 0))
        )
        return (torch.as_tensor(energy) * 1e6).float()

    def _quadratic(self, weight: Tensor) -> Tensor:
        """Sum over cells of weight * outer(basis, basis): (B, h, w) -> (B, IJ, IJ), one axis after the
        other.
        """
        rows, columns = self.y.count, self.x.count
        partial = self.yy @ (weight @ self.xx)
        return (
            partial.view(-1, rows, rows, columns, columns)
            .transpose(2, 3)
            .reshape(-1, rows * columns, rows * columns)
        )

    def _linear(self, value: Tensor) -> Tensor:
        """Sum over cells of value * basis: (B, h, w) -> (B, IJ)."""
        return (self.by.T @ value @ self.bx).flatten(1)

    def normal(self, precision: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normal equations of matching `target` (B, 2, h, w) with `precision` (B, 3, h, w): blocks xx, xy, yy
        of the matrix, (B, IJ, IJ) each, and the right side (B, 2, IJ)."""
        pxx, pxy, pyy = precision.unbind(1)
        tx, ty = target.unbind(1)
        right = self._linear(pxx * tx + pxy * ty), self._linear(pxy * tx + pyy * ty)
        return self._quadratic(pxx), self._quadratic(pxy), self._quadratic(pyy), torch.stack(right, dim=1)

    def penalty(self, ridge: Tensor, bending: Tensor) -> Tensor:
        """(IJ, IJ) from the strengths of the two penalties."""
        anchor = TINY_RIDGE * torch.eye(self.ridge.shape[0], device=self.ridge.device)
        held: Tensor = ridge * self.ridge + bending * self.bending + anchor
        return held

    def field(self, coefficients: Tensor) -> Tensor:
        """Displacements (B, 2, h, w) at the cells."""
        field: Tensor = self.by @ coefficients @ self.bx.T
        return field

    def project(self, displacement: Tensor) -> Tensor:
        """Coefficients (B, 2, I, J) of the field nearest to displacements (B, 2, h, w) at the cells."""
        nearest: Tensor = self.by_inverse @ displacement @ self.bx_inverse.T
        return nearest

    def dense(self, coefficients: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Displacements (B, 2, N, M) at the working positions rows (N,), columns (M,)."""
        return self.y.at(rows) @ coefficients @ self.x.at(columns).T

    def _solve_affine(self, matrix: Tensor, vector: Tensor) -> Tensor:
        """(B, 6, 6) x = (B, 6)."""
        solved: Tensor = torch.linalg.solve(matrix, vector[..., None])[..., 0]
        return solved

    def _solve(self, matrix: Tensor, vector: Tensor) -> Tensor:
        """(B, 2IJ, 2IJ) x = (B, 2IJ)."""
        return torch.cholesky_solve(vector[..., None], torch.linalg.cholesky(matrix))[..., 0]

    @staticmethod
    def _agreement(rest: Tensor, precision: Tensor, scale: float) -> Tensor:
        """Cauchy weights (B, h, w): a match may be off by `scale`, and by its own uncertainty on top."""
        (rx, ry), (xx, xy, yy) = rest.detach().unbind(1), precision.detach().unbind(1)
        surprise = xx * rx * rx + 2 * xy * rx * ry + yy * ry * ry
        return 1 / (1 + surprise / (2 + (xx + yy) * scale**2))

    def __call__(
        self,
        target: Tensor,
        precision: Tensor,
        *,
        log_penalty: Tensor,
        prior: tuple[Tensor, Tensor] | None = None,
    ) -> Fit:
        """Robust fit.

        Args:
            target: (B, 2, h, w) displacement in working pixels. precision: (B, 3, h, w) [xx, xy, yy], px^-2.
            log_penalty: (2,) natural logarithms of ridge and bending strength.
            prior: what was known before, as coefficients (B, 2, I, J) and its precision (B, h, w), px^-2.
        """
        batch = target.shape[0]
        held = self.penalty(*log_penalty.exp())
        known = held.new_zeros(batch, 2, held.shape[0])
        if prior is not None:
            coefficients, strength = prior
            block = self._quadratic(strength)
            held = held + block
            known = coefficients.flatten(2) @ block
        weights = torch.ones_like(target[:, 0])
        for turn, scale in enumerate(SCALES):
            xx, xy, yy, vector = self.normal(precision * weights[:, None], target)
            xx, yy, vector = xx + held, yy + held, vector + known
            if turn == 0:
                small = _joined(*(self.affine.T @ block @ self.affine for block in (xx, xy, yy)))
                found = self._solve_affine(small, (vector @ self.affine).flatten(1))
                solved = found.view(batch, 2, -1) @ self.affine.T
            else:
                solved = self._solve(_joined(xx, xy, yy), vector.flatten(1))
            solution = solved.view(batch, 2, self.y.count, self.x.count)
            weights = self._agreement(target - self.field(solution), precision, scale)
        return Fit(solution, weights)
