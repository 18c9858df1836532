"""The live fusion network and what trains it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from streamfuse.cli import main
from streamfuse.errors import DataError
from streamfuse.metrics import standard
from streamfuse.metrics.salience import warm_contrast
from streamfuse.nn.live_fusion import TIE, LiveFusion
from streamfuse.training.data import Pair
from streamfuse.training.fusion import (
    PRICE,
    FusionTask,
    fuse_image,
    validate_against_maximum,
    wanted_decisions,
)
from streamfuse.training.fusion_crops import add_smoke
from streamfuse.training.fusion_gains import ALTERNATIVES, NAMES, TYPICAL, cell_gains
from streamfuse.training.fusion_people import cut_people, load_streets, mark, people_cells, set_people
from streamfuse.training.rendered import render_pairs


def picture(seed: int, size: tuple[int, int] = (208, 176)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 255, (12, 14), dtype=np.uint8), size, interpolation=cv2.INTER_CUBIC)


def tensors(*pictures: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(p)[None, None].float() / 255 for p in pictures]


@pytest.mark.parametrize("size", [(64, 48), (67, 51), (5, 9), (1, 1)])
def test_any_size_and_an_untrained_network_copies_the_brighter_source(size: tuple[int, int]) -> None:
    ir, vis = tensors(picture(1, size), picture(2, size))
    with torch.inference_mode():
        fused = LiveFusion()(ir, vis)
    assert fused.shape == ir.shape
    assert ((fused == ir) | (fused == vis)).all()
    assert (torch.maximum(ir, vis) - fused).max() < TIE


def network_that_takes(visible: float, infrared: float, people: float = -9) -> LiveFusion:
    """The same decision everywhere: large is take."""
    network = LiveFusion()
    assert network.leave.bias is not None
    with torch.no_grad():
        network.leave.weight.zero_()
        network.leave.bias.copy_(torch.tensor([visible, infrared, people]))
    return network


def test_the_visible_is_copied_and_the_infrared_lends_its_texture() -> None:
    a, b = picture(1), picture(2)
    warmer = np.minimum(b, 225) + 20
    with torch.inference_mode():
        visible = fuse_image(network_that_takes(9, -9), warmer, b)
        infrared = fuse_image(network_that_takes(-9, 9), a // 3, b // 3 + 150)
    np.testing.assert_array_equal(visible, np.maximum(b, np.maximum(warmer, b).min()))
    assert abs(float(infrared.mean()) - float((b // 3 + 150).mean())) < 10, "brightness of what is around"
    fine = [cv2.Laplacian(x, cv2.CV_32F).ravel() for x in (infrared, a // 3)]
    assert np.corrcoef(*fine)[0, 1] > 0.6, "grain of rounding apart it is the infrared's texture"


def person_in_daylight() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Somebody clearly warmer than the street, but no brighter than the day: ir, vis, mask."""
    body = np.zeros((160, 160), np.uint8)
    body[50:110, 70:90] = 255
    ir, vis = picture(1, (160, 160)) // 16 + 30, picture(2, (160, 160)) // 8 + 130
    return np.where(body > 0, ir + 90, ir).astype(np.uint8), vis, body


def test_people_stand_out_by_day_as_they_do_in_the_infrared_and_nothing_else_changes() -> None:
    ir, vis, body = person_in_daylight()
    brighter = np.maximum(ir, vis)
    with torch.inference_mode():
        without = fuse_image(network_that_takes(-9, -9), ir, vis)
        fused = fuse_image(network_that_takes(-9, -9, 9), ir, vis)
    assert warm_contrast(ir, vis, without, marked=body) < 0.2
    assert warm_contrast(ir, vis, fused, marked=body) > 0.9
    np.testing.assert_array_equal(fused[body == 0], brighter[body == 0])
    assert (fused >= without).all()


def test_a_cold_thing_is_not_raised() -> None:
    ir, vis, body = person_in_daylight()
    with torch.inference_mode():
        fused = fuse_image(network_that_takes(-9, -9, 9), np.where(body > 0, ir - 90, ir), vis)
        np.testing.assert_array_equal(fused, fuse_image(network_that_takes(-9, -9), ir - ir // 2, vis))


def gain_of(ir: np.ndarray, vis: np.ndarray) -> dict[str, dict[str, float]]:
    gains = cell_gains(*tensors(ir, vis)).mean((2, 3))
    return {
        what: dict(zip(NAMES, row, strict=True))
        for what, row in zip(ALTERNATIVES, gains.tolist(), strict=True)
    }


def test_gains_of_the_maximum_itself_are_nothing() -> None:
    low, high = picture(1) // 3, picture(2) // 3 + 150
    assert max(abs(v) for v in gain_of(low, high)["vis"].values()) < 1e-6


def test_gains_tell_texture_under_flat_infrared_and_people_in_smoke() -> None:
    texture = (picture(1, (96, 96)) // 4).astype(np.uint8) + np.where(np.arange(96) % 4 < 2, 0, 40).astype(
        np.uint8
    )
    flat = np.full((96, 96), 160, np.uint8) + (np.arange(96) % 7 // 4).astype(np.uint8)
    at_night, in_smoke = gain_of(flat, texture)["vis"], gain_of(texture, flat)["ir texture"]
    assert at_night["texture"] > 0.5
    for gain in (at_night, in_smoke):
        assert gain["edges"] > 0.2
        assert gain["ssim_min"] > 0.2
    assert at_night["cv"] < 0


def test_gains_add_up_to_the_change_of_the_metrics() -> None:
    for seed in (3, 5, 7):
        a, b = picture(seed), picture(seed + 1)
        before = np.maximum(a, b)
        worse = min((standard.ssim_ir, standard.ssim_vis), key=lambda metric: metric(a, b, before))
        gains = gain_of(a, b)["vis"]
        for name, metric in (("edges", standard.qabf_std), ("ssim_min", worse)):
            true = metric(a, b, b) - metric(a, b, before)
            assert gains[name] * TYPICAL[name] == pytest.approx(true, abs=0.03), name


def test_decisions_are_wanted_where_gains_exceed_their_price() -> None:
    gains = torch.zeros(1, 2, len(NAMES), 20, 30)
    gains[:, 0, NAMES.index("texture"), :, :10] = PRICE
    gains[:, 1, NAMES.index("edges"), :, 20:] = 2 * PRICE
    wanted, weight = wanted_decisions(gains)
    assert wanted[0, :, 10].T.tolist()[0] == [1, 0]
    assert wanted[0, :, 10].T.tolist()[15] == [0, 0]
    assert wanted[0, :, 10].T.tolist()[29] == [0, 1]
    assert (weight > 0).all()


def task_of(shape: tuple[int, int] = (96, 112)) -> FusionTask:
    street = mark(Pair("x", picture(1), picture(2)), [])
    ir, vis, _ = person_in_daylight()
    rendered = mark(Pair("y", ir, vis), [(70, 50, 90, 110)])
    return FusionTask([street], shape=shape, batch=2, seed=3, rendered=[rendered])


def test_boxes_mark_what_is_warm_in_them() -> None:
    ir, vis, body = person_in_daylight()
    street = mark(Pair("x", ir, vis), [(60, 40, 100, 120)])
    np.testing.assert_array_equal(street.people, body)
    with pytest.raises(DataError, match="x: box 900"):
        mark(street.pair, [(900, 40, 990, 120)])


def test_people_are_cut_out_and_set_elsewhere() -> None:
    ir, vis, _ = person_in_daylight()
    cut = cut_people([mark(Pair("x", ir, vis), [(60, 40, 100, 120)])])
    assert len(cut) == 1
    planes = [np.full((240, 320), level, np.float32) for level in (0.2, 0.5)]
    people = np.zeros((240, 320), np.float32)
    set_people(planes, people, cut, np.random.default_rng(1))
    assert people.max() > 0.9
    assert (planes[0][people > 0.9] > 0.25).all(), "warmer than what is around"
    assert (planes[0][people == 0] == np.float32(0.2)).all()
    cells = people_cells(torch.from_numpy(people)[None, None])
    assert cells.shape == (1, 1, 30, 40)
    assert cells.mean() > (people > 0.5).mean()


def test_rendered_streets_come_with_the_people_in_them(tmp_path: Path) -> None:
    render_pairs(tmp_path, count=2, seed=4)
    streets = load_streets(tmp_path)
    assert len(streets) == 2
    for street in streets:
        assert set(np.unique(street.people)) <= {0, 255}
    shown = [street for street in streets if np.count_nonzero(street.people) > 200]
    assert shown
    for street in shown:
        assert street.pair.ir[street.people > 0].mean() > np.median(street.pair.ir)


def test_it_learns_to_decide() -> None:
    torch.manual_seed(0)
    task, network = task_of(), LiveFusion()
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    history = []
    for step in range(60):
        loss, figures = task.loss(network, task.make_batch(step), step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(figures["choice"])
    assert np.mean(history[-5:]) < 0.5 * np.mean(history[:5])


def test_a_picture_is_as_good_as_itself() -> None:
    pair = Pair("x", picture(1), picture(2))
    apart = Pair("y", pair.ir // 3, pair.vis // 2 + 120)
    assert set(validate_against_maximum(LiveFusion(), [apart]).values()) == {1.0}, "nothing is near a tie"
    worse = validate_against_maximum(network_that_takes(9, -9), [pair])
    assert worse["MI_min"] < 1 < worse["SSIM_vis"]


def test_two_frames_of_a_sample_differ_by_noise_and_gain_only() -> None:
    batch = task_of().make_batch(7)
    first, second = batch["means"].chunk(2)
    assert not torch.equal(first, second)
    assert (first - second).abs().mean() < 0.05
    assert batch["gains"].shape == (1, len(ALTERNATIVES), len(NAMES), 12, 14)
    assert batch["people"].shape == batch["smoke"].shape == (2, 1, 12, 14)


def test_smoke_hides_the_visible_and_stays_in_range() -> None:
    clear = picture(5).astype(np.float32) / 255
    hidden, passed = add_smoke(clear, np.random.default_rng(0))
    assert 0 <= passed.min() < passed.max() <= 1
    assert hidden.min() >= 0
    assert hidden.max() <= 1
    assert hidden.std() < 0.7 * clear.std()


def test_loss_is_finite_and_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    task, network = task_of(), LiveFusion()
    batch = task.make_batch(5)
    assert all(torch.equal(v, task.make_batch(5)[k]) for k, v in batch.items())
    loss, figures = task.loss(network, batch, 5)
    assert torch.isfinite(loss)
    assert set(figures) >= {"choice", "people", "unsteady", "right", "found"}
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
