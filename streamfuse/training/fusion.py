"""Training of the `live` fusion network: better than the pixel-wise maximum on every side, and as steady.

The loss asks for the four qualities that trivial methods cannot have together (information from the source
kept less, VIFF, edges, similarity to the worse source), holds the others to what the maximum reaches, and
compares two noisy versions of a picture, so that what the maximum does not amplify is not amplified here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field as Bound
from torch import Tensor

from streamfuse.frame import Image8
from streamfuse.metrics.panel import METRICS, FusionFamily, fusion_panel
from streamfuse.nn.live_fusion import LiveFusion
from streamfuse.registry import Options
from streamfuse.training import fusion_losses as losses
from streamfuse.training.data import Pair, load_pairs, split
from streamfuse.training.loop import Loop, LoopConfig

JUDGED = ("MI_min", "VIFF", "Qabf_std", "SSIM_min")
"""To be at least those of the pixel-wise maximum; the rest of the panel at least REST of it."""
REST = 0.95
NOISE = 0.02
"""Standard deviation of the noise that steadiness is trained with, of full scale."""
TARGETS = {
    "mi_min": 1.01,
    "mi_sum": 0.97,
    "viff": 1.03,
    "edges": 1.01,
    "ssim_min": 1.01,
    "histogram": 0.98,
    "deviation": 0.99,
    "steady": 1.0,
}
"""What each quality shall reach, as the ratio to the pixel-wise maximum's; the bars with a margin."""
GAIN = {"mi_min": 0.5, "edges": 2.0, "ssim_min": 1.0}
"""Weights of what lies beyond a target."""
SHORTFALL = 10.0
CHANGE = 25.0
"""Weight of the mean difference to the maximum: a change must be worth something."""
GRADIENT = 4.0
"""Weight of the difference to the stronger gradient of the two sources, which keeps texture and warm
outlines."""


def _augment(image: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    if rng.random() < 0.5:
        image = image ** np.float32(np.exp(rng.uniform(-0.5, 0.5)))
    if rng.random() < 0.5:
        image = image * np.float32(rng.uniform(0.6, 1.0)) + np.float32(rng.uniform(0, 0.1))
    return np.clip(image, 0, 1)


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
    # 8-bit values, as the network will meet them: only then is a copied pixel a copied pixel
    both = np.round(np.stack(planes) * 255) / np.float32(255)
    return np.ascontiguousarray(both[:, :, ::-1] if rng.random() < 0.5 else both)


class FusionTask:
    """What the loop needs to know.

    Args:
        pairs, held: aligned pairs to train on, and to validate on.
        shape: rows and columns of a crop. batch: crops in a step.
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
        self.pairs, self.shape, self.batch, self.seed, self.held = pairs, shape, batch, seed, held

    def make_batch(self, step: int) -> dict[str, Tensor]:
        """Crops `ir`, `vis` (B, 1, H, W) and unit noise for both; depends on (seed, step) alone."""
        rng = np.random.default_rng([self.seed, step])
        crops = [
            make_crop(self.pairs[int(rng.integers(len(self.pairs)))], self.shape, rng)
            for _ in range(self.batch)
        ]
        both = torch.from_numpy(np.stack(crops))
        noise = torch.from_numpy(rng.standard_normal(both.shape, dtype=np.float32))
        return {"ir": both[:, :1], "vis": both[:, 1:], "noise": noise}

    def loss(
        self, network: LiveFusion, batch: dict[str, Tensor], step: int
    ) -> tuple[Tensor, dict[str, float]]:
        ir, vis = batch["ir"], batch["vis"]
        noisy = ir + NOISE * batch["noise"][:, :1], vis + NOISE * batch["noise"][:, 1:]
        fused, maximum = network(ir, vis), torch.maximum(ir, vis)
        ours = qualities(ir, vis, fused)
        with torch.no_grad():
            trivial = qualities(ir, vis, maximum)
        ratios = {name: ours[name] / trivial[name] for name in ours}
        ratios["histogram"] = 1 / ratios["histogram"].clamp_min(0.1)
        jitter = (network(*noisy) - fused).abs().mean((1, 2, 3))
        ratios["steady"] = (torch.maximum(*noisy) - maximum).abs().mean((1, 2, 3)) / jitter.clamp_min(1e-4)
        strongest = torch.maximum(losses.sobel(ir).magnitude, losses.sobel(vis).magnitude)
        gradient = (losses.sobel(fused).magnitude - strongest).abs().mean()
        total = GRADIENT * gradient + CHANGE * (fused - maximum).abs().mean()
        for name, ratio in ratios.items():
            total = total + SHORTFALL * torch.relu(TARGETS[name] - ratio).mean()
            total = total - GAIN.get(name, 0.0) * ratio.clamp(max=2).mean()
        return total, {"gradient": gradient.item(), **{name: r.mean().item() for name, r in ratios.items()}}

    @torch.inference_mode()
    def validate(self, network: LiveFusion, folder: Path, step: int) -> dict[str, float]:
        """Every metric of the panel as a ratio to the maximum's (above 1 is better); `score`: what is missing
        to the bar, less half of the mean gain on the four judged ones."""
        ratios = validate_against_maximum(network, self.held)
        missing = sum(max(0.0, (1.0 if name in JUDGED else REST) - ratio) for name, ratio in ratios.items())
        gain = float(np.mean([ratios[name] for name in JUDGED])) - 1
        return {"score": missing - gain / 2, **ratios}


def qualities(ir: Tensor, vis: Tensor, fused: Tensor) -> dict[str, Tensor]:
    """What a fused picture is judged by, (B,) each; all but `histogram` are better when larger."""
    mi = [losses.mutual_information(source, fused) for source in (ir, vis)]
    return {
        "mi_min": torch.minimum(*mi),
        "mi_sum": mi[0] + mi[1],
        "viff": losses.viff(ir, vis, fused),
        "edges": losses.edge_preservation(losses.sobel(ir), losses.sobel(vis), losses.sobel(fused)),
        "ssim_min": torch.minimum(losses.ssim(ir, fused), losses.ssim(vis, fused)),
        "histogram": losses.cross_entropy(ir, vis, fused),
        "deviation": fused.std((1, 2, 3)),
    }


def fuse_image(network: LiveFusion, ir: Image8, vis: Image8) -> Image8:
    """Fuse two uint8 (H, W) pictures on the network's device."""
    device = network.enter.weight.device
    planes = [torch.from_numpy(image).to(device)[None, None].float() / 255 for image in (ir, vis)]
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
    ratios = {}
    for name in (n for n in METRICS["fusion"] if all(n in row for row in ours)):
        mine, maximum = (float(np.mean([row[name] for row in rows])) for rows in (ours, trivial))
        better = METRICS["fusion"][name].better
        ratios[name] = mine / maximum if better == "higher" else maximum / mine
    return ratios


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


def build_fusion(config: FusionTraining, root: Path, folder: Path) -> Loop:
    """The loop of a run, going on from the state in `folder`. Raises DataError."""
    found = [pair for name in config.folders for pair in load_pairs(root / name, drop=config.drop)]
    train, held = split(found, held_back=config.held_back, seed=config.split_seed)
    torch.manual_seed(config.loop.seed)
    task = FusionTask(train, shape=config.shape, batch=config.batch, seed=config.loop.seed, held=held)
    return Loop(LiveFusion(), task, config.loop, folder)
