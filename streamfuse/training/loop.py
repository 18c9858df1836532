"""The training loop: any task, resumable to the step, seeded, the same on CPU and GPU.

A run lives in one folder: `state.pt` (everything needed to go on as if never stopped), `best.safetensors`
(the averaged weights that validated best), `log.csv` (one line per `log_every` steps and per validation).
"""

import csv
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.progress import Progress
from safetensors.torch import save_file
from torch import Tensor, nn

from streamfuse.errors import WeightsError
from streamfuse.nn.weights import WeightsFile
from streamfuse.registry import Options

logger = logging.getLogger(__name__)


class LoopConfig(BaseModel):
    """How long and how fast to learn. decay_from: share of the steps after which the rate falls (cosine)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    steps: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    warm_up: int = Field(default=100, ge=0)
    decay_from: float = Field(default=0.3, ge=0, le=1)
    clip: float = Field(default=1.0, gt=0)
    average: float = Field(default=0.998, ge=0, lt=1)
    validate_every: int = Field(default=500, gt=0)
    log_every: int = Field(default=20, gt=0)
    save_every: int = Field(default=100, gt=0)
    seed: int = 0
    device: str = "cpu"
    mixed_precision: bool = False


class Task(Protocol):
    """What is trained. A batch depends on the step alone, so that a resumed run sees what it would have
    seen.
    """

    def make_batch(self, step: int) -> dict[str, Tensor]: ...

    def loss(self, network: Any, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, float]]: ...

    def validate(self, network: Any, folder: Path, step: int) -> dict[str, float]:
        """Figures of the averaged weights; `score` (lower is better) decides which are kept."""
        ...


def learning_rate(step: int, config: LoopConfig) -> float:
    """Linear warm-up, flat, then cosine down to 1 % of the rate."""
    if step < config.warm_up:
        return config.learning_rate * (step + 1) / config.warm_up
    start = config.decay_from * config.steps
    part = min(1.0, max(0.0, (step - start) / max(1.0, config.steps - start)))
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * part)))


class Loop:
    """Trains `network` on `task` in `folder`, going on from the state found there.

    Raises:
        WeightsError: that is the state of another network, or damaged.
    """

    def __init__(self, network: nn.Module, task: Task, config: LoopConfig, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.task, self.config, self.folder = task, config, folder
        self.network = network.to(config.device)
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.step = 0
        self.best = math.inf
        state = folder / "state.pt"
        if state.exists():
            try:
                self._load(torch.load(state, map_location=config.device, weights_only=True))
            except (RuntimeError, ValueError, LookupError, TypeError, EOFError, UnpicklingError) as error:
                raise WeightsError(
                    f"{state}: not a state that this training can go on from (another network, or damaged); "
                    "give the run a folder of its own"
                ) from error

    def _load(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.best = state["step"], state["best"]
        logger.info("resumed %s at step %d", self.folder, self.step)

    def save(self) -> None:
        """Write the state, in one move so that a kill leaves the old one or the new one."""
        state = {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "best": self.best,
        }
        part = self.folder / "state.part"
        torch.save(state, part)
        part.replace(self.folder / "state.pt")

    def run(self, *, until: int | None = None, progress: Progress | None = None) -> None:
        """Train to `until` (by default to the end), saving, logging and validating on the way."""
        config = self.config
        last = min(config.steps, until if until is not None else config.steps)
        bar = progress.add_task("training", total=config.steps, completed=self.step) if progress else None
        with ThreadPoolExecutor(1, "streamfuse-batches") as pool:
            upcoming = pool.submit(self.task.make_batch, self.step) if self.step < last else None
            while self.step < last and upcoming is not None:
                batch = {k: v.to(config.device) for k, v in upcoming.result().items()}
                upcoming = pool.submit(self.task.make_batch, self.step + 1) if self.step + 1 < last else None
                figures = self._advance(batch)
                if self.step % config.log_every == 0:
                    self._log("train", figures)
                if self.step % config.validate_every == 0 or self.step == config.steps:
                    self.validate()
                if self.step % config.save_every == 0 or self.step == last:
                    self.save()
                if progress and bar is not None:
                    progress.update(bar, completed=self.step)

    def _advance(self, batch: dict[str, Tensor]) -> dict[str, float]:
        config = self.config
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, config)
        self.network.train()
        device_type = torch.device(config.device).type
        with torch.autocast(device_type, torch.bfloat16, enabled=config.mixed_precision):
            loss, figures = self.task.loss(self.network, batch, self.step)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        if torch.isfinite(norm):
            self.optimiser.step()
        else:
            logger.warning("step %d: the gradient is not finite, skipped", self.step)
        self.step += 1
        keep = min(config.average, self.step / (self.step + 10))
        with torch.no_grad():
            for key, value in self.network.state_dict().items():
                if value.is_floating_point():
                    self.average[key].lerp_(value, 1 - keep)
                else:
                    self.average[key].copy_(value)
        return {"loss": loss.item(), "norm": float(norm), **figures}

    def validate(self) -> dict[str, float]:
        """Validate the averaged weights and keep them if they are the best so far."""
        own = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)
        self.network.eval()
        figures = self.task.validate(self.network, self.folder, self.step)
        self._log("validate", figures)
        logger.info("step %d: %s", self.step, " ".join(f"{k} {v:.3f}" for k, v in figures.items()))
        save_file(self.average, self.folder / "last.safetensors")
        if figures["score"] < self.best:
            self.best = figures["score"]
            save_file(self.average, self.folder / "best.safetensors")
        self.network.load_state_dict(own)
        return figures

    def _log(self, phase: str, figures: Mapping[str, float]) -> None:
        with (self.folder / "log.csv").open("a", newline="") as file:
            writer = csv.writer(file)
            for key, value in figures.items():
                writer.writerow([self.step, phase, key, f"{value:.5g}"])


class Recipe(NamedTuple):
    """What `streamfuse train NAME` needs to know of `streamfuse.training.NAME`, its RECIPE.

    options: the configuration. loops: (config, data root, run folder, weights=...) -> the loops of a run, to
    be run in turn. export: (config, data root, run folder, file, command=...) -> the weight file written.
    """

    options: type[Options]
    loops: Callable[..., Iterator[Loop]]
    export: Callable[..., WeightsFile]
