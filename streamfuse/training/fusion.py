"""Training of the `live` fusion network: better than the pixel-wise maximum on every side, and as steady.

What each cell of a picture gains by either source is computed beforehand from the metrics that no trivial
method wins together (`fusion_gains`); a gain above a price is worth taking. The network learns, by
classification weighted with what a mistake costs, to see that from brightness and gradients alone, and to
decide the same on two noisy frames of a scene.

Losses through differentiable metrics were tried first: histograms of 48 bins do not see that a pixel changed
by a little is no copy any more, and gradients at the maximum say nothing about leaving it altogether.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field as Bound
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from streamfuse.errors import DataError
from streamfuse.frame import Image8
from streamfuse.metrics.panel import METRICS, FusionFamily, fusion_panel
from streamfuse.nn.live_fusion import LiveFusion
from streamfuse.nn.models import load_model, own_state
from streamfuse.nn.weights import WeightsFile, save_weights
from streamfuse.registry import Options
from streamfuse.training.data import Pair, load_pairs, split
from streamfuse.training.fusion_gains import NAMES, blur, cell_gains
from streamfuse.training.loop import Loop, LoopConfig, Recipe
from streamfuse.training.provenance import commit, curve

JUDGED = ("MI_min", "VIFF", "Qabf_std", "SSIM_min")
"""To be at least those of the pixel-wise maximum; the rest of the panel at least REST of it."""
REST = 0.95
WORTH = {"ssim_min": 5.0, "edges": 4.0, "cv": 0.4, "ce": 0.1, "texture": 2.0}
"""What one percent of gain in each is worth; tuned on training pairs, so that the four judged metrics keep a
margin and the rest of the panel stays above REST."""
PRICE = 9.0
"""Of a changed cell, in the same money: what no first order sees, above all that a histogram of exact copies
is diluted."""
COHERENCE = 1.0
"""Cells: gains are averaged over neighbours, as decisions are made for places, not for pixels."""
DEAR = 20.0
"""Largest weight of a cell: a few of them must not decide alone."""
STEADY = 2.0
"""Weight of the change of a decision between two frames of the same scene."""
HAZE = 0.25
"""Share of the crops whose visible picture is filled with smoke: the data sets have none."""
VARIANTS = 2
"""Crops of each pair, made once: the gains of one take a second."""
NOISE = 0.004, 0.08
"""Of a frame: standard deviation of the noise of 4 x 4 means, of full scale, and of gradients, relative."""
AGC = 0.04
"""Largest change of the infrared gain from frame to frame: a strong step of an automatic gain."""


def _augment(image: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    if rng.random() < 0.5:
        image = image ** np.float32(np.exp(rng.uniform(-0.5, 0.5)))
    if rng.random() < 0.5:
        image = image * np.float32(rng.uniform(0.6, 1.0)) + np.float32(rng.uniform(0, 0.1))
    return np.clip(image, 0, 1)


def add_smoke(vis: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """The visible picture (H, W) in [0, 1] through smoke of uneven thickness, lit evenly."""
    rows, columns = vis.shape
    thickness = np.zeros_like(vis)
    for cells in (2, 4, 8):
        clouds = rng.random((cells, cells), dtype=np.float32) / np.float32(np.sqrt(cells))
        thickness += cv2.resize(clouds, (columns, rows), interpolation=cv2.INTER_CUBIC)
    thickness = (thickness - thickness.min()) / max(float(np.ptp(thickness)), 1e-6)
    low, high = rng.uniform(-1.5, 1.0), rng.uniform(1.5, 5.0)
    passed = np.exp(-np.maximum(low + (high - low) * thickness, 0))
    light = rng.uniform(0.35, 0.8) + rng.uniform(-0.08, 0.08) * thickness
    return np.asarray(vis * passed + light * (1 - passed), np.float32)


def make_crop(pair: Pair, shape: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """One crop, zoomed, perhaps mirrored, with changed tones: float32 (2, H, W) in [0, 1], ir then vis."""
    rows, columns = shape
    height, width = pair.ir.shape
    zoom = max(rng.uniform(0.7, 1.6), rows / height, columns / width)
    h, w = min(height, round(rows / zoom)), min(width, round(columns / zoom))
    y, x = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    planes = []
    for image in (pair.ir, pair.vis):
        crop = cv2.resize(image[y : y + h, x : x + w], (columns, rows), interpolation=cv2.INTER_AREA)
        planes.append(_augment(np.asarray(crop, np.float32) / np.float32(255), rng))
    if rng.random() < HAZE:
        planes[1] = add_smoke(planes[1], rng)
    # 8-bit values, as the network will meet them: only then is a copied pixel a copied pixel
    both = np.round(np.stack(planes) * 255) / np.float32(255)
    return np.ascontiguousarray(both[:, :, ::-1] if rng.random() < 0.5 else both)


@dataclass(frozen=True, slots=True)
class Sample:
    """One crop as the network sees it (`LiveFusion.look`), and the gains of each cell (`cell_gains`)."""

    means: Tensor
    gradients: Tensor
    gains: Tensor


def make_sample(pair: Pair, shape: tuple[int, int], rng: np.random.Generator) -> Sample:
    """A crop and what it is worth to leave the maximum in it."""
    both = torch.from_numpy(make_crop(pair, shape, rng))[:, None, None]
    means, gradients = LiveFusion.look(both[0], both[1])
    return Sample(means, gradients, cell_gains(both[0], both[1])[None])


class FusionTask:
    """What the loop needs to know.

    Args:
        pairs, held: aligned pairs to train on, and to validate on.
        shape: rows and columns of a crop, multiples of 8. batch: crops in a step.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        shape: tuple[int, int],
        batch: int,
        seed: int,
        held: Sequence[Pair] = (),
    ) -> None:
        self.batch, self.seed, self.held = batch, seed, held
        rng = np.random.default_rng(seed)
        self.samples = [make_sample(pair, shape, rng) for _ in range(VARIANTS) for pair in pairs]

    def make_batch(self, step: int) -> dict[str, Tensor]:
        """Two frames of the same crops, `means` and `gradients` (2 B, 3, h, w) with different noise and
        infrared gain, and `gains` (B, 2, 5, h / 2, w / 2). Depends on (seed, step) alone."""
        rng = np.random.default_rng([self.seed, step])
        chosen = [self.samples[int(rng.integers(len(self.samples)))] for _ in range(self.batch)]
        frames = [torch.cat([getattr(s, name) for s in chosen] * 2) for name in ("means", "gradients")]
        gains = torch.cat([s.gains for s in chosen])
        if rng.random() < 0.5:
            frames, gains = [x.flip(-1) for x in frames], gains.flip(-1)
        means, gradients = frames
        noise = [torch.from_numpy(rng.standard_normal(means.shape, dtype=np.float32)) for _ in range(2)]
        gain = 1 + AGC * torch.from_numpy(rng.uniform(-1, 1, (2 * self.batch, 1, 1, 1)).astype(np.float32))
        means = (means + NOISE[0] * noise[0]) * torch.cat(
            [gain, torch.ones_like(gain), torch.ones_like(gain)], 1
        )
        return {
            "means": means,
            "gradients": gradients * (1 + NOISE[1] * noise[1]).clamp_min(0),
            "gains": gains,
        }

    def loss(
        self, network: LiveFusion, batch: dict[str, Tensor], step: int
    ) -> tuple[Tensor, dict[str, float]]:
        decided = network.decide(batch["means"], batch["gradients"])
        first, second = torch.sigmoid(decided).chunk(2)
        wanted, weight = wanted_decisions(batch["gains"])
        wrong = F.binary_cross_entropy_with_logits(decided, wanted.repeat(2, 1, 1, 1), reduction="none")
        choice = (weight.repeat(2, 1, 1, 1) * wrong).mean()
        unsteady = (first - second).abs().mean()
        hit = ((first > 0.5) == (wanted > 0.5)).float()
        figures = {
            "choice": choice.item(),
            "unsteady": unsteady.item(),
            "right": float((hit * weight).sum() / weight.sum()),
            "taken": (first > 0.5).float().mean().item(),
            "worth_taking": wanted.mean().item(),
        }
        return choice + STEADY * unsteady, figures

    @torch.inference_mode()
    def validate(self, network: LiveFusion, folder: Path, step: int) -> dict[str, float]:
        """Every metric of the panel as a ratio to the maximum's (above 1 is better); `score`: what is missing
        to the bar, less half of the mean gain on the four judged ones."""
        ratios = validate_against_maximum(network, self.held)
        missing = sum(max(0.0, required(name) - ratio) for name, ratio in ratios.items())
        gain = float(np.mean([ratios[name] for name in JUDGED])) - 1
        return {"score": missing - gain / 2, **ratios}


def required(metric: str) -> float:
    """The least ratio of a metric to that of the pixel-wise maximum."""
    return 1.0 if metric in JUDGED else REST


def ratio_to_maximum(metric: str, ours: float, maximum: float) -> float:
    """Above 1 is better than the pixel-wise maximum, whatever the sense of the metric."""
    better, worse = (ours, maximum) if METRICS["fusion"][metric].better == "higher" else (maximum, ours)
    return 1.0 if better == worse else better / max(worse, 1e-9)


def wanted_decisions(gains: Tensor) -> tuple[Tensor, Tensor]:
    """What to decide in each cell, 0 or 1, and what it costs to be wrong, 0..1, (B, 2, h, w) each: to
    take the visible, to take the infrared.

    Args:
        gains: (B, 2, 5, h, w), of `fusion_gains.ALTERNATIVES` by `NAMES`.
    """
    worth = gains.new_tensor([WORTH[name] for name in NAMES]).view(1, 1, -1, 1, 1)
    profit = blur((gains * worth).sum(2), COHERENCE) - PRICE
    margins = profit - profit.flip(1).clamp_min(0)
    return (margins > 0).float(), margins.abs().clamp_max(DEAR) / DEAR


def fuse_image(network: LiveFusion, ir: Image8, vis: Image8) -> Image8:
    """Fuse two uint8 (H, W) pictures on the network's device."""
    device = network.enter.weight.device
    planes = [
        torch.tensor(image, dtype=torch.float32, device=device)[None, None] / 255 for image in (ir, vis)
    ]
    fused = network(*planes)[0, 0]
    return np.asarray((fused * 255).round().byte().cpu().numpy(), np.uint8)


def _fusion_metrics(pair: Pair, fused: Image8) -> Mapping[str, float]:
    families: tuple[FusionFamily, ...] = ("fusion",)
    return fusion_panel(pair.ir, pair.vis, fused, families=families)["fusion"]


def validate_against_maximum(network: LiveFusion, pairs: Sequence[Pair]) -> dict[str, float]:
    """Mean of each fusion metric over pairs, as the ratio to the pixel-wise maximum's; above 1 is better."""
    ours, trivial = (
        [_fusion_metrics(pair, fuse(pair)) for pair in pairs]
        for fuse in (lambda p: fuse_image(network, p.ir, p.vis), lambda p: np.maximum(p.ir, p.vis))
    )
    return {
        name: ratio_to_maximum(
            name, *(float(np.mean([row[name] for row in rows])) for rows in (ours, trivial))
        )
        for name in METRICS["fusion"]
        if all(name in row for row in ours)
    }


class FusionTraining(Options):
    """What `streamfuse train fusion` reads: as `RegistrationTraining`, without what concerns fields."""

    folders: Annotated[list[str], Bound(min_length=1)]
    drop: tuple[str, ...] = ()
    terms: str = ""
    held_back: Annotated[int, Bound(ge=1)] = 12
    split_seed: int = 1
    shape: tuple[Annotated[int, Bound(ge=96)], Annotated[int, Bound(ge=96)]]
    batch: Annotated[int, Bound(ge=1)]
    loop: LoopConfig

    def pairs(self, root: Path) -> tuple[list[Pair], list[Pair]]:
        """(training, validation) pairs. Raises DataError."""
        found = [pair for name in self.folders for pair in load_pairs(root / name, drop=self.drop)]
        return split(found, held_back=self.held_back, seed=self.split_seed)


def fusion_loops(
    config: FusionTraining, root: Path, folder: Path, *, weights: str | Path | None = None
) -> Iterator[Loop]:
    """The one loop of a run, going on from the state in `folder`.

    Args:
        weights: where a new run starts; None: at random.

    Raises:
        DataError, WeightsError.
    """
    train, held = config.pairs(root)
    torch.manual_seed(config.loop.seed)
    network = LiveFusion() if weights is None else load_model(LiveFusion.NAME, weights=weights)
    task = FusionTask(
        train,
        shape=config.shape,
        batch=config.batch,
        seed=config.loop.seed,
        held=held,
    )
    yield Loop(network, task, config.loop, folder)


def export_fusion(config: FusionTraining, root: Path, folder: Path, to: Path, *, command: str) -> WeightsFile:
    """The best weights of a run as a weight file with its provenance."""
    best = folder / "best.safetensors"
    if not best.is_file():
        raise DataError(f"{folder}: no best.safetensors, the run has not been validated yet")
    _, held = config.pairs(root)
    network = LiveFusion()
    network.load_state_dict(load_file(best))
    history = {name: curve(folder / "log.csv", name) for name in ("score", *JUDGED)}
    return save_weights(
        own_state(network),
        to,
        model=LiveFusion.NAME,
        dtype=torch.float16,
        provenance={
            "what": "weights of the live fusion network, trained by streamfuse",
            "data": config.folders,
            "terms": config.terms,
            "dropped_from_training": sorted(config.drop),
            "held_back": sorted(pair.name for pair in held),
            "command": command,
            "configuration": config.model_dump(mode="json"),
            "seed": config.loop.seed,
            "steps": max(history["score"], default=0),
            "commit": commit(),
            "validation": {
                "what": "held-back pairs, by step: ratios to the pixel-wise maximum, above 1 is better; "
                "score: what is missing to the bars less half of the gain, lower is better",
                "curve": {
                    name: {str(step): value for step, value in values.items()}
                    for name, values in history.items()
                },
            },
        },
    )


RECIPE = Recipe(FusionTraining, fusion_loops, export_fusion)
