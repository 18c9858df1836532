"""The paper's network as registrar and fuser of the pipeline."""

import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from streamfuse.errors import ConfigError, DataError, WeightsError
from streamfuse.frame import Image8, Registration, Status
from streamfuse.fusion import FUSERS
from streamfuse.nn.mepma import total_flow
from streamfuse.nn.mepma.alignment import Views
from streamfuse.registration import REGISTRARS
from streamfuse.registration.mepma import MepmaModel, MepmaOptions, edge_agreement


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def weights(shared_data: Path) -> str:
    return str(shared_data / "golden" / "mepma" / "checkpoint.safetensors")


@pytest.fixture(scope="module")
def model(weights: str) -> MepmaModel:
    return MepmaModel(MepmaOptions(weights=weights), device="cpu")


@pytest.fixture(scope="module")
def pair(shared_data: Path) -> tuple[Image8, Image8]:
    """Part of a real pair: ir, visible luma, 64 x 96."""
    root = shared_data / "data" / "roadscene" / "test_public"
    name = sorted(path.name for path in (root / "ir").glob("*.png"))[0]
    pictures = []
    for stream in ("ir", "vis"):
        image = cv2.imread(str(root / stream / name), cv2.IMREAD_GRAYSCALE)
        assert image is not None
        pictures.append(np.ascontiguousarray(image[120:184, 150:246]).astype(np.uint8))
    return pictures[0], pictures[1]


def as_tensor(image: Image8) -> torch.Tensor:
    return torch.from_numpy(image).float()[None, None] / 255


def test_one_class_is_registrar_and_fuser() -> None:
    assert REGISTRARS.load("mepma") is FUSERS.load("mepma") is MepmaModel


def test_it_is_the_network_s_unaligned_mode(model: MepmaModel, pair: tuple[Image8, Image8]) -> None:
    ir, vis = pair
    registration, fused = model.register_and_fuse(ir, vis)
    with torch.inference_mode():
        out = model._network(as_tensor(ir), as_tensor(vis), aligned=False)
    assert fused.dtype == np.uint8
    assert fused.shape == ir.shape
    np.testing.assert_allclose(fused, out.fused[0, 0].numpy() * 255, atol=0.51)
    assert registration.flow is not None
    assert registration.flow.dtype == np.float32
    assert registration.flow.shape == (*ir.shape, 2)
    np.testing.assert_allclose(registration.flow, out.flow[0].permute(1, 2, 0).numpy(), atol=1e-3)
    assert not registration.warm


def test_fusing_alone_is_the_aligned_mode(model: MepmaModel, pair: tuple[Image8, Image8]) -> None:
    fused = model.fuse(*pair)
    with torch.inference_mode():
        out = model._network(*map(as_tensor, pair), aligned=True)
    np.testing.assert_allclose(fused, out.fused[0, 0].numpy() * 255, atol=0.51)


def test_registering_alone_finds_the_same_field(model: MepmaModel, pair: tuple[Image8, Image8]) -> None:
    alone, (joint, _) = model.register(*pair), model.register_and_fuse(*pair)
    assert alone.flow is not None
    assert joint.flow is not None
    np.testing.assert_array_equal(alone.flow, joint.flow)
    assert alone.confidence == joint.confidence


def test_each_picture_is_encoded_once(model: MepmaModel, pair: tuple[Image8, Image8]) -> None:
    calls: list[None] = []
    hook = model._network.encoder.shallow.register_forward_hook(lambda *_: calls.append(None))
    model.register_and_fuse(*pair)
    hook.remove()
    assert len(calls) == 2


def test_nothing_is_kept_between_pairs(model: MepmaModel, pair: tuple[Image8, Image8]) -> None:
    _, first = model.register_and_fuse(*pair)
    model.register_and_fuse(pair[1], pair[0])
    prior = Registration(status=Status.OK, confidence=1, flow=np.full((64, 96, 2), 9, np.float32))
    _, again = model.register_and_fuse(*pair, prior=prior)
    np.testing.assert_array_equal(first, again)


def test_inputs_are_not_changed(model: MepmaModel, pair: tuple[Image8, Image8]) -> None:
    before = pair[0].copy(), pair[1].copy()
    model.register_and_fuse(*pair)
    np.testing.assert_array_equal(pair[0], before[0])
    np.testing.assert_array_equal(pair[1], before[1])


def test_views_of_larger_pictures_are_fine(model: MepmaModel, pair: tuple[Image8, Image8]) -> None:
    ir, vis = pair[0][::-1, 8:40], pair[1][::-1, 8:40]
    np.testing.assert_array_equal(model.fuse(ir, vis), model.fuse(ir.copy(), vis.copy()))


@pytest.mark.parametrize("value", [0, 128])
def test_nothing_to_match_is_off_with_the_identity(
    model: MepmaModel, pair: tuple[Image8, Image8], value: int
) -> None:
    found = model.register(np.full_like(pair[0], value), pair[1])
    assert found.status is Status.OFF
    assert "no edges" in found.reason
    assert found.matrix is not None
    np.testing.assert_array_equal(found.matrix, np.eye(3))


def test_a_field_that_is_no_number_is_off(
    model: MepmaModel, pair: tuple[Image8, Image8], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = torch.full((1, 2, 64, 96), torch.nan)
    monkeypatch.setattr(model._network, "align", lambda *_: Views(nothing, nothing, nothing))
    found = model.register(*pair)
    assert found.status is Status.OFF
    assert found.matrix is not None


def test_only_the_valid_part_counts_for_confidence(model: MepmaModel, pair: tuple[Image8, Image8]) -> None:
    valid = np.full(pair[0].shape, 255, np.uint8)
    whole = model.register(*pair, valid=valid)
    assert whole.confidence == pytest.approx(model.register(*pair).confidence)
    valid[:, 48:] = 0
    part = model.register(*pair, valid=valid)
    assert part.confidence != whole.confidence
    valid[:] = 0
    assert model.register(*pair, valid=valid).status is Status.OFF


@pytest.mark.parametrize(
    ("ir", "vis", "message"),
    [
        (np.zeros((15, 64), np.uint8), np.zeros((15, 64), np.uint8), r"at least 16x16 pixels, got 64x15"),
        (np.zeros((32, 64), np.uint8), np.zeros((32, 63), np.uint8), r"one size, got ir \(32, 64\)"),
        (np.zeros((32, 64), np.uint16), np.zeros((32, 64), np.uint8), r"ir as uint8 \(H, W\), got uint16"),
        (np.zeros((32, 64), np.uint8), np.zeros((32, 64, 3), np.uint8), r"vis as uint8 \(H, W\), got uint8"),
    ],
)
def test_pictures_that_do_not_fit(model: MepmaModel, ir: Image8, vis: Image8, message: str) -> None:
    for call in (model.register, model.fuse, model.register_and_fuse):
        with pytest.raises(DataError, match=message):
            call(ir, vis)


def test_without_weights_the_error_says_how_to_get_some() -> None:
    with pytest.raises(WeightsError, match="streamfuse weights import FILE"):
        MepmaModel(MepmaOptions(), device="cpu")


def test_weights_of_another_kind(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(2)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"does not fit mepma: 511 missing .* 1 extra \(a\.weight\)"):
        MepmaModel(MepmaOptions(weights=str(tmp_path / "a.pth")), device="cpu")


def test_half_floats_need_a_gpu(weights: str) -> None:
    with pytest.raises(ConfigError, match="float16 needs a CUDA device"):
        MepmaModel(MepmaOptions(weights=weights, precision="float16"), device="cpu")


@pytest.mark.parametrize("device", ["cuda:99", "toaster"])
def test_a_device_that_is_not_there(weights: str, device: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot use the device '{device}'"):
        MepmaModel(MepmaOptions(weights=weights), device=device)


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_close_and_slow_cpus_are_named(
    model: MepmaModel,
    weights: str,
    pair: tuple[Image8, Image8],
    native: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("streamfuse.registration.mepma._cpu_computes_bf16", lambda: native)
    with caplog.at_level(logging.WARNING, logger="streamfuse"):
        reduced = MepmaModel(MepmaOptions(weights=weights, precision="bfloat16"), device="cpu")
    assert ("no bfloat16" in caplog.text) is not native
    if native:
        return
    ir, vis = pair[0][:24, :24], pair[1][:24, :24]
    difference = reduced.fuse(ir, vis).astype(int) - model.fuse(ir, vis)
    assert np.abs(difference).mean() < 3
    found, wanted = reduced.register(ir, vis), model.register(ir, vis)
    assert found.flow is not None
    assert wanted.flow is not None
    assert np.abs(found.flow - wanted.flow).mean() < 0.5


@pytest.mark.gpu
def test_the_gpu_agrees_within_two_grey_levels(
    model: MepmaModel, weights: str, pair: tuple[Image8, Image8]
) -> None:
    registration, fused = model.register_and_fuse(*pair)
    on_gpu, fused_on_gpu = MepmaModel(MepmaOptions(weights=weights), device="cuda").register_and_fuse(*pair)
    assert on_gpu.flow is not None
    assert registration.flow is not None
    assert np.abs(fused_on_gpu.astype(int) - fused).max() <= 2
    assert np.abs(on_gpu.flow - registration.flow).mean() < 0.05


def shifted(image: Image8, dx: float, dy: float) -> Image8:
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    moved = cv2.warpAffine(image, matrix, (image.shape[1], image.shape[0]), borderMode=cv2.BORDER_REPLICATE)
    return moved.astype(np.uint8)


def test_edge_agreement_tells_aligned_from_displaced(shared_data: Path) -> None:
    root = shared_data / "data" / "roadscene" / "test_public"
    scores: dict[str, list[float]] = {"aligned": [], "8 px": [], "upside down": []}
    for path in sorted((root / "ir").glob("*.png")):
        ir = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        vis = cv2.imread(str(root / "vis" / path.name), cv2.IMREAD_GRAYSCALE)
        assert ir is not None
        assert vis is not None
        everywhere = torch.ones(1, 1, *ir.shape, dtype=torch.bool)
        cases = {"aligned": ir, "8 px": shifted(ir.astype(np.uint8), 6, -5), "upside down": ir[::-1].copy()}
        for case, picture in cases.items():
            found = edge_agreement(
                as_tensor(picture.astype(np.uint8)), as_tensor(vis.astype(np.uint8)), everywhere
            )
            assert found is not None
            assert 0 <= found <= 1
            scores[case].append(found)
    means = {case: float(np.mean(values)) for case, values in scores.items()}
    assert means["aligned"] > 0.35 > means["8 px"] > means["upside down"]
    assert means["upside down"] < 0.15


def test_edge_agreement_ignores_polarity_and_knows_perfection(pair: tuple[Image8, Image8]) -> None:
    picture = as_tensor(pair[1])
    everywhere = torch.ones_like(picture, dtype=torch.bool)
    assert edge_agreement(picture, picture, everywhere) == pytest.approx(1, abs=1e-4)
    assert edge_agreement(1 - picture, picture, everywhere) == pytest.approx(1, abs=1e-4)
    assert edge_agreement(picture, torch.zeros_like(picture), everywhere) is None
    assert edge_agreement(picture, picture, torch.zeros_like(everywhere)) is None


def test_published_field_points_where_the_features_came_from(
    model: MepmaModel, pair: tuple[Image8, Image8]
) -> None:
    """The total displacement warps the picture as the three views warp features."""
    found = model.register(*pair)
    with torch.inference_mode():
        views = model._network.align(*model._network.encode(*map(as_tensor, pair)))
    picture = cv2.GaussianBlur(pair[0], (0, 0), 4)
    three = views.warp(as_tensor(picture.astype(np.uint8)))[0, 0].numpy() * 255
    assert found.flow is not None
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]].astype(np.float32)
    one = cv2.remap(
        picture,
        columns + found.flow[..., 0],
        rows + found.flow[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    inner = (slice(12, -12), slice(12, -12))
    assert np.abs(one[inner].astype(float) - three[inner]).mean() < 1.5
    torch.testing.assert_close(
        total_flow(views)[0].permute(1, 2, 0), torch.from_numpy(found.flow), rtol=0, atol=1e-3
    )
