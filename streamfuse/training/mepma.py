"""Training of the ME-PMA network: the paper's two phases, the second one told the true field.

First fusion, on aligned pairs. Then alignment alone, all else frozen and its batch statistics kept, on
infrared deformed on the fly. The paper judges the field by the pictures it yields and leaves the deformation
that it has just applied unused; here the end-point error of the field counts as well, and every term is
taken from the field as it is applied, the composition of all three views, not from the last view alone.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from kornia.filters import spatial_gradient
from kornia.losses import ssim_loss
from pydantic import Field as Bound
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from streamfuse.errors import DataError
from streamfuse.flow import invert
from streamfuse.frame import Flow, Image8
from streamfuse.nn.mepma import MEPMA, total_flow
from streamfuse.nn.mepma.network import MIN_SIDE
from streamfuse.nn.models import load_model
from streamfuse.nn.precision import full_precision
from streamfuse.nn.warp import warp
from streamfuse.nn.weights import WeightsFile
from streamfuse.registration.working import sample
from streamfuse.registry import Options
from streamfuse.sampling import pixel_grid
from streamfuse.training.data import Pair, load_pairs, split
from streamfuse.training.deform import mepma_field
from streamfuse.training.export import load_best, write_weights
from streamfuse.training.fusion_crops import make_crop
from streamfuse.training.fusion_people import mark
from streamfuse.training.loop import Loop, LoopConfig, Recipe
from streamfuse.training.provenance import curve
from streamfuse.training.registration import NOISE_FLOOR, VALIDATION, field_figures
from streamfuse.training.registration_cases import make_cases

SSIM_WINDOW = 11
GRADIENT_WEIGHT = 20.0
LIKENESS_WINDOW = 9
LIKENESS_FLOOR = 1e-5
VALIDATION_SEED = 1
"""Crops that the fusion phase is validated on are always the same."""


def _crop(pair: Pair, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Float32 (2, H, W) in [0, 1], ir then vis."""
    return make_crop(mark(pair, ()), shape, rng)[:2]


class MepmaTraining(Options):
    """What `streamfuse train mepma` reads.

    folders: data sets, each with ir/ and vis/, relative to the data root. drop: stems that are not trained
    on. shape: (H, W) of a crop. ssim_weight, reconstruction_weight: of the fusion phase; the paper names 5
    and 4, its logged run 20 and 1. field_weight: of the end-point error, per pixel, beside the paper's terms.
    fusion: its loop; without one `--weights` must bring what it would have learnt. registration: the second
    loop.
    """

    folders: Annotated[list[str], Bound(min_length=1)]
    drop: tuple[str, ...] = ()
    terms: str = ""
    held_back: Annotated[int, Bound(ge=1)] = 24
    split_seed: int = 1
    shape: tuple[Annotated[int, Bound(ge=MIN_SIDE)], Annotated[int, Bound(ge=MIN_SIDE)]] = (304, 400)
    batch: Annotated[int, Bound(ge=1)] = 4
    ssim_weight: Annotated[float, Bound(ge=0)] = 5.0
    reconstruction_weight: Annotated[float, Bound(ge=0)] = 4.0
    field_weight: Annotated[float, Bound(ge=0)] = 1.0
    fusion: LoopConfig | None = None
    registration: LoopConfig

    def pairs(self, root: Path) -> tuple[list[Pair], list[Pair]]:
        """(training, validation) pairs. Raises DataError."""
        found = [pair for name in self.folders for pair in load_pairs(root / name, drop=self.drop)]
        return split(found, held_back=self.held_back, seed=self.split_seed)


def sobel(image: Tensor) -> Tensor:
    """|Gx| + |Gy| of (B, 1, H, W)."""
    return spatial_gradient(image, normalized=False).abs().sum(dim=2)


def fusion_loss(
    network: MEPMA, ir: Tensor, vis: Tensor, config: MepmaTraining
) -> tuple[Tensor, dict[str, float]]:
    """The paper's loss of the first phase; ir, vis (B, 1, H, W) in [0, 1], aligned."""
    out = network(ir, vis, aligned=True)
    with full_precision(ir):
        fused, brightest = out.fused.float(), torch.maximum(ir, vis)
        unlike = ssim_loss(fused, ir, SSIM_WINDOW) + ssim_loss(fused, vis, SSIM_WINDOW)
        redrawn = F.l1_loss(out.recon_ir.float(), ir) + F.l1_loss(out.recon_vis.float(), vis)
        terms = {
            "intensity": F.mse_loss(fused, brightest),
            "unlikeness": config.ssim_weight * unlike,
            "gradient": GRADIENT_WEIGHT * F.l1_loss(sobel(fused), sobel(brightest)),
            "reconstruction": config.reconstruction_weight * redrawn,
        }
    return torch.stack(list(terms.values())).sum(), {name: term.item() for name, term in terms.items()}


def local_likeness(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared correlation in 9 x 9 windows (zeros outside), 0..1. (B, 1, H, W) each."""

    def box(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, LIKENESS_WINDOW, 1, LIKENESS_WINDOW // 2) * LIKENESS_WINDOW**2

    count = LIKENESS_WINDOW**2
    sum_a, sum_b = box(a), box(b)
    cross = box(a * b) - sum_a * sum_b / count
    variances = (box(a * a) - sum_a * sum_a / count) * (box(b * b) - sum_b * sum_b / count)
    return (cross.square() / (variances + LIKENESS_FLOOR)).mean()


def registration_loss(
    network: MEPMA, batch: dict[str, Tensor], config: MepmaTraining
) -> tuple[Tensor, dict[str, float]]:
    """The loss of the second phase. batch: as `RegistrationPhase.make_batch`."""
    with torch.no_grad():
        features_ir, features_vis = network.encode(batch["moved"], batch["vis"])
    views = network.align(features_ir, features_vis)
    redrawn = network.head_ir(views.warp(features_ir))
    with full_precision(batch["ir"]):
        flow = total_flow(views)
        error = torch.sqrt((flow - batch["truth"]).square().sum(1) + NOISE_FLOOR**2).mean()
        terms = {
            "field": config.field_weight * error,
            "roughness": flow.diff(dim=2).abs().mean() + flow.diff(dim=3).abs().mean(),
            "unlikeness": 1 - local_likeness(warp(batch["moved"], flow), batch["ir"]),
            "reconstruction": F.l1_loss(redrawn.float(), batch["ir"]),
        }
    return torch.stack(list(terms.values())).sum(), {name: term.item() for name, term in terms.items()}


class FusionPhase:
    """The first phase, for the loop."""

    def __init__(self, config: MepmaTraining, loop: LoopConfig, pairs: Sequence[Pair], held: Sequence[Pair]):
        self.config, self.seed, self.pairs, self.held = config, loop.seed, pairs, held

    def make_batch(self, step: int) -> dict[str, Tensor]:
        """`ir`, `vis` (B, 1, H, W) in [0, 1]."""
        rng = np.random.default_rng([self.seed, step])
        chosen = [self.pairs[int(rng.integers(len(self.pairs)))] for _ in range(self.config.batch)]
        return self._stack([_crop(pair, self.config.shape, rng) for pair in chosen])

    @staticmethod
    def _stack(crops: Sequence[np.ndarray]) -> dict[str, Tensor]:
        both = torch.from_numpy(np.stack(crops))
        return {"ir": both[:, :1], "vis": both[:, 1:]}

    def loss(self, network: MEPMA, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
        return fusion_loss(network, batch["ir"], batch["vis"], self.config)

    @torch.inference_mode()
    def validate(self, network: MEPMA, folder: Path, step: int) -> dict[str, float]:
        """`score`: mean loss over one fixed crop of every held-back pair; its terms beside it."""
        rows = []
        for number, pair in enumerate(self.held):
            rng = np.random.default_rng([VALIDATION_SEED, number])
            batch = self._stack([_crop(pair, self.config.shape, rng)])
            planes = {name: plane.to(device_of(network)) for name, plane in batch.items()}
            total, terms = fusion_loss(network, planes["ir"], planes["vis"], self.config)
            rows.append({"score": float(total)} | terms)
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


class RegistrationPhase:
    """The second phase, for the loop. Freezes all of the network but the alignment."""

    def __init__(
        self,
        config: MepmaTraining,
        network: MEPMA,
        pairs: Sequence[Pair],
        held: Sequence[Pair],
    ) -> None:
        self.config, self.seed, self.pairs = config, config.registration.seed, pairs
        self.cases = make_cases(held)
        network.requires_grad_(False)
        network.alignment.requires_grad_(True)

    def make_batch(self, step: int) -> dict[str, Tensor]:
        """`ir`, `moved` (the infrared deformed like the paper's set, black where nothing was seen) and `vis`
        (B, 1, H, W) in [0, 1]; `truth` (B, 2, H, W), the pull field (dx, dy) that registers, pixels."""
        rng = np.random.default_rng([self.seed, step])
        rows = [self._deformed(rng) for _ in range(self.config.batch)]
        return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}

    def _deformed(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        shape = self.config.shape
        ir, vis = _crop(self.pairs[int(rng.integers(len(self.pairs)))], shape, rng)
        field = mepma_field(shape, rng)
        moved = np.asarray(sample(ir, pixel_grid(shape) + field, border=0), np.float32)
        truth = np.ascontiguousarray(invert(field).transpose(2, 0, 1))
        return {"ir": ir[None], "vis": vis[None], "moved": moved[None], "truth": truth}

    def loss(self, network: MEPMA, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
        network.eval()  # the batch statistics stay those of the fusion phase
        return registration_loss(network, batch, self.config)

    def validate(self, network: MEPMA, folder: Path, step: int) -> dict[str, float]:
        """As `RegistrationTask.validate`, on the same kind of pairs: the figures compare."""
        fields = [network_field(network, case.ir, case.vis) for case in self.cases]
        return field_figures(self.cases, fields, folder, step)


def device_of(network: MEPMA) -> torch.device:
    return next(network.parameters()).device


@torch.inference_mode()
def network_field(network: MEPMA, ir: Image8, vis: Image8) -> Flow:
    """The field (H, W, 2) that the network finds, on its device."""
    device = device_of(network)
    planes = (torch.tensor(p, dtype=torch.float32, device=device)[None, None] / 255 for p in (ir, vis))
    flow = total_flow(network.align(*network.encode(*planes)))
    return np.ascontiguousarray(flow[0].permute(1, 2, 0).float().cpu().numpy())


def phases(
    config: MepmaTraining, root: Path, folder: Path, *, weights: Path | str | None = None
) -> Iterator[Loop]:
    """The loops of a run, to be run in turn: `folder`/fusion; from its best weights `folder`/registration.

    weights: where the first phase starts.

    Raises:
        DataError: no pairs; or neither a fusion phase nor weights to begin the registration phase with.
        WeightsError.
    """
    if config.fusion is None and weights is None:
        raise DataError("train mepma: without a `fusion` phase its weights must be given (--weights)")
    train, held = config.pairs(root)
    first = config.fusion or config.registration
    torch.manual_seed(first.seed)
    network = MEPMA() if weights is None else load_model(MEPMA.NAME, weights=weights)
    assert isinstance(network, MEPMA)
    if config.fusion is not None:
        yield Loop(network, FusionPhase(config, config.fusion, train, held), config.fusion, folder / "fusion")
        network.load_state_dict(load_file(folder / "fusion" / "best.safetensors"))
    task = RegistrationPhase(config, network, train, held)
    yield Loop(network, task, config.registration, folder / "registration")


def export_mepma(config: MepmaTraining, root: Path, folder: Path, to: Path, *, command: str) -> WeightsFile:
    """The best weights of a run as a weight file with its provenance. Raises DataError."""
    network = MEPMA()
    load_best(network, folder / "registration")
    history = curve(folder / "registration" / "log.csv", "mean")
    return write_weights(
        network,
        to,
        summary="the ME-PMA network",
        config=config,
        configuration=config.model_dump(mode="json"),
        held=config.pairs(root)[1],
        command=command,
        seed=config.registration.seed,
        steps=max(history, default=0),
        validation={"what": VALIDATION, "curve": {str(step): value for step, value in history.items()}},
    )


RECIPE = Recipe(MepmaTraining, phases, export_mepma)
