"""Training of the `live` registration network: configuration, losses, validation, export."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field as Bound
from torch import Tensor

from streamfuse.frame import Flow
from streamfuse.nn.live_registration import SOFTNESS, LiveConfig, LiveRegistration, Matches, Stage
from streamfuse.nn.models import load_model
from streamfuse.nn.weights import WeightsFile
from streamfuse.pictures import write_picture
from streamfuse.registration.fit import SplineFit
from streamfuse.registration.live import LiveOptions, LiveRegistrar
from streamfuse.registration.live_geometry import stage_fit
from streamfuse.registry import Options
from streamfuse.training.confidence import calibrate_confidence
from streamfuse.training.data import Pair, load_pairs, split
from streamfuse.training.export import load_best, write_weights
from streamfuse.training.loop import Loop, LoopConfig, Recipe
from streamfuse.training.provenance import curve
from streamfuse.training.registration_cases import Case, distance, estimate, make_cases
from streamfuse.training.registration_samples import Cells, make_batch
from streamfuse.training.residuals import apply_residuals
from streamfuse.training.show import before_after

logger = logging.getLogger(__name__)

NOISE_FLOOR = 0.1
"""Pixels below which an error stops counting linearly: its gradient must not depend on the last hundredth."""
TRIMMED = 0.1
"""Share of the validation pairs, the worst, that do not decide which weights are kept: a few pairs are off by
up to 8 px themselves, and one of them moves the mean by more than a thousand steps do."""
VAGUE = 0.02
"""Per cell squared: how little a match that knows nothing is taken to know, for the loss to stay finite."""
VALIDATION = "mean end-point error, px, of held-back pairs deformed like ME-PMA's set, by step"
SHOWN = 4
"""Validation pairs that are drawn."""


class RegistrationTraining(Options):
    """What `streamfuse train registration` reads.

    folders: data sets, each with ir/ and vis/, relative to the data root; some of their pairs are held back.
    also: more of them, relative to the working folder, of which none is held back.
    drop: stems that are not trained on. shape: (H, W) of a crop.
    residuals: what the pairs are off themselves, as `training/residuals.py` finds.
    fit_from: step from which the error of the fit counts beside that of the matches, and, with
    precision_weight, the likelihood of the fine matches under their own precision.
    """

    folders: Annotated[list[str], Bound(min_length=1)]
    also: tuple[Path, ...] = ()
    drop: tuple[str, ...] = ()
    terms: str = ""
    held_back: Annotated[int, Bound(ge=1)] = 24
    split_seed: int = 1
    shape: tuple[Annotated[int, Bound(ge=64, multiple_of=16)], Annotated[int, Bound(ge=64, multiple_of=16)]]
    batch: Annotated[int, Bound(ge=1)]
    residuals: Path | None = None
    fit_from: Annotated[int, Bound(ge=0)] = 0
    fit_weight: Annotated[float, Bound(ge=0)] = 1.0
    precision_weight: Annotated[float, Bound(ge=0)] = 0.3
    loop: LoopConfig

    def held(self, root: Path) -> list[Pair]:
        """The validation pairs. Raises DataError."""
        return self.split_pairs(root)[1]

    def pairs(self, root: Path) -> tuple[list[Pair], list[Pair]]:
        """(training, validation) pairs. Raises DataError."""
        train, held = self.split_pairs(root)
        if self.residuals is not None:
            train = apply_residuals(train, self.residuals)
        return train + [pair for folder in self.also for pair in load_pairs(folder)], held

    def split_pairs(self, root: Path) -> tuple[list[Pair], list[Pair]]:
        """(training, validation) pairs of `folders`, as they are. Raises DataError."""
        found = [pair for folder in self.folders for pair in load_pairs(root / folder, drop=self.drop)]
        return split(found, held_back=self.held_back, seed=self.split_seed)


def match_loss(matches: Matches, truth: Tensor, stage: Stage) -> Tensor:
    """Cross-entropy of the evidence with a Gaussian about the true displacement, where that is in reach.

    truth: (B, 2, h, w), working pixels, at the cells of the matches.
    """
    radius, cell, step = stage.config.radius, stage.config.cell, stage.config.step
    wanted = (truth / cell).permute(0, 2, 3, 1)
    apart = ((wanted[..., None, :] - stage.moments[:, :2]) ** 2).sum(-1)
    target = torch.softmax(-apart / (2 * SOFTNESS**2), dim=-1)
    entropy = -(target * torch.log_softmax(matches.logits, dim=-1)).sum(-1)
    rows, columns = truth.shape[2:]
    y = torch.arange(rows, device=truth.device).view(1, -1, 1) + wanted[..., 1] / step
    x = torch.arange(columns, device=truth.device).view(1, 1, -1) + wanted[..., 0] / step
    reachable = (wanted.abs().amax(-1) <= radius) & (x >= 0) & (y >= 0) & (x <= columns - 1) & (y <= rows - 1)
    share = reachable.float()
    return (entropy * share).sum() / share.sum().clamp_min(1)


def precision_loss(matches: Matches, truth: Tensor, stage: Stage) -> Tensor:
    """How unlikely the errors are under the matches' own precision: be right, and as sure as you are right.

    Negative logarithm of a two-dimensional density with the tails of Laplace's.
    truth: (B, 2, h, w), working pixels. A long error costs linearly: labels of real pairs have tails.
    """
    cell = stage.config.cell
    ex, ey = ((matches.mean - truth) / cell).unbind(1)
    xx, xy, yy = (matches.precision * cell**2).unbind(1)
    xx, yy = xx + VAGUE, yy + VAGUE
    length = torch.sqrt(xx * ex * ex + 2 * xy * ex * ey + yy * ey * ey + 0.01)
    reach = (truth.abs().amax(1) <= stage.config.radius * cell).float()
    loss = (length - 0.5 * torch.log((xx * yy - xy * xy).clamp_min(VAGUE**2))) * reach
    return loss.sum() / reach.sum().clamp_min(1)


class RegistrationTask:
    """Batches, loss and validation, for the loop."""

    def __init__(self, config: RegistrationTraining, pairs: Sequence[Pair], held: Sequence[Pair]) -> None:
        self.config = config
        self.pairs = pairs
        self.cases = make_cases(held)
        self.cells = Cells.of(config.shape, LiveConfig())
        self.fits: dict[str, SplineFit] = {}

    def make_batch(self, step: int) -> dict[str, Tensor]:
        config = self.config
        return make_batch(
            self.pairs, config.shape, self.cells, config.batch, seed=config.loop.seed, step=step
        )

    def loss(
        self, network: LiveRegistration, batch: dict[str, Tensor], step: int
    ) -> tuple[Tensor, dict[str, float]]:
        """Match loss and fit error of every stage that the batch has a lesson for."""
        total = batch["vis"].new_zeros(())
        figures: dict[str, float] = {}
        for name, stage, distance_name, penalty in (
            ("coarse", network.coarse, "far", network.coarse_penalty),
            ("fine", network.fine, "near", network.fine_penalty),
        ):
            if f"ir_{distance_name}" not in batch:
                continue
            matches = stage(batch[f"ir_{distance_name}"], batch["vis"], batch[f"valid_{distance_name}"])
            truth = batch[f"truth_{distance_name}"]
            entropy = match_loss(matches, truth, stage)
            total = total + entropy
            figures[f"{name}_entropy"] = entropy.item()
            if step < self.config.fit_from:
                continue
            error = self._fit_error(name, stage, matches, truth, penalty)
            # In units of the fine stage's cell, so that the coarse stage does not shout it down.
            total = total + self.config.fit_weight * error / stage.config.shrink
            figures[f"{name}_error"] = error.item()
            if stage.consensus is not None:
                surprise = precision_loss(matches, truth, stage)
                total = total + self.config.precision_weight * surprise
                figures[f"{name}_surprise"] = surprise.item()
        return total, figures

    def _fit_error(self, name: str, stage: Stage, matches: Matches, truth: Tensor, penalty: Tensor) -> Tensor:
        if name not in self.fits:
            self.fits[name] = stage_fit(self.config.shape, stage.config, device=truth.device)
        fitter = self.fits[name]
        with torch.autocast(truth.device.type, enabled=False):
            fit = fitter(matches.mean.float(), matches.precision.float(), log_penalty=penalty)
            rest = fitter.field(fit.coefficients) - truth
            return torch.sqrt(rest.square().sum(1) + NOISE_FLOOR**2).mean()

    def validate(self, network: LiveRegistration, folder: Path, step: int) -> dict[str, float]:
        """End-point error of one cold pass on the held-back pairs: see `field_figures`."""
        registrar = LiveRegistrar(LiveOptions(), network=network)
        fields = [estimate(registrar, case.ir, case.vis) for case in self.cases]
        return field_figures(self.cases, fields, folder, step)


def field_figures(cases: Sequence[Case], fields: Sequence[Flow], folder: Path, step: int) -> dict[str, float]:
    """End-point error of fields (H, W, 2) found in validation cases; some are drawn into `folder`/pictures.

    score: trimmed mean over the pairs; mean, worst: of all; p95: mean of the pairs' 95th percentiles.
    """
    errors = [distance(field, case.truth) for field, case in zip(fields, cases, strict=True)]
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    rows = [before_after(c.ir, c.vis, f) for c, f in zip(cases[:SHOWN], fields, strict=False)]
    write_picture(pictures / f"{step:06d}.png", np.concatenate(rows))
    means = np.sort([error.mean() for error in errors])
    return {
        "score": float(means[: len(means) - round(TRIMMED * len(means))].mean()),
        "mean": float(means.mean()),
        "worst": float(means.max()),
        "p95": float(np.mean([np.percentile(error, 95) for error in errors])),
    }


def load_live(weights: Path | str) -> LiveRegistration:
    """The network with these weights. Raises WeightsError."""
    network = load_model(LiveRegistration.NAME, weights=weights)
    assert isinstance(network, LiveRegistration)
    return network


def loops(
    config: RegistrationTraining, root: Path, folder: Path, *, weights: Path | str | None = None
) -> Iterator[Loop]:
    """The one loop of a run in `folder` on the data under `root`.

    weights: start from these instead of at random; a state in `folder` takes precedence over both.
    """
    train, held = config.pairs(root)
    torch.manual_seed(config.loop.seed)
    network = LiveRegistration()
    if weights is not None:
        network.load_state_dict(load_live(weights).state_dict())
    yield Loop(network, RegistrationTask(config, train, held), config.loop, folder)


def export(config: RegistrationTraining, root: Path, folder: Path, to: Path, *, command: str) -> WeightsFile:
    """The best weights of a run, their confidence calibrated, as a weight file with its provenance."""
    network = LiveRegistration()
    load_best(network, folder)
    train, held = config.split_pairs(root)
    calibration = calibrate_confidence(network, train, seed=config.loop.seed)
    history = curve(folder / "log.csv", "mean")
    return write_weights(
        network,
        to,
        summary="the live registration network",
        config=config,
        configuration=config.model_dump(mode="json"),
        held=held,
        command=command,
        seed=config.loop.seed,
        steps=max(history, default=0),
        validation={"what": VALIDATION, "curve": {str(step): value for step, value in history.items()}},
        data=[*config.folders, *map(str, config.also)],
        confidence=calibration,
    )


RECIPE = Recipe(RegistrationTraining, loops, export)
