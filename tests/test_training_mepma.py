"""What trains the ME-PMA network: the losses of both phases, resuming, and a run from end to end."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from streamfuse.cli import main
from streamfuse.metrics import registration as metrics
from streamfuse.nn.mepma import MEPMA
from streamfuse.nn.models import load_model
from streamfuse.nn.warp import warp
from streamfuse.training.data import Pair
from streamfuse.training.loop import Loop, LoopConfig
from streamfuse.training.mepma import (
    FusionPhase,
    MepmaTraining,
    RegistrationPhase,
    fusion_loss,
    local_likeness,
    phases,
    registration_loss,
)

SHAPE = (32, 48)


def scene(seed: int) -> Pair:
    rng = np.random.default_rng(seed)
    vis = cv2.resize(rng.integers(0, 255, (9, 12), dtype=np.uint8), (96, 72), interpolation=cv2.INTER_CUBIC)
    return Pair(f"scene{seed}", 255 - cv2.GaussianBlur(vis, (0, 0), 1.2), vis)


def loop_config(**changes: object) -> LoopConfig:
    return LoopConfig(**{"steps": 50, "learning_rate": 1e-3, "warm_up": 1, "save_every": 1} | changes)


def config(**changes: object) -> MepmaTraining:
    settings = {"folders": ["blobs"], "held_back": 1, "shape": SHAPE, "batch": 1}
    loops = {"fusion": loop_config(), "registration": loop_config()}
    return MepmaTraining(**settings | loops | changes)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in range(3):
        pair = scene(seed)
        for name, picture in (("ir", pair.ir), ("vis", pair.vis)):
            folder = tmp_path / "data" / "blobs" / name
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{pair.name}.png"), picture)
    return tmp_path / "data"


def registration_phase(network: MEPMA) -> RegistrationPhase:
    return RegistrationPhase(config(), network, [scene(0), scene(1)], [scene(2)])


def test_likeness_is_that_of_the_metrics() -> None:
    a, b = scene(0).ir, scene(1).vis
    planes = (torch.from_numpy(p)[None, None].double() / 255 for p in (a, b))
    assert float(local_likeness(*planes)) == pytest.approx(metrics.ncc(a, b), rel=1e-6)


def test_the_truth_of_a_batch_registers_it() -> None:
    batch = registration_phase(MEPMA()).make_batch(3)
    there = warp(batch["moved"], batch["truth"])
    inner = (..., slice(6, -6), slice(6, -6))
    before, after = ((x[inner] - batch["ir"][inner]).abs().mean() for x in (batch["moved"], there))
    assert after < 0.4 * before


def test_batches_depend_on_seed_and_step_alone() -> None:
    one, two = (registration_phase(MEPMA()) for _ in range(2))
    assert torch.equal(one.make_batch(5)["moved"], two.make_batch(5)["moved"])
    assert not torch.equal(one.make_batch(5)["moved"], one.make_batch(6)["moved"])


def test_fusion_phase_learns_one_crop() -> None:
    torch.manual_seed(0)
    settings = config()
    network = MEPMA()
    task = FusionPhase(settings, settings.registration, [scene(0)], [scene(1)])
    batch = task.make_batch(0)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for step in range(8):
        loss, _ = task.loss(network, batch, step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_fusion_loss_is_least_for_the_brightest() -> None:
    class Copying(torch.nn.Module):
        def __init__(self, fused: torch.Tensor) -> None:
            super().__init__()
            self.fused = fused

        def forward(self, ir: torch.Tensor, vis: torch.Tensor, *, aligned: bool) -> object:
            assert aligned

            class Out:
                fused, recon_ir, recon_vis = self.fused, ir, vis

            return Out

    pair = scene(0)
    ir, vis = (torch.from_numpy(p)[None, None].float() / 255 for p in (pair.ir, pair.vis))
    totals = {
        name: float(fusion_loss(Copying(picture), ir, vis, config(ssim_weight=0))[0])
        for name, picture in (("max", torch.maximum(ir, vis)), ("ir", ir), ("vis", vis))
    }
    assert totals["max"] == 0
    assert min(totals["ir"], totals["vis"]) > 0.1


def test_registration_phase_moves_the_alignment_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = MEPMA()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    task = registration_phase(network)
    loop = Loop(network, task, loop_config(), tmp_path)
    loop.run(until=2)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("alignment.") for name in changed)
    assert any(name.startswith("alignment.scales.4") for name in changed), "down to the coarsest scale"


def test_a_truer_field_costs_less() -> None:
    """The end-point error counts: the same network is judged better when its own field is declared true."""
    torch.manual_seed(0)
    network = MEPMA().eval()
    batch = registration_phase(network).make_batch(0)
    _, wrong = registration_loss(network, batch, config())
    out = network(batch["moved"], batch["vis"], aligned=False)
    _, right = registration_loss(network, batch | {"truth": out.flow.detach()}, config())
    assert right["field"] == pytest.approx(0.1, abs=1e-3)
    assert wrong["field"] > 3 * right["field"]
    assert {k: v for k, v in wrong.items() if k != "field"} == {
        k: v for k, v in right.items() if k != "field"
    }


@pytest.mark.parametrize("phase", ["fusion", "registration"])
def test_resumed_equals_uninterrupted(tmp_path: Path, phase: str) -> None:
    def train(folder: Path, stops: list[int]) -> Loop:
        for stop in stops:
            torch.manual_seed(4)
            network, settings = MEPMA(), config()
            task = (
                registration_phase(network)
                if phase == "registration"
                else FusionPhase(settings, settings.registration, [scene(0), scene(1)], [scene(2)])
            )
            loop = Loop(network, task, loop_config(), folder)
            loop.run(until=stop)
        return loop

    straight, resumed = train(tmp_path / "straight", [3]), train(tmp_path / "resumed", [1, 3])
    for name, value in straight.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
    for name, value in straight.average.items():
        assert torch.equal(value, resumed.average[name]), name


def test_without_a_fusion_phase_weights_are_asked_for(root: Path, tmp_path: Path) -> None:
    from streamfuse.errors import DataError

    with pytest.raises(DataError, match="--weights"):
        next(phases(config(fusion=None), root, tmp_path))


def test_command_trains_both_phases_and_the_weights_load(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = {"steps": 1, "learning_rate": 1e-3, "validate_every": 1}
    file = tmp_path / "train.yaml"
    settings = {"folders": ["blobs"], "held_back": 1, "shape": list(SHAPE), "batch": 1}
    file.write_text(yaml.safe_dump(settings | {"fusion": loop, "registration": loop}))
    weights = tmp_path / "new" / "mepma.safetensors"
    command = ["train", "mepma", "--config", str(file), "--data", str(root), "--run", str(tmp_path / "run")]
    assert main(command) == 0
    assert main([*command, "--export", str(weights)]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'run' / 'registration'}: 1 steps" in said
    assert weights.stat().st_size < 16e6
    assert load_model("mepma", weights=weights).NAME == "mepma"
    assert "mean end-point error" in weights.with_suffix(".json").read_text()
