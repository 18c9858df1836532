"""Blocks of the networks against direct computation of what they are defined to be, and their gradients."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from streamfuse.errors import DataError
from streamfuse.nn.correlation import local_correlation
from streamfuse.nn.cost import count_cost, measure_seconds
from streamfuse.nn.mepma import MEPMA, total_flow
from streamfuse.nn.mepma.alignment import RestormerCorr, Upsampler, Views
from streamfuse.nn.models import MODELS, build_model
from streamfuse.nn.restormer import GDFN, MDTA, LayerNorm2d, RestormerBlock
from streamfuse.nn.uib import UniversalInvertedBottleneck
from streamfuse.nn.warp import compose, identity_grid, inside, warp


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    torch.manual_seed(1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def smooth(*shape: int, scale: int = 8) -> Tensor:
    """A picture without detail finer than `scale` pixels, in [0, 1]."""
    h, w = shape[-2:]
    coarse = torch.rand(*shape[:-2], h // scale + 2, w // scale + 2)
    return F.interpolate(coarse, size=(h, w), mode="bicubic", align_corners=True).clamp(0, 1)


# --- warp ---------------------------------------------------------------------------------------------


def test_zero_flow_is_the_identity() -> None:
    picture, flow = smooth(1, 3, 480, 640, scale=160), torch.zeros(1, 2, 480, 640)
    torch.testing.assert_close(warp(picture, flow), picture, rtol=0, atol=1e-6)
    # On white noise, what is left is the rounding of normalised float32 positions.
    noise = torch.rand(1, 1, 480, 640)
    torch.testing.assert_close(warp(noise, flow), noise, rtol=0, atol=1e-4)


def test_flow_pulls_in_pixels_with_dx_first() -> None:
    picture = torch.zeros(1, 1, 9, 11)
    picture[0, 0, 4, 7] = 1
    flow = torch.zeros(1, 2, 9, 11)
    flow[:, 0] = 3
    flow[:, 1] = -2
    found = warp(picture, flow)
    assert found[0, 0, 6, 4] == pytest.approx(1, abs=1e-5)
    assert float(found.sum()) == pytest.approx(1, abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31 - 1))
def test_warp_is_bilinear_with_replicated_border(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.random((height, width))
    flow = rng.normal(scale=4, size=(2, height, width))
    found = warp(torch.tensor(picture).float()[None, None], torch.tensor(flow).float()[None])[0, 0].numpy()
    x = np.clip(np.arange(width) + flow[0], 0, width - 1)
    y = np.clip(np.arange(height)[:, None] + flow[1], 0, height - 1)
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    top = picture[y0, x0] * (1 - (x - x0)) + picture[y0, x1] * (x - x0)
    bottom = picture[y1, x0] * (1 - (x - x0)) + picture[y1, x1] * (x - x0)
    np.testing.assert_allclose(found, top * (1 - (y - y0)) + bottom * (y - y0), atol=1e-4)


def test_positions_keep_float32_for_half_precision_pictures() -> None:
    picture = smooth(1, 1, 32, 640)
    flow = torch.full((1, 2, 32, 640), 0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = warp(picture.bfloat16(), flow)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), warp(picture.bfloat16().float(), flow), rtol=0, atol=4e-3)


def test_composition_is_one_warp_for_two() -> None:
    picture = smooth(1, 1, 60, 80, scale=16)
    first, then = (4 * smooth(1, 2, 60, 80, scale=20) - 2 for _ in range(2))
    one, two = warp(picture, compose(first, then)), warp(warp(picture, first), then)
    torch.testing.assert_close(one[..., 4:-4, 4:-4], two[..., 4:-4, 4:-4], rtol=0, atol=5e-3)


def test_composition_of_translations_adds_them() -> None:
    first, then = torch.zeros(2, 1, 2, 20, 20)
    first[:, 0], then[:, 1] = 3, -2
    total = compose(first, then)
    torch.testing.assert_close(total[:, 0], torch.full((1, 20, 20), 3.0))
    torch.testing.assert_close(total[:, 1], torch.full((1, 20, 20), -2.0))


def test_inside_marks_where_the_moving_picture_lies() -> None:
    flow = torch.zeros(1, 2, 4, 6)
    flow[:, 0] = 2
    assert inside(flow)[0, 0].tolist() == [[True] * 4 + [False] * 2] * 4
    assert inside(torch.zeros(1, 2, 4, 6)).all()


def test_identity_grid_is_x_then_y() -> None:
    grid = identity_grid(3, 5)
    assert grid[0, :, 2, 4].tolist() == [4, 2]


# --- blocks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [1, 2])
def test_correlation_by_its_definition(radius: int) -> None:
    x, y = torch.rand(2, 2, 5, 6, 7)
    found = local_correlation(x, y, radius=radius)
    side = 2 * radius + 1
    assert found.shape == (2, side**2, 6, 7)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            for r in range(6):
                for c in range(7):
                    hit = 0 <= r + dy < 6 and 0 <= c + dx < 7
                    wanted = (x[:, :, r, c] * y[:, :, r + dy, c + dx]).mean(1) if hit else torch.zeros(2)
                    channel = side * (dx + radius) + dy + radius
                    torch.testing.assert_close(found[:, channel, r, c], wanted)


def test_layer_norm_is_over_channels() -> None:
    x = torch.rand(2, 6, 3, 4)
    found = LayerNorm2d(6)(x)
    wanted = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_attention_by_its_definition() -> None:
    block = MDTA(8, heads=2)
    block.temperature.data = torch.tensor([0.5, 2.0]).view(2, 1, 1)
    x = torch.rand(1, 8, 5, 6)
    qkv = block.qkv_dwconv(block.qkv(x))[0].flatten(1)
    out = []
    for head in range(2):
        q, k, v = (qkv[third * 8 + head * 4 : third * 8 + head * 4 + 4] for third in range(3))
        q, k = q / q.norm(dim=1, keepdim=True), k / k.norm(dim=1, keepdim=True)
        out.append(((q @ k.T) * block.temperature[head, 0, 0]).softmax(1) @ v)
    wanted = block.project_out(torch.cat(out).view(1, 8, 5, 6))
    torch.testing.assert_close(block(x), wanted)


def test_gated_feed_forward_by_its_definition() -> None:
    block = GDFN(4, expansion=2)
    x = torch.rand(1, 4, 5, 6)
    y = block.dwconv(block.project_in(x))
    wanted = block.project_out(F.gelu(y[:, :8], approximate="none") * y[:, 8:])
    torch.testing.assert_close(block(x), wanted)


@pytest.mark.parametrize("replaced", [False, True])
def test_restormer_block_residuals(replaced: bool) -> None:
    block = RestormerBlock(8, residual_after_norm=replaced)
    x = torch.rand(1, 8, 4, 4)
    normed = block.norm1(x)
    y = (normed if replaced else x) + block.attn(normed)
    torch.testing.assert_close(block(x), y + block.ffn(block.norm2(y)))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_inverted_bottleneck(norm: type[nn.BatchNorm2d] | type[nn.InstanceNorm2d]) -> None:
    block = UniversalInvertedBottleneck(4, kernel=5, norm=norm).eval()
    x = torch.rand(2, 4, 9, 7)
    assert block(x).shape == x.shape
    convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.kernel_size[0], c.groups, c.out_channels) for c in convs] == [
        (5, 4, 4),
        (1, 1, 16),
        (5, 16, 16),
        (1, 1, 4),
    ]
    assert all(c.bias is None for c in convs)


def test_upsampler_fits_odd_sizes() -> None:
    up = Upsampler(4, 2)
    assert up(torch.rand(1, 4, 3, 5), (6, 10)).shape == (1, 2, 6, 10)
    assert up(torch.rand(1, 4, 3, 5), (7, 11)).shape == (1, 2, 7, 11)


GRADCHECKED: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "mdta": (MDTA(4, heads=2), (1, 4, 3, 4), 1),
    "gdfn": (GDFN(2, expansion=2), (1, 2, 3, 4), 1),
    "restormer": (RestormerBlock(4, heads=2, residual_after_norm=True), (1, 4, 3, 3), 1),
    "uib": (UniversalInvertedBottleneck(2, kernel=3, norm=nn.InstanceNorm2d), (1, 2, 4, 4), 1),
    "restormer_corr": (RestormerCorr(8), (1, 8, 3, 3), 2),
}


@pytest.mark.parametrize("name", GRADCHECKED)
def test_gradients(name: str) -> None:
    module, shape, inputs = GRADCHECKED[name]
    module = module.double()
    for parameter in module.parameters():
        parameter.data = torch.rand_like(parameter) - 0.5
    arguments = tuple(torch.rand(shape, dtype=torch.float64, requires_grad=True) for _ in range(inputs))
    assert torch.autograd.gradcheck(module, arguments)


def test_gradients_of_the_correlation() -> None:
    x, y = (torch.rand(1, 2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(local_correlation, (x, y))


def test_gradients_of_the_warp() -> None:
    """float32 positions allow no gradcheck: against central differences instead, away from the kinks."""
    picture = smooth(1, 1, 12, 14).requires_grad_()
    flow = (torch.rand(1, 2, 12, 14) * 0.4 + 0.3).requires_grad_()
    weight = torch.rand(1, 1, 12, 14)
    weight[..., -2:, :] = weight[..., -2:] = 0
    (warp(picture, flow) * weight).sum().backward()
    assert flow.grad is not None
    assert picture.grad is not None
    step = 0.05
    for channel, r, c in [(0, 3, 4), (1, 3, 4), (0, 8, 9), (1, 0, 0)]:
        bump = torch.zeros_like(flow)
        bump[0, channel, r, c] = step
        with torch.no_grad():
            change = ((warp(picture, flow + bump) - warp(picture, flow - bump)) * weight).sum() / (2 * step)
        assert float(flow.grad[0, channel, r, c]) == pytest.approx(float(change), abs=2e-4)
    # A warp is linear in the picture.
    other = torch.rand_like(picture)
    with torch.no_grad():
        linear = (warp(other, flow) * weight).sum()
    assert float((picture.grad * other).sum()) == pytest.approx(float(linear), rel=1e-4)


# --- the network --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mepma() -> MEPMA:
    torch.manual_seed(0)
    network = build_model("mepma")
    assert isinstance(network, MEPMA)
    return network


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (16, 45), (33, 18)])
def test_any_size_from_16_on(mepma: MEPMA, size: tuple[int, int]) -> None:
    ir, vis = torch.rand(2, 2, 1, *size)
    with torch.inference_mode():
        out = mepma(ir, vis, aligned=False)
    assert out.fused.shape == (2, 1, *size)
    assert out.flow is not None
    assert out.flow.shape == (2, 2, *size)
    assert torch.isfinite(out.fused).all()


@pytest.mark.parametrize(
    "shapes", [((1, 1, 15, 40),) * 2, ((1, 1, 40, 40), (1, 1, 40, 41)), ((1, 3, 40, 40),) * 2]
)
def test_pictures_that_do_not_fit(mepma: MEPMA, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(DataError, match=r"mepma needs"):
        mepma(torch.rand(shapes[0]), torch.rand(shapes[1]), aligned=True)


def test_pairs_of_a_batch_do_not_see_each_other(mepma: MEPMA) -> None:
    ir, vis = torch.rand(2, 2, 1, 32, 40)
    with torch.inference_mode():
        both = mepma(ir, vis, aligned=False)
        alone = mepma(ir[1:], vis[1:], aligned=False)
    torch.testing.assert_close(both.fused[1:], alone.fused, rtol=0, atol=1e-5)
    torch.testing.assert_close(both.flow_a[1:], alone.flow_a, rtol=0, atol=1e-4)


def test_total_flow_is_the_three_warps_in_one_and_in_dx_dy() -> None:
    picture = smooth(1, 1, 60, 80, scale=16)
    views = Views(*(4 * smooth(1, 2, 60, 80, scale=24) - 2 for _ in range(3)))
    one, three = warp(picture, total_flow(views)), views.warp(picture)
    torch.testing.assert_close(one[..., 6:-6, 6:-6], three[..., 6:-6, 6:-6], rtol=0, atol=8e-3)
    down = torch.zeros(1, 2, 60, 80)
    down[:, 0] = 5  # the reference's first channel is rows
    total = total_flow(Views(down, torch.zeros_like(down), torch.zeros_like(down)))
    torch.testing.assert_close(total, down.flip(1))


def test_everything_is_trained_through() -> None:
    torch.manual_seed(0)
    network = MEPMA().train()
    out = network(*torch.rand(2, 2, 1, 24, 24), aligned=False)
    recon_ir = network.head_ir(out.features_ir)
    (out.fused.mean() + out.flow.square().mean() + out.registered_ir.mean() + recon_ir.mean()).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None and "head_vis" not in name]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


# --- costs --------------------------------------------------------------------------------------------


def test_the_bill_of_mepma_is_the_published_one() -> None:
    full, fusion = count_cost("mepma", width=640, height=480)
    assert (full.mode, fusion.mode) == ("registration and fusion", "fusion only")
    assert 2 * full.macs / 1e9 == pytest.approx(548.7, abs=0.05)
    assert 2 * fusion.macs / 1e9 == pytest.approx(302.1, abs=0.05)
    gflop = {part.name: 2 * part.macs / 1e9 for part in full.parts}
    assert gflop["encoder.detail"] == pytest.approx(93.0, abs=0.05)
    assert sum(v for name, v in gflop.items() if name.startswith("alignment.")) == pytest.approx(
        246.6, abs=0.1
    )


@pytest.mark.parametrize("name", MODELS.names())
def test_parts_add_up(name: str) -> None:
    total = sum(parameter.numel() for parameter in build_model(name).parameters())
    for mode in count_cost(name, width=160, height=120):
        assert sum(part.macs for part in mode.parts) == mode.macs > 0
        assert 0 <= total - sum(part.parameters for part in mode.parts) < 100
        assert mode.peak_bytes > 4 * 160 * 120


def test_peak_memory_of_a_known_computation() -> None:
    from streamfuse.nn.cost import _PeakBytes

    x = torch.empty(1000, device="meta")
    with torch.inference_mode(), _PeakBytes() as memory:
        y = x + 1  # 4000 bytes alive
        z = y * 2  # 8000
        del y
        view = z.view(10, 100)  # holds nothing new
        del view
        z = z + 1  # 8000 for a moment
        z = z + 1
    assert memory.peak == 8000


def test_time_is_read_from_the_clock() -> None:
    class Ticking:
        """Every reading is 3 ms after the one before."""

        now = 0

        def now_ns(self) -> int:
            self.now += 3_000_000
            return self.now

        def wall_ns(self) -> int:
            raise NotImplementedError

        def sleep_ns(self, duration_ns: int, interrupt: object = None) -> bool:
            raise NotImplementedError

    seconds = measure_seconds("mepma", width=16, height=16, device="cpu", clock=Ticking())
    assert seconds == pytest.approx({"registration and fusion": 0.003, "fusion only": 0.003})
