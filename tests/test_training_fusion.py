"""The live fusion network and what trains it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from streamfuse.cli import main
from streamfuse.metrics import standard
from streamfuse.nn.live_fusion import LEAST, LiveFusion
from streamfuse.training import fusion_losses as losses
from streamfuse.training.data import Pair
from streamfuse.training.fusion import FusionTask, fuse_image, validate_against_maximum


def picture(seed: int, size: tuple[int, int] = (208, 176)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 255, (12, 14), dtype=np.uint8), size, interpolation=cv2.INTER_CUBIC)


def tensors(*pictures: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(p)[None, None].float() / 255 for p in pictures]


@pytest.mark.parametrize("size", [(64, 48), (67, 51), (5, 9)])
def test_any_size_and_every_pixel_is_copied_or_clearly_changed(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = LiveFusion()
    torch.nn.init.normal_(network.leave.weight, std=0.1)
    ir, vis = tensors(picture(1, size), picture(2, size))
    with torch.inference_mode():
        change = (network(ir, vis) - torch.maximum(ir, vis)).abs()
    assert change.shape == ir.shape
    assert ((change == 0) | (change > LEAST - 1e-3) | (torch.maximum(ir, vis) + LEAST > 1)).all()
    assert (change > 0).any()


def test_untrained_it_is_the_maximum_and_yet_it_learns() -> None:
    network = LiveFusion()
    torch.nn.init.zeros_(network.leave.weight)
    ir, vis = tensors(picture(1), picture(2))
    fused = network(ir, vis)
    assert torch.equal(fused, torch.maximum(ir, vis))
    fused.sum().backward()
    assert network.leave.bias.grad is not None
    assert network.leave.bias.grad.abs().sum() > 0


def test_the_smooth_twins_order_pictures_as_the_metrics_do() -> None:
    a, b = picture(1), picture(2)
    candidates = [a, b, np.maximum(a, b), ((a.astype(int) + b) // 2).astype(np.uint8)]
    ir, vis = tensors(a, b)
    twins = {
        "ssim": (lambda f: losses.ssim(ir, f), lambda f: standard.ssim_ir(a, b, f)),
        "viff": (lambda f: losses.viff(ir, vis, f), lambda f: standard.viff(a, b, f)),
        "mi": (lambda f: losses.mutual_information(ir, f), lambda f: standard.mi_ir(a, b, f)),
        "edges": (
            lambda f: losses.edge_preservation(*(losses.sobel(x) for x in (ir, vis, f))),
            lambda f: standard.qabf_std(a, b, f),
        ),
    }
    for name, (smooth, metric) in twins.items():
        ours = [float(smooth(tensors(f)[0])) for f in candidates]
        theirs = [metric(f) for f in candidates]
        assert np.corrcoef(ours, theirs)[0, 1] > 0.9, name


def test_a_picture_is_as_good_as_itself() -> None:
    pair = Pair("x", picture(1), picture(2))
    network = LiveFusion()
    torch.nn.init.zeros_(network.leave.weight)
    np.testing.assert_array_equal(fuse_image(network, pair.ir, pair.vis), np.maximum(pair.ir, pair.vis))
    assert set(validate_against_maximum(network, [pair]).values()) == {1.0}


def test_loss_is_finite_and_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    network = LiveFusion()
    task = FusionTask([Pair("x", picture(1), picture(2))], shape=(96, 112), batch=2, seed=3)
    batch = task.make_batch(5)
    assert all(torch.equal(v, task.make_batch(5)[k]) for k, v in batch.items())
    loss, figures = task.loss(network, batch, 5)
    assert torch.isfinite(loss)
    assert set(figures) >= {"mi_min", "viff", "edges", "ssim_min", "steady"}
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_the_command_trains_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(3):
        for number, kind in enumerate(("ir", "vis")):
            file = tmp_path / "set" / kind / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), picture(10 * index + number))
    config = tmp_path / "train.yaml"
    text = "folders: [set]\nheld_back: 1\nshape: [96, 112]\nbatch: 1\n"
    config.write_text(text + "loop: {steps: 2, learning_rate: 0.001, validate_every: 2, save_every: 1}\n")
    command = [
        "train",
        "fusion",
        "--config",
        str(config),
        "--data",
        str(tmp_path),
        "--run",
        str(tmp_path / "run"),
    ]
    assert main(command) == 0
    assert "2 steps" in capsys.readouterr().out
    assert (tmp_path / "run" / "best.safetensors").exists()
    assert main(command) == 0
