"""The `live` registration network: features whose correlation finds the match.

Two small encoders of the same make, `coarse` (1/8 of the working picture, wide search, affine) and `fine`
(1/4, narrow search, smooth field), each with a stem per modality and a trunk that both share. A cell's
evidence is the correlation of bounded descriptors over a search window, weighted by a gain that the network
predicts from the visible picture (how much there is to match) and averaged over a neighbourhood; in the fine
stage neighbours then correct each other. Its softmax, taken as a Gaussian and divided by what an uninformed
cell would give, is a displacement with a 2 x 2 precision: an edge knows only its normal, a flat wall nothing.
What a Gaussian in whole cells cannot say, the position within a cell above all, the fine stage's neighbours
correct as well. The field is then fitted to these (`registration/fit.py`).

Working pictures are locally normalised luma, float32 (B, 1, H, W), H and W multiples of `UNIT`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamfuse.nn.network import Network
from streamfuse.nn.precision import full_precision

UNIT = 16
"""Sides of a working picture are multiples of this: the coarse encoder halves it three times."""
WORKING_PIXELS = 122_000
"""Pixels of a working picture, about 400 x 304: what the network is trained at."""
TILE = 8
"""Cells on a side of the tiles that correlation is computed in."""
WHOLE = 0.99
"""A cell with less picture than this in it matches nothing."""
EVIDENCE = 3
"""Numbers that the confidence is computed from."""
SOFTNESS = 0.5
"""Standard deviation, cells, of the target that evidence is trained towards; it is taken off again."""
RESIDUAL_GAIN = 0.3
"""Of the default initialisation: blocks begin near the identity."""
UNINFORMED = 0.02
"""Keeps the mean finite along a direction that nothing is known of."""
TRUST = 4.0
"""Natural logarithm: the surroundings change the precision of a match by no more than this."""
MIN_VARIANCE = 0.03
"""Cells squared: no match of one neighbourhood is trusted beyond a sixth of a cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """One encoder and its search.

    shrink: average pooling of the working picture before the encoder; a cell is 4 * shrink pixels.
    stem, width, descriptor: channels. dilations: one residual block each.
    radius: search radius, cells. window: side of the neighbourhood whose evidence is averaged, cells.
    step: cells between matches. context: channels of the wider view at half the resolution.
    consensus: channels in which neighbouring matches are weighed against each other; 0: they are not.
    """

    shrink: int
    stem: int
    width: int
    dilations: tuple[int, ...]
    descriptor: int
    radius: int
    window: int
    step: int
    context: int
    consensus: int

    @property
    def cell(self) -> int:
        return 4 * self.shrink


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveConfig:
    """Both stages: the coarse one reaches 48 working pixels, the fine one 12."""

    coarse: StageConfig = StageConfig(
        shrink=2,
        stem=16,
        width=48,
        dilations=(1, 2),
        descriptor=32,
        radius=6,
        window=5,
        step=1,
        context=48,
        consensus=0,
    )
    fine: StageConfig = StageConfig(
        shrink=1,
        stem=16,
        width=32,
        dilations=(1, 2),
        descriptor=32,
        radius=3,
        window=5,
        step=2,
        context=64,
        consensus=64,
    )


def working_shape(shape: tuple[int, int], *, detail: float = 1.0) -> tuple[int, int]:
    """(H, W) of the working picture of a camera picture: about WORKING_PIXELS, hardly ever enlarged.

    detail: so many times as many rows and columns. What the network finds is then as many times finer, until
    what it can tell apart is finer than what the two cameras have in common.
    """
    scale = detail * min(1.0, math.sqrt(WORKING_PIXELS / (shape[0] * shape[1])))
    rows, columns = (max(2 * UNIT, UNIT * round(side * scale / UNIT)) for side in shape)
    return rows, columns


class Matches(NamedTuple):
    """What every cell knows: `mean` (B, 2, h, w) pixels (dx, dy); `precision` (B, 3, h, w) [xx, xy, yy],
    px^-2; `logits` (B, h, w, (2r+1)^2) over the search window, rows of the window outermost."""

    mean: Tensor
    precision: Tensor
    logits: Tensor


class Unshuffle(nn.Module):
    """`nn.PixelUnshuffle(2)` of one channel. That one's memory layout makes the convolution after it take
    twice the time."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=1)


class Block(nn.Module):
    """x + conv(act(conv(act(x)))), 3 x 3."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(RESIDUAL_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(F.relu(self.first(F.relu(x))))
        return x + y


class Context(nn.Module):
    """x plus what a wider view at half the resolution adds to it; nothing at first."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(width, hidden, 3, stride=2, padding=1)
        self.look = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.up = nn.Conv2d(hidden, width, 3, padding=1)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.up(F.relu(self.look(F.relu(self.down(F.relu(x))))))
        added: Tensor = x + F.interpolate(wide, size=x.shape[2:], mode="nearest")
        return added


class Consensus(nn.Module):
    """Evidence (B, h, w, K) plus what the evidence of the surroundings says about it; nothing at first.

    Beside it what the match read off that evidence is off by, (B, 3, h, w): displacement in cells, logarithm
    of the precision. `seen` (B, C, h, w): features of the fixed picture, which tell where one surface ends.
    """

    def __init__(self, offsets: int, seen: int, hidden: int) -> None:
        super().__init__()
        self.gather = nn.Conv2d(offsets + seen, hidden, 3, padding=1)
        self.weigh = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.tell = nn.Conv2d(hidden, offsets, 3, padding=1)
        self.correct = nn.Conv2d(hidden, 3, 3, padding=1)
        for start in (self.tell.weight, *self.correct.parameters()):
            nn.init.zeros_(start)

    def forward(self, evidence: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        likely = torch.log_softmax(evidence, dim=-1).permute(0, 3, 1, 2) + math.log(evidence.shape[-1])
        hidden = F.relu(self.gather(torch.cat([likely, seen], dim=1)))
        hidden = F.relu(hidden + self.weigh(hidden))
        return evidence + self.tell(hidden).permute(0, 2, 3, 1), self.correct(hidden)


class Encoder(nn.Module):
    """`Stage.encode` of one modality as a module of its own, weights and all."""

    def __init__(self, stage: "Stage", modality: str) -> None:
        super().__init__()
        self.stage, self.modality = stage, modality

    def forward(self, image: Tensor) -> Tensor:
        return self.stage.encode(image, self.modality)


class Stage(nn.Module):
    """One encoder with its search: (ir, vis) -> `Matches`."""

    def __init__(self, config: StageConfig) -> None:
        super().__init__()
        self.config = config
        self.stems = nn.ModuleDict({name: self._stem(config) for name in ("ir", "vis")})
        self.trunk = nn.Sequential(*(Block(config.width, d) for d in config.dilations))
        self.context = Context(config.width, config.context)
        self.describe = nn.Conv2d(config.width, config.descriptor, 1)
        self.gain = nn.Conv2d(config.width, 1, 1)
        self.log_scale = nn.Parameter(torch.tensor(3.0))
        for conv in self.modules():
            if (
                isinstance(conv, nn.Conv2d)
                and conv.kernel_size == (3, 3)
                and conv.out_channels != config.width
            ):
                nn.init.kaiming_normal_(conv.weight)
        offsets = (2 * config.radius + 1) ** 2
        self.consensus = Consensus(offsets, config.width, config.consensus) if config.consensus else None
        side = torch.arange(-config.radius, config.radius + 1, dtype=torch.float32)
        dy, dx = torch.meshgrid(side, side, indexing="ij")
        moments = torch.stack([dx, dy, dx * dx, dx * dy, dy * dy], dim=-1).flatten(0, 1)
        self.register_buffer("moments", moments, persistent=False)
        self.moments: Tensor

    @staticmethod
    def _stem(config: StageConfig) -> nn.Module:
        return nn.Sequential(
            Unshuffle(),
            nn.Conv2d(4, config.stem, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(config.stem, config.width, 3, stride=2, padding=1),
        )

    def encode(self, image: Tensor, modality: str) -> Tensor:
        """Trunk features (B, width, h, w) of a working picture."""
        if self.config.shrink > 1:
            image = F.avg_pool2d(image, self.config.shrink)
        return F.relu(self.context(self.trunk(self.stems[modality](image))))

    def forward(self, ir: Tensor, vis: Tensor, valid: Tensor | None = None) -> Matches:
        """Match every `step`-th cell of `vis` in `ir`. valid: (B, 1, H, W), 1 where `ir` holds picture."""
        return self.match(self.encode(ir, "ir"), self.encode(vis, "vis"), valid)

    def match(self, features_ir: Tensor, features_vis: Tensor, valid: Tensor | None = None) -> Matches:
        """`forward` from the features on."""
        moving = bounded(self.describe(features_ir))
        fixed = bounded(self.describe(features_vis)) * F.softplus(self.gain(features_vis))
        if valid is not None:
            moving = moving * (F.avg_pool2d(valid, self.config.cell) > WHOLE)
        evidence = correlate(fixed, moving, self.config.radius).float()
        evidence = neighbourhood_mean(evidence, self.config.window, self.config.step)
        evidence = evidence * self.log_scale.exp()
        correction: Tensor | None = None
        if self.consensus is not None:
            step = self.config.step
            evidence, correction = self.consensus(evidence, features_vis[:, :, ::step, ::step])
        with full_precision(evidence):  # a variance is a small difference of large numbers
            return self.decode(evidence.float(), None if correction is None else correction.float())

    def decode(self, logits: Tensor, correction: Tensor | None = None) -> Matches:
        """Displacement and precision of every cell from its evidence.

        The softmax is the uniform prior of the window times a likelihood, all taken as Gaussians. So the
        likelihood's information is the posterior's less the prior's: a cell that saw nothing weighs nothing.
        """
        moments = torch.softmax(logits, dim=-1) @ self.moments
        mx, my = moments[..., 0], moments[..., 1]
        xx, yy = moments[..., 2] - mx * mx, moments[..., 4] - my * my
        xy = moments[..., 3] - mx * my
        half, slant = (xx + yy) / 2, (xx - yy) / 2
        spread = torch.sqrt(slant * slant + xy * xy + 1e-8)
        uniform = 1 / (self.config.radius * (self.config.radius + 1) / 3 - SOFTNESS**2)
        posterior = [
            1 / (variance - SOFTNESS**2).clamp_min(MIN_VARIANCE)
            for variance in (half + spread, half - spread)
        ]
        likelihood = [(p - uniform).clamp_min(0) for p in posterior]
        slack = UNINFORMED * uniform
        stretch = [(p + slack) / (q + slack) for p, q in zip(posterior, likelihood, strict=True)]

        def rebuild(along: Tensor, across: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """[xx, xy, yy] of the matrix with the eigenvectors of the covariance and these eigenvalues."""
            common, lean = (along + across) / 2, (along - across) / 2 / spread
            return common + lean * slant, lean * xy, common - lean * slant

        sxx, sxy, syy = rebuild(*stretch)
        limit = self.config.radius + 1.0
        mean = torch.stack([sxx * mx + sxy * my, sxy * mx + syy * my], dim=1).clamp(-limit, limit)
        precision = torch.stack(rebuild(*likelihood), dim=1)
        if correction is not None:
            mean = mean + correction[:, :2]
            precision = precision * torch.exp(correction[:, 2:].clamp(-TRUST, TRUST))
        cell = self.config.cell
        return Matches(mean * cell, precision / cell**2, logits)


def bounded(descriptors: Tensor) -> Tensor:
    """Shortens (B, C, h, w) to lengths below 1: strong ones to directions, weak ones stay weak evidence."""
    return descriptors * torch.rsqrt(1 + descriptors.square().sum(dim=1, keepdim=True))


def correlate(fixed: Tensor, moving: Tensor, radius: int) -> Tensor:
    """Inner products of fixed(p) with moving(p + o) for |ox|, |oy| <= radius; zero outside the picture.

    (B, C, h, w) twice -> (B, h, w, (2r+1)^2), rows of the window outermost. One matrix product per tile of
    TILE x TILE cells with all the cells that any of them can meet, of which each keeps its own window:
    four times more products than needed, and still far faster than (2r+1)^2 shifted sums.
    """
    batch, channels, rows, columns = fixed.shape
    side, reach = 2 * radius + 1, TILE + 2 * radius
    down, across = -(-rows // TILE), -(-columns // TILE)
    below, right = down * TILE - rows, across * TILE - columns
    tiles = F.pad(fixed, (0, right, 0, below)).view(batch, channels, down, TILE, across, TILE)
    tiles = tiles.permute(0, 2, 4, 3, 5, 1).reshape(-1, TILE * TILE, channels)
    met = F.pad(moving, (radius, radius + right, radius, radius + below))
    met = met.unfold(2, reach, TILE).unfold(3, reach, TILE).permute(0, 2, 3, 1, 4, 5)
    products = torch.bmm(tiles, met.reshape(-1, channels, reach * reach))
    plane = reach * reach
    windows = products.as_strided(
        (products.shape[0], TILE, TILE, side, side),
        (TILE * TILE * plane, TILE * plane + reach, plane + 1, reach, 1),
    )
    windows = windows.reshape(batch, down, across, TILE, TILE, side * side).permute(0, 1, 3, 2, 4, 5)
    return windows.reshape(batch, down * TILE, across * TILE, side * side)[:, :rows, :columns]


def neighbourhood_mean(evidence: Tensor, window: int, step: int) -> Tensor:
    """Mean over window x window cells around every `step`-th cell, nothing beyond the border.

    (B, h, w, K) -> (B, ceil(h / step), ceil(w / step), K). Sums of slices: pooling
    layers take five times longer.
    """
    margin = window // 2
    rows, columns = evidence.shape[1:3]
    padded = F.pad(evidence, (0, 0, margin, margin, margin, margin))
    down = padded[:, 0:rows:step]
    for i in range(1, window):
        down = down + padded[:, i : i + rows : step]
    across = down[:, :, 0:columns:step]
    for i in range(1, window):
        across = across + down[:, :, i : i + columns : step]
    return across / window**2


class LiveRegistration(Network):
    """Both stages, what their fits need, and what the fit is worth.

    `forward` runs one stage: the picture is warped in between. coarse_penalty, fine_penalty: logarithms of
    the strengths of ridge and bending. `confidence`: from the fit's evidence to the logit of "the mean error
    is below 2 px of a picture of 640 columns".
    """

    NAME = "live-registration"
    SUMMARY = "registration in real time on a CPU: learned matches, fitted smooth field"
    PARTS = ("coarse", "fine", "confidence")

    def __init__(self, config: LiveConfig | None = None) -> None:
        super().__init__()
        self.config = config or LiveConfig()
        self.coarse = Stage(self.config.coarse)
        self.fine = Stage(self.config.fine)
        self.coarse_penalty = nn.Parameter(torch.tensor([0.0, 4.0]))
        self.fine_penalty = nn.Parameter(torch.tensor([0.0, 4.0]))
        self.confidence = nn.Linear(EVIDENCE, 1)

    def forward(
        self, *, ir: Tensor, vis: Tensor, valid: Tensor | None = None, stage: Literal["coarse", "fine"]
    ) -> Matches:
        """Match (B, 1, H, W) working pictures. valid: 1 where `ir` holds picture."""
        matches: Matches = (self.coarse if stage == "coarse" else self.fine)(ir, vis, valid)
        return matches

    def encoders(self) -> dict[str, nn.Module]:
        """What takes most of the time, with fixed shapes: "STAGE MODALITY"."""
        return {
            f"{name} {modality}": Encoder(stage, modality)
            for name, stage in (("coarse", self.coarse), ("fine", self.fine))
            for modality in ("ir", "vis")
        }

    def example_inputs(self, *, height: int, width: int) -> Mapping[str, Mapping[str, Any]]:
        """Both stages on a working picture for a camera of this size."""
        shape = (1, 1, *working_shape((height, width)))
        device = self.fine_penalty.device
        pictures = {name: torch.rand(shape, device=device) for name in ("ir", "vis", "valid")}
        return {stage: {**pictures, "stage": stage} for stage in ("coarse", "fine")}
