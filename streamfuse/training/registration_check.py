"""What the `live` registrar must be able to do, measured: one cold pass each, one line a figure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamfuse.flow import to_flow
from streamfuse.frame import Flow, Image8
from streamfuse.metrics.registration import picture_endpoint_error
from streamfuse.registration.blocks import BlocksOptions, BlocksRegistrar
from streamfuse.registration.live import LiveRegistrar
from streamfuse.registration.working import sample
from streamfuse.sampling import pixel_grid
from streamfuse.training.data import Pair, load_pairs, read_grey
from streamfuse.training.registration_cases import (
    Case,
    affine_part,
    distance,
    estimate,
    make_cases,
    same_modality,
    shifted_expectation,
    spline_part,
    stretched,
    warp_truth,
)

WARP_SETS = ("msrs/warp_truth", "roadscene/warp_truth")
ALIGNED_SETS = ("msrs/aligned_colour", "msrs/aligned_gray")
PUBLIC_SET = "roadscene/test_public"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement. bound: what it must stay under, None for a figure that only puts others in
    proportion.
    """

    name: str
    value: float
    bound: float | None = None

    @property
    def passed(self) -> bool:
        return self.bound is None or self.value < self.bound

    def __str__(self) -> str:
        verdict = "" if self.bound is None else f"  < {self.bound:g}: {'yes' if self.passed else 'NO'}"
        return f"{self.name:<66} {self.value:7.3f}{verdict}"


def check_registration(registrar: LiveRegistrar, held: Sequence[Pair], root: Path) -> Iterator[Figure]:
    """Measure on held-back pairs and on the public sets under `root`, those that are there."""
    for name, smooth, bound in (("same modality", True, 0.3), ("same modality, rough field", False, None)):
        yield from _judge(registrar, name, same_modality(held, smooth=smooth), bound=bound)
    cases = make_cases(held)
    yield from _judge(registrar, "validation", cases, bound=1.55)
    yield from _own_misalignment(registrar, held)
    if (root / PUBLIC_SET).is_dir():
        yield from _public(registrar, root / PUBLIC_SET)
    for name, bound in zip(WARP_SETS, (4.0, None), strict=True):
        if (root / name).is_dir():
            yield from _judge(registrar, name, warp_truth(root / name), bound=bound)
    for name in ALIGNED_SETS:
        if (root / name).is_dir():
            pairs = load_pairs(root / name)
            own = [estimate(registrar, p.ir, p.vis) for p in pairs]
            moved = float(np.mean([_mean_norm(field) for field in own]))
            yield Figure(f"{name}: mean displacement of aligned pairs", moved, 1.7)
            yield Figure(f"{name}: of that, agreed on by blocks (rms)", _agreed(pairs, own))


def _judge(
    registrar: LiveRegistrar, name: str, cases: Sequence[Case], *, bound: float | None
) -> Iterator[Figure]:
    """End-point error against the applied field, beside doing nothing and a perfect affine fit."""
    errors = [distance(estimate(registrar, c.ir, c.vis), c.truth) for c in cases]
    means = [error.mean() for error in errors]
    yield Figure(f"{name}: unregistered", float(np.mean([_mean_norm(c.truth) for c in cases])))
    affine = [distance(affine_part(c.truth), c.truth).mean() for c in cases]
    yield Figure(f"{name}: perfect affine", float(np.mean(affine)))
    spline = [distance(spline_part(c.truth), c.truth).mean() for c in cases]
    yield Figure(f"{name}: perfect spline", float(np.mean(spline)))
    yield Figure(f"{name}: end-point error", float(np.mean(means)), bound)
    yield Figure(f"{name}: 95th percentile", float(np.mean([np.percentile(e, 95) for e in errors])))
    yield Figure(f"{name}: worst pair", float(np.max(means)))


def _own_misalignment(registrar: LiveRegistrar, held: Sequence[Pair]) -> Iterator[Figure]:
    """What the pairs are off themselves, and how well a known warp on top of that is followed: a smooth one,
    as mountings and lenses make, and one as rough as ME-PMA's, which no spline follows closely."""
    pairs = [stretched(pair) for pair in held]
    own = [estimate(registrar, p.ir, p.vis) for p in pairs]
    moved = float(np.mean([_mean_norm(field) for field in own]))
    yield Figure("validation: mean displacement of undeformed pairs (label floor)", moved, 1.7)
    yield Figure("validation: of that, agreed on by blocks (rms)", _agreed(pairs, own))
    for kind, smooth, bound in (("smooth", True, 1.0), ("rough", False, None)):
        change = [
            distance(estimate(registrar, c.ir, c.vis), shifted_expectation(field, c.truth)).mean()
            for c, field in zip(make_cases(held, smooth=smooth), own, strict=True)
        ]
        name = f"validation: error of the change under a known extra warp, {kind}"
        yield Figure(name, float(np.mean(change)), bound)


def _agreed(pairs: Sequence[Pair], own: Sequence[Flow]) -> float:
    """Root of the mean inner product of what this registrar and `blocks` find on undeformed pairs, affine
    parts only: errors that two such different methods do not share cancel, what the pairs are off remains."""
    blocks = BlocksRegistrar(BlocksOptions())
    products = [
        (affine_part(field) * affine_part(to_flow(blocks.register(p.ir, p.vis), p.ir.shape))).sum(-1).mean()
        for p, field in zip(pairs, own, strict=True)
    ]
    return float(np.sqrt(max(0.0, float(np.mean(products)))))


def _public(registrar: LiveRegistrar, folder: Path) -> Iterator[Figure]:
    """The public test pairs: measured end-point error of the registered picture, beside the paper's."""
    stems = sorted(path.stem for path in (folder / "ir").glob("*.png"))
    pictures = {
        name: [read_grey(folder / name / f"{stem}.png") for stem in stems]
        for name in ("ir", "ir_move", "vis", "paper_ir_reg")
    }

    def ours(ir: Image8, vis: Image8) -> Image8:
        field = estimate(registrar, ir, vis)
        return np.asarray(sample(ir, pixel_grid(ir.shape) + field), np.uint8)

    registered = [ours(ir, vis) for ir, vis in zip(pictures["ir_move"], pictures["vis"], strict=True)]
    for who, results, bounds in (
        ("unregistered", pictures["ir_move"], (None, None)),
        ("paper", pictures["paper_ir_reg"], (None, None)),
        ("live", registered, (1.65, 1.75)),
    ):
        errors = [
            picture_endpoint_error(truth, result)
            for truth, result in zip(pictures["ir"], results, strict=True)
        ]
        yield Figure(f"public pairs, {who}: mean", float(np.mean([e.mean for e in errors])), bounds[0])
        yield Figure(
            f"public pairs, {who}: penalised", float(np.mean([e.penalised for e in errors])), bounds[1]
        )


def _mean_norm(field: npt.NDArray[np.float32]) -> float:
    return float(np.linalg.norm(field, axis=-1).mean())
