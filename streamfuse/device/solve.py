"""The fit's linear systems by matrix products alone.

Problem. A CUDA graph records kernels, but PyTorch's solvers go through cuSOLVER, which does not promise to be
recordable (torch.linalg.solve is known not to be), and check their result on the host, which waits for the
device. Design. With r = b - A x the Neumann series of a matrix whose eigenvalues lie in (0, 1],

    A^-1 b = (I + R + R^2 + ...) b = ... (I + R^4) (I + R^2) (I + R) b,    R = I - A,

doubles its terms with one product of R with itself and one of R with a vector. What makes it short is the
basis: in the generalised eigenvectors of the penalties and of evenly spread information, known beforehand,
the matrix of a picture with even information is diagonal, and that of any other near enough to it. One step
of iterative refinement (Wilkinson, 1963) takes off what rounding has left.
Trade-off. About four times the arithmetic of a Cholesky factor, on matrices of 300 x 300 too small to matter.
"""

import torch
from torch import Tensor

from streamfuse.registration.fit import SplineFit

DOUBLINGS = 16
"""2^16 terms: where the smallest eigenvalue is 1/3000 of the bound on the largest, as with one textured
corner in a blank picture, they leave e^-22 of the error."""


def eliminate(matrix: Tensor, vector: Tensor) -> Tensor:
    """Solve (B, n, n) x = (B, n), symmetric positive definite and small: one pivot after the other."""
    work = torch.cat([matrix, vector[..., None]], dim=2)
    for i in range(matrix.shape[1]):
        row = work[:, i : i + 1] / work[:, i : i + 1, i : i + 1]
        work = work - work[:, :, i : i + 1] * row
        work = torch.cat([work[:, :i], row, work[:, i + 1 :]], dim=1)
    return work[..., -1]


def twice(block: Tensor) -> Tensor:
    """(..., N, M) to block-diagonal (..., 2N, 2M): the same for dx and dy."""
    nothing = torch.zeros_like(block)
    return torch.cat([torch.cat([block, nothing], dim=-1), torch.cat([nothing, block], dim=-1)], dim=-2)


class Basis:
    """Coordinates in which a system is nearly diagonal, for one fit and one strength of its penalties.

    Args:
        penalty, information: symmetric positive definite (n, n), of one component of the field: what holds
            it, and what matches spread evenly over the picture would tell.
    """

    def __init__(self, penalty: Tensor, information: Tensor) -> None:
        root = torch.linalg.cholesky((penalty + information).double())
        half = torch.linalg.solve_triangular(root, information.double(), upper=False)
        whitened = torch.linalg.solve_triangular(root, half.mT, upper=False)
        vectors = torch.linalg.solve_triangular(root.mT, torch.linalg.eigh(whitened)[1], upper=True)
        self.vectors = twice(vectors.float())

    def solve(self, matrix: Tensor, vector: Tensor) -> Tensor:
        """Solve (B, 2n, 2n) x = (B, 2n), symmetric positive definite."""
        turned = self.vectors.mT @ matrix @ self.vectors
        scale = torch.rsqrt(turned.diagonal(dim1=1, dim2=2))
        turned = scale[:, :, None] * turned * scale[:, None]
        # No eigenvalue exceeds the largest sum of absolute values along a row (Gershgorin).
        step = 1 / turned.abs().sum(dim=2).amax(dim=1)
        turned = turned * step[:, None, None]
        wanted = ((vector @ self.vectors) * scale * step[:, None])[..., None]
        rest = torch.eye(turned.shape[1], device=turned.device) - turned
        powers = [rest]
        for _ in range(DOUBLINGS - 1):
            powers.append(powers[-1] @ powers[-1])

        def series(x: Tensor) -> Tensor:  # (B, 2n, 1)
            for power in powers:
                x = torch.baddbmm(x, power, x)
            return x

        found = series(wanted)
        found = found + series(wanted - turned @ found)
        solved: Tensor = (found[..., 0] * scale) @ self.vectors.mT
        return solved


class DeviceFit(SplineFit):
    """`SplineFit` without a solver that a CUDA graph cannot hold. Made on the CPU, moved by `to`.

    Args:
        log_penalty: as will be given to the fit: (2,) logarithms of the strengths of ridge and bending.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        cells: tuple[int, int],
        *,
        pitch: float,
        offset: float,
        log_penalty: Tensor,
        device: torch.device | str,
    ) -> None:
        super().__init__(shape, cells, pitch=pitch, offset=offset)
        even = self._quadratic(self.by.new_ones(1, *cells))[0]
        self.basis = Basis(self.penalty(*log_penalty.detach().cpu().exp()), even)
        self.basis.vectors = self.basis.vectors.to(device)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))

    def _solve_affine(self, matrix: Tensor, vector: Tensor) -> Tensor:
        return eliminate(matrix, vector)

    def _solve(self, matrix: Tensor, vector: Tensor) -> Tensor:
        return self.basis.solve(matrix, vector)
