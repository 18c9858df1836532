"""Training of the `live` fusion network: better than the pixel-wise maximum on every side, and as steady.

What each cell of a picture gains by either source is computed beforehand from the metrics that no trivial
method wins together (`fusion_gains`); a gain above a price is worth taking. Where people are is known
(`fusion_people`). The network learns, by classification weighted with what a mistake costs, to see that from
brightness and gradients alone, and to decide the same on two noisy frames of a scene.

Losses through differentiable metrics were tried first: histograms of 48 bins do not see that a pixel changed
by a little is no copy any more, and gradients at the maximum say nothing about leaving it altogether.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field as Bound
from torch import Tensor
from torch.nn import functional as F

from streamfuse.frame import Image8
from streamfuse.metrics.panel import METRICS, FusionFamily, fusion_panel
from streamfuse.metrics.salience import texture_kept, warm_contrast
from streamfuse.nn.live_fusion import LiveFusion
from streamfuse.nn.models import load_model
from streamfuse.nn.weights import WeightsFile
from streamfuse.registry import Options
from streamfuse.training.data import Pair, load_pairs, split
from streamfuse.training.export import load_best, write_weights
from streamfuse.training.fusion_crops import make_sample
from streamfuse.training.fusion_gains import NAMES, blur
from streamfuse.training.fusion_people import Box, Street, cut_people, load_streets, mark
from streamfuse.training.loop import Loop, LoopConfig, Recipe
from streamfuse.training.provenance import curve

JUDGED = ("MI_min", "VIFF", "Qabf_std", "SSIM_min")
"""To be at least those of the pixel-wise maximum; the rest of the panel at least REST of it."""
REST = 0.95
SHOWN = {"people": 0.8, "texture": 0.9}
"""Of people's contrast in the infrared, in rendered streets, and of the texture of the visible."""
WORTH = {"ssim_min": 2.0, "edges": 1.0, "cv": 0.2, "ce": 0.02, "texture": 2.25}
"""What one percent of gain in each is worth: chosen so that decisions made by the gains themselves keep the
four judged metrics at the maximum's and the rest of the panel above REST, with as much texture as that
allows."""
PRICE = 9.0
"""Of a changed cell, in the same money: what no first order sees, above all that a histogram of exact copies
is diluted."""
COHERENCE = 1.0
"""Cells: gains are averaged over neighbours, as decisions are made for places, not for pixels."""
DEAR = 20.0
"""Largest weight of a cell: a few of them must not decide alone."""
SMOKE = 0.5
"""Weight of a cell in dense smoke, where the infrared is to show whatever the metrics say."""
STEADY = 1.0
"""Weight of the change of a decision between two frames of the same scene."""
VARIANTS = 2
"""Crops of each pair, made once: the gains of one take a second."""
UNJUDGED = 6
"""Crops of each pair, real and rendered, from which only people are learnt."""
PERSON = 4.0
"""Weight of a cell with people over one without: they are rare."""
PEOPLE = 0.15
"""Weight of finding people beside choosing between the sources."""
NOISE = 0.004, 0.08
"""Of a frame: standard deviation of the noise of 4 x 4 means, of full scale, and of gradients, relative."""
AGC = 0.04
"""Largest change of the infrared gain from frame to frame: a strong step of an automatic gain."""


class FusionTask:
    """What the loop needs to know.

    Args:
        streets, held: aligned pairs to train on, and to validate on.
        rendered, held_rendered: the same of rendered pairs: of them, only people are learnt and judged.
        shape: rows and columns of a crop, multiples of 8. batch: crops in a step.
    """

    def __init__(
        self,
        streets: Sequence[Street],
        *,
        shape: tuple[int, int],
        batch: int,
        seed: int,
        rendered: Sequence[Street] = (),
        held: Sequence[Pair] = (),
        held_rendered: Sequence[Street] = (),
    ) -> None:
        self.batch, self.seed, self.held, self.held_rendered = batch, seed, held, held_rendered
        rng = np.random.default_rng(seed)
        cut = cut_people([*streets, *rendered])
        self.judged = [
            make_sample(street, shape, rng, cut=cut if variant else ())
            for variant in range(VARIANTS)
            for street in streets
        ]
        self.unjudged = [
            make_sample(street, shape, rng, cut=cut, judged=False)
            for _ in range(UNJUDGED)
            for street in (*streets, *rendered)
        ]

    def make_batch(self, step: int) -> dict[str, Tensor]:
        """Two frames of the same crops, `means` and `gradients` (2 B, 3, h, w) with different noise and
        infrared gain, `people` and `smoke` (B, 1, h / 2, w / 2), and `gains` (B / 2, 2, 5, h / 2, w / 2) of
        the first half of them. Depends on (seed, step) alone."""
        rng = np.random.default_rng([self.seed, step])
        half = (self.batch + 1) // 2
        chosen = [
            kind[int(rng.integers(len(kind)))]
            for kind, number in ((self.judged, half), (self.unjudged, self.batch - half))
            for _ in range(number)
        ]
        means, gradients = (
            torch.cat([getattr(s, name) for s in chosen] * 2) for name in ("means", "gradients")
        )
        people, smoke = (torch.cat([getattr(s, name) for s in chosen]) for name in ("people", "smoke"))
        gains = torch.cat([s.gains for s in chosen if s.gains is not None])
        if rng.random() < 0.5:
            means, gradients, people, smoke, gains = (
                x.flip(-1) for x in (means, gradients, people, smoke, gains)
            )
        noise = [torch.from_numpy(rng.standard_normal(means.shape, dtype=np.float32)) for _ in range(2)]
        gain = 1 + AGC * torch.from_numpy(rng.uniform(-1, 1, (2 * self.batch, 1, 1, 1)).astype(np.float32))
        means = (means + NOISE[0] * noise[0]) * torch.cat(
            [gain, torch.ones_like(gain), torch.ones_like(gain)], 1
        )
        return {
            "means": means,
            "gradients": gradients * (1 + NOISE[1] * noise[1]).clamp_min(0),
            "people": people,
            "smoke": smoke,
            "gains": gains,
        }

    def loss(
        self, network: LiveFusion, batch: dict[str, Tensor], step: int
    ) -> tuple[Tensor, dict[str, float]]:
        decided = network.decide(batch["means"], batch["gradients"]).float()
        first, second = torch.sigmoid(decided).chunk(2)
        unsteady = (first - second).abs().mean()
        wanted, weight = wanted_decisions(batch["gains"])
        judged = len(wanted)
        smoke = batch["smoke"][:judged]
        seen_through = torch.cat([torch.zeros_like(smoke), smoke], 1)
        wanted, weight = torch.lerp(wanted, seen_through, smoke), weight + smoke * (SMOKE - weight)
        frames = [part[:judged, :2] for part in decided.chunk(2)]
        choice = torch.stack([_wrong(part, wanted, weight) for part in frames]).mean()
        people = batch["people"]
        rare = 1 + (PERSON - 1) * people
        finding = torch.stack([_wrong(part[:, 2:], people, rare) for part in decided.chunk(2)]).mean()
        taken, found = first[:judged, :2] > 0.5, first[:, 2:] > 0.5
        figures = {
            "choice": choice.item(),
            "people": finding.item(),
            "unsteady": unsteady.item(),
            "right": float(((taken == (wanted > 0.5)) * weight).sum() / weight.sum()),
            "taken": taken.float().mean().item(),
            "worth_taking": wanted.mean().item(),
            "found": float((found * people).sum() / people.sum().clamp_min(1)),
            "invented": float((found * (1 - people)).mean()),
        }
        return choice + PEOPLE * finding + STEADY * unsteady, figures

    @torch.inference_mode()
    def validate(self, network: LiveFusion, folder: Path, step: int) -> dict[str, float]:
        """Every metric of the panel as a ratio to the maximum's (above 1 is better); `score`: what is missing
        to the bar, less half of the mean gain on the four judged ones."""
        ratios = validate_against_maximum(network, self.held)
        missing = sum(max(0.0, required(name) - ratio) for name, ratio in ratios.items())
        gain = float(np.mean([ratios[name] for name in JUDGED])) - 1
        shown = {"texture": kept_texture(network, self.held)}
        if self.held_rendered:
            shown["people"] = shown_people(network, self.held_rendered)
        missing += sum(max(0.0, SHOWN[name] - share) for name, share in shown.items())
        return {"score": missing - gain / 2, **shown, **ratios}


def _wrong(decided: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    return (weight * F.binary_cross_entropy_with_logits(decided, wanted, reduction="none")).mean()


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


def kept_texture(network: LiveFusion, pairs: Sequence[Pair]) -> float:
    """Mean of `texture_kept` over pairs."""
    shares = [texture_kept(pair.ir, pair.vis, fuse_image(network, pair.ir, pair.vis)) for pair in pairs]
    return float(np.mean(shares))


def shown_people(network: LiveFusion, streets: Sequence[Street]) -> float:
    """Mean of `warm_contrast` of the people in `streets`."""
    return float(
        np.mean(
            [
                warm_contrast(
                    street.pair.ir,
                    street.pair.vis,
                    fuse_image(network, street.pair.ir, street.pair.vis),
                    marked=street.people,
                )
                for street in streets
            ]
        )
    )


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
    """What `streamfuse train fusion` reads: as `RegistrationTraining`, without what concerns fields.

    people: boxes around people in pairs of `folders`, by file stem: [left, top, right, bottom].
    rendered: a folder that `streamfuse train render` has made; the last `held_back` of it validate.
    """

    folders: Annotated[list[str], Bound(min_length=1)]
    drop: tuple[str, ...] = ()
    people: dict[str, list[Box]] = Bound(default_factory=dict)
    rendered: str | None = None
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
    rendered = load_streets(root / config.rendered) if config.rendered else []
    torch.manual_seed(config.loop.seed)
    network = LiveFusion() if weights is None else load_model(LiveFusion.NAME, weights=weights)
    kept = max(0, len(rendered) - config.held_back)
    task = FusionTask(
        [mark(pair, config.people.get(pair.name, ())) for pair in train],
        shape=config.shape,
        batch=config.batch,
        seed=config.loop.seed,
        rendered=rendered[:kept],
        held=held,
        held_rendered=[street for street in rendered[kept:] if street.people.any()],
    )
    yield Loop(network, task, config.loop, folder)


def export_fusion(config: FusionTraining, root: Path, folder: Path, to: Path, *, command: str) -> WeightsFile:
    """The best weights of a run as a weight file with its provenance."""
    network = LiveFusion()
    load_best(network, folder)
    history = {name: curve(folder / "log.csv", name) for name in ("score", *JUDGED)}
    return write_weights(
        network,
        to,
        summary="the live fusion network",
        config=config,
        configuration=config.model_dump(mode="json", exclude={"people"}),
        held=config.pairs(root)[1],
        command=command,
        seed=config.loop.seed,
        steps=max(history["score"], default=0),
        validation={
            "what": "held-back pairs, by step: ratios to the pixel-wise maximum, above 1 is better; "
            "score: what is missing to the bars less half of the gain, lower is better",
            "curve": {
                name: {str(step): value for step, value in values.items()} for name, values in history.items()
            },
        },
        people_marked=sum(len(boxes) for boxes in config.people.values()),
    )


RECIPE = Recipe(FusionTraining, fusion_loops, export_fusion)
