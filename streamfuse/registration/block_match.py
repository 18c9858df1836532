"""How well does each block of one picture match the other one, at every displacement within reach?

Normalised cross-correlation (NCC) of gradient maps, block by block, for all displacements up to `radius`. The
maps are cut into cells; each visible cell is correlated with its surroundings in the infrared by FFT, and the
surfaces of `span` x `span` neighbouring cells are added up to overlapping blocks, so that no correlation is
computed twice. Adding up surfaces over the frames of a clip is what rig calibration does.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view

from streamfuse.registration.gradient_maps import Maps

FloatArray = npt.NDArray[np.float32]

MIN_BLOCK_ENERGY = 0.05
"""Mean energy a map pixel of a block must have (1 = textured) before its correlation means anything."""


@dataclass(frozen=True, slots=True)
class CellSums:
    """Correlation sums per cell, additive over frames.

    cross: float32 (rows, columns, D, D), sum over the cell of visible(p) * infrared(p + d), d = (dx, dy),
    indexed [row, column, dy + radius, dx + radius], D = 2 radius + 1.
    vis_energy: float32 (rows, columns). ir_energy: float32 (rows, columns, D, D), at p + d.
    """

    cell: int
    radius: int
    cross: FloatArray
    vis_energy: FloatArray
    ir_energy: FloatArray

    def __add__(self, other: "CellSums") -> "CellSums":
        return CellSums(
            self.cell,
            self.radius,
            self.cross + other.cross,
            self.vis_energy + other.vis_energy,
            self.ir_energy + other.ir_energy,
        )

    def scaled(self, factor: float) -> "CellSums":
        """All sums times a factor: 1 / frames makes them comparable to one frame's."""
        by = np.float32(factor)
        return CellSums(self.cell, self.radius, self.cross * by, self.vis_energy * by, self.ir_energy * by)


@dataclass(frozen=True, slots=True)
class BlockScores:
    """NCC surfaces of overlapping blocks.

    score: float32 (B, D, D), -1..1, indexed [block, dy + radius, dx + radius].
    x, y: float64 (B,), block centres in map pixels. weight: float32 (B,), 0 for blocks without texture,
    else 1.
    """

    radius: int
    score: FloatArray
    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    weight: FloatArray


def correlate_cells(ir: Maps, vis: Maps, *, cell: int, radius: int) -> CellSums:
    """Correlate every visible cell with its surroundings in the infrared.

    Args:
        ir, vis: float32 (H, W, C) gradient maps of the same size, at least one cell large.
        cell: side of a cell in map pixels; what does not fill a cell at the right and bottom is left out.
        radius: largest displacement in map pixels. Beyond its border the infrared counts as blank.
    """
    rows, columns = vis.shape[0] // cell, vis.shape[1] // cell
    side = cell + 2 * radius
    vis_cells = vis[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell, -1)
    vis_cells = np.ascontiguousarray(vis_cells.transpose(0, 2, 4, 1, 3))
    margin = ((radius, radius + cell), (radius, radius + cell))
    surroundings = sliding_window_view(np.pad(ir, (*margin, (0, 0))), (side, side), axis=(0, 1))
    surroundings = surroundings[: rows * cell : cell, : columns * cell : cell]

    # Only the cell's own rows need the row transform; the padding rows are zero.
    length = scipy.fft.next_fast_len(side, real=True)
    vis_spectrum = scipy.fft.fft(scipy.fft.rfft(vis_cells, length, axis=-1), length, axis=-2)
    spectrum = scipy.fft.rfft2(surroundings, (length, length))
    np.multiply(spectrum, vis_spectrum.conj(), out=spectrum)
    count = 2 * radius + 1
    cross = scipy.fft.irfft2(spectrum.sum(axis=2), (length, length))[..., :count, :count]

    energy = np.pad(np.einsum("yxc,yxc->yx", ir, ir), margin)
    sums = np.cumsum(np.cumsum(np.pad(energy, ((1, 0), (1, 0))), axis=0, dtype=np.float64), axis=1)
    box = sums[cell:, cell:] - sums[:-cell, cell:] - sums[cell:, :-cell] + sums[:-cell, :-cell]
    ir_energy = sliding_window_view(box.astype(np.float32), (count, count))
    ir_energy = ir_energy[: rows * cell : cell, : columns * cell : cell]
    vis_energy = np.einsum("abcyx,abcyx->ab", vis_cells, vis_cells)
    return CellSums(cell, radius, cross, vis_energy, ir_energy)


def block_scores(sums: CellSums, *, span: int) -> BlockScores:
    """NCC of blocks of `span` x `span` cells, one block starting at every cell."""
    span_y, span_x = (min(span, n) for n in sums.cross.shape[:2])
    cross = _sliding_sum(sums.cross, span_y, span_x)
    vis_energy = _sliding_sum(sums.vis_energy, span_y, span_x)
    ir_energy = _sliding_sum(sums.ir_energy, span_y, span_x)
    floor = np.float32(MIN_BLOCK_ENERGY * span_y * span_x * sums.cell**2)
    score = cross / np.sqrt(np.maximum(vis_energy, floor)[..., None, None] * np.maximum(ir_energy, floor))
    rows, columns = vis_energy.shape
    centre_y = np.arange(rows) * sums.cell + (span_y * sums.cell - 1) / 2
    centre_x = np.arange(columns) * sums.cell + (span_x * sums.cell - 1) / 2
    x, y = np.meshgrid(centre_x, centre_y)
    textured = (vis_energy > floor) & (ir_energy.max(axis=(2, 3)) > floor)
    count = rows * columns
    return BlockScores(
        sums.radius,
        score.reshape(count, *score.shape[2:]),
        x.ravel(),
        y.ravel(),
        textured.ravel().astype(np.float32),
    )


def _sliding_sum(values: FloatArray, span_y: int, span_x: int) -> FloatArray:
    """Sums over windows of span_y x span_x along the first two axes."""
    rows, columns = values.shape[0] - span_y + 1, values.shape[1] - span_x + 1
    total = values[:rows].copy()
    for i in range(1, span_y):
        total += values[i : i + rows]
    result = total[:, :columns].copy()
    for i in range(1, span_x):
        result += total[:, i : i + columns]
    return result
