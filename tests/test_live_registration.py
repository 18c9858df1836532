"""The `live` registrar: its matches, its fit, and what it does to pictures."""

import math
from importlib.resources import files

import av
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from streamfuse.calibration.calibration import RigCalibration
from streamfuse.errors import DataError
from streamfuse.frame import Registration, Status
from streamfuse.nn.live_registration import (
    LiveRegistration,
    Unshuffle,
    bounded,
    correlate,
    neighbourhood_mean,
    working_shape,
)
from streamfuse.registration.fit import SplineFit, evidence, holding, supported
from streamfuse.registration.live import LiveOptions, LiveRegistrar
from streamfuse.registration.live_geometry import stage_fit
from streamfuse.registration.working import FLOOR, LIMIT, WINDOW, normalise, sample, to_working
from streamfuse.sampling import pixel_grid
from streamfuse.warp import warp_infrared

SHAPE = (96, 128)
FREE = torch.tensor([-6.0, -6.0])
"""Penalties low enough to leave every field alone."""


@pytest.fixture
def network() -> LiveRegistration:
    torch.manual_seed(3)
    return LiveRegistration().eval()


def textured(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.GaussianBlur(rng.integers(0, 256, shape).astype(np.uint8), (0, 0), 1.5) * 2


class TestCorrelate:
    @pytest.mark.parametrize("size", [(9, 37), (8, 8), (3, 17)])
    @pytest.mark.parametrize("radius", [1, 3])
    def test_is_the_inner_product_at_every_offset(self, size: tuple[int, int], radius: int) -> None:
        fixed, moving = torch.randn(2, 5, *size), torch.randn(2, 5, *size)
        padded = F.pad(moving, (radius,) * 4)
        side = range(2 * radius + 1)
        h, w = size
        expected = [(fixed * padded[:, :, y : y + h, x : x + w]).sum(1) for y in side for x in side]
        torch.testing.assert_close(correlate(fixed, moving, radius), torch.stack(expected, dim=-1))

    def test_gradient(self) -> None:
        fixed = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
        moving = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda a, b: correlate(a, b, 1), (fixed, moving))


@pytest.mark.parametrize("step", [1, 2])
def test_neighbourhood_mean_is_a_zero_padded_box(step: int) -> None:
    evidence_in = torch.randn(2, 7, 10, 4)
    planes = evidence_in.permute(0, 3, 1, 2)
    expected = F.avg_pool2d(planes, 5, stride=step, padding=2).permute(0, 2, 3, 1)
    torch.testing.assert_close(neighbourhood_mean(evidence_in, 5, step), expected)


def test_descriptors_keep_their_direction_and_stay_below_one() -> None:
    x = torch.randn(1, 8, 4, 4) * 50
    short = bounded(x)
    assert short.norm(dim=1).max() < 1
    torch.testing.assert_close(F.normalize(short, dim=1), F.normalize(x, dim=1))


class TestDecode:
    def peak(self, network: LiveRegistration, dx: float, dy: float) -> torch.Tensor:
        offsets = network.fine.moments[:, :2]
        return (-((offsets - torch.tensor([dx, dy])) ** 2).sum(-1) / 0.5).view(1, 1, 1, -1)

    @given(dx=st.floats(-2, 2), dy=st.floats(-2, 2))
    @settings(max_examples=30, deadline=None)
    def test_a_clear_peak_is_found_between_the_cells(self, dx: float, dy: float) -> None:
        network = LiveRegistration()
        matches = network.fine.decode(self.peak(network, dx, dy))
        cell = network.config.fine.cell
        assert torch.allclose(matches.mean.flatten() / cell, torch.tensor([dx, dy]), atol=0.1)
        assert matches.precision[0, 0].item() > 0.1

    def test_the_surroundings_correct_place_and_trust(self) -> None:
        network = LiveRegistration()
        plain = network.fine.decode(self.peak(network, 1, 0))
        correction = torch.tensor([0.25, -0.5, math.log(2)]).view(1, 3, 1, 1)
        better = network.fine.decode(self.peak(network, 1, 0), correction)
        cell = network.config.fine.cell
        moved = (better.mean - plain.mean).flatten() / cell
        assert torch.allclose(moved, torch.tensor([0.25, -0.5]), atol=1e-5)
        assert torch.allclose(better.precision, 2 * plain.precision)

    def test_no_evidence_weighs_nothing(self, network: LiveRegistration) -> None:
        matches = network.fine.decode(torch.zeros(1, 1, 1, 49))
        assert matches.precision.abs().max() < 1e-6
        assert matches.mean.isfinite().all()

    def test_an_edge_knows_only_its_normal(self, network: LiveRegistration) -> None:
        offsets = network.fine.moments[:, :2]
        ridge = (-(offsets[:, 0] ** 2) * 2).view(1, 1, 1, -1)
        xx, xy, yy = network.fine.decode(ridge).precision.flatten().tolist()
        assert xx > 0.05
        assert abs(yy) < xx / 100
        assert abs(xy) < xx / 100


class TestFit:
    def fitter(self) -> tuple[SplineFit, torch.Tensor]:
        fitter = SplineFit((304, 400), (38, 50), pitch=8, offset=1.5)
        y, x = torch.meshgrid(torch.arange(38) * 8 + 1.5, torch.arange(50) * 8 + 1.5, indexing="ij")
        return fitter, torch.stack([x, y])

    def certain(self, cells: tuple[int, int], value: float = 1.0) -> torch.Tensor:
        return torch.tensor([value, 0.0, value]).view(1, 3, 1, 1).expand(1, 3, *cells)

    @given(a=st.lists(st.floats(-0.05, 0.05), min_size=4, max_size=4), t=st.floats(-20, 20))
    @settings(max_examples=15, deadline=None)
    def test_affine_fields_are_free(self, a: list[float], t: float) -> None:
        fitter, at = self.fitter()
        u = torch.einsum("ij,jhw->ihw", torch.tensor(a).view(2, 2), at)[None] + t
        fit = fitter(u, self.certain(fitter.cells), log_penalty=torch.tensor([3.0, 6.0]))
        assert (fitter.field(fit.coefficients) - u).abs().max() < 0.15
        dense = fitter.dense(fit.coefficients, torch.arange(304), torch.arange(400))
        assert dense.shape == (1, 2, 304, 400)

    def test_smooth_fields_are_followed_and_a_strong_ridge_forbids_them(self) -> None:
        fitter, at = self.fitter()
        u = torch.stack([2 * torch.sin(at[1] / 40), 2 * torch.cos(at[0] / 50)])[None]
        follow = fitter(u, self.certain(fitter.cells), log_penalty=FREE)
        assert (fitter.field(follow.coefficients) - u).norm(dim=1).mean() < 0.1
        stiff = fitter(u, self.certain(fitter.cells), log_penalty=torch.tensor([9.0, 20.0]))
        assert (fitter.field(stiff.coefficients) - u).norm(dim=1).mean() > 1

    def test_outliers_are_left_out_and_known_as_such(self) -> None:
        fitter, _ = self.fitter()
        u = torch.full((1, 2, *fitter.cells), 3.0)
        wrong = u.clone()
        wrong[:, :, 10:20, 10:20] += 25
        fit = fitter(wrong, self.certain(fitter.cells), log_penalty=torch.tensor([2.0, 8.0]))
        assert (fitter.field(fit.coefficients) - u).norm(dim=1).mean() < 0.3
        assert fit.weights[0, 10:20, 10:20].max() < 0.1 < 0.9 < fit.weights[0, 30:].min()

    def test_an_uncertain_direction_does_not_pull(self) -> None:
        fitter, _ = self.fitter()
        target = torch.zeros(1, 2, *fitter.cells)
        target[:, 1] = 8
        target[:, 0] = 2
        only_x = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, *fitter.cells)
        field = fitter.field(fitter(target, only_x, log_penalty=torch.zeros(2)).coefficients)
        torch.testing.assert_close(field[:, 0], target[:, 0], atol=0.05, rtol=0)
        assert field[:, 1].abs().max() < 1e-3

    def test_a_prior_holds_where_there_is_nothing_else(self) -> None:
        fitter, at = self.fitter()
        known = torch.stack([3 + 0.01 * at[0], -0.02 * at[1]])[None]
        prior = fitter.project(known), torch.full((1, *fitter.cells), 0.05)
        nothing = torch.zeros(1, 3, *fitter.cells)
        fit = fitter(torch.zeros_like(known), nothing, log_penalty=torch.zeros(2), prior=prior)
        assert (fitter.field(fit.coefficients) - known).abs().max() < 0.3

    def test_can_be_trained_through(self) -> None:
        fitter, _ = self.fitter()
        target = torch.randn(1, 2, *fitter.cells, requires_grad=True)
        precision = self.certain(fitter.cells).clone().requires_grad_()
        penalty = torch.zeros(2, requires_grad=True)
        fit = fitter(target, precision, log_penalty=penalty)
        fitter.field(fit.coefficients).square().sum().backward()
        for tensor in (target, precision, penalty):
            assert tensor.grad is not None
            assert tensor.grad.isfinite().all()
            assert tensor.grad.abs().sum() > 0

    def test_evidence_grows_with_information_and_agreement(self) -> None:
        fitter, _ = self.fitter()
        u = torch.zeros(1, 2, *fitter.cells)

        def judged(target: torch.Tensor, precision: torch.Tensor) -> torch.Tensor:
            fit = fitter(target, precision, log_penalty=torch.zeros(2))
            return evidence(fit, precision, supported(fit, precision, None).information)

        strong, weak = self.certain(fitter.cells, 1.0), self.certain(fitter.cells, 0.01)
        torn = torch.randn(u.shape, generator=torch.Generator().manual_seed(0)) * 12
        clean, faint, noisy = judged(u, strong), judged(u, weak), judged(torn, strong)
        assert clean.shape == (1, 3)
        assert (clean > faint)[0, :2].all()
        assert clean[0, 2] > noisy[0, 2] + 0.3

    def test_a_hundred_poor_frames_do_not_outvote_a_good_one(self) -> None:
        """The left half was seen well; then smoke tells a tenth as much, the same falsehood each time."""
        fitter, _ = self.fitter()
        true, false = torch.zeros(1, 2, *fitter.cells), torch.full((1, 2, *fitter.cells), 3.0)
        coefficients, known = (
            torch.zeros(1, 2, fitter.y.count, fitter.x.count),
            torch.full(true[:, 0].shape, 0.01),
        )
        for frame in range(101):
            precision = self.certain(fitter.cells, 0.1).clone()
            if frame == 0:
                precision[..., :25] = 1.0
            target = true if frame == 0 else false
            held = coefficients, holding(known, precision)
            fit = fitter(target, precision, log_penalty=torch.tensor([0.0, 4.0]), prior=held)
            coefficients, (known, renewed) = fit.coefficients, supported(fit, precision, known)
            if frame == 0:
                assert renewed > 0.9
        left, right = (fitter.field(coefficients)[..., part].mean() for part in (np.s_[:20], np.s_[30:]))
        assert left < 1.0
        assert right > 2.5
        fit = fitter(
            false,
            self.certain(fitter.cells),
            log_penalty=torch.tensor([0.0, 4.0]),
            prior=(coefficients, holding(known, self.certain(fitter.cells))),
        )
        assert (
            fitter.field(fit.coefficients)[..., :20].mean() > 2.0
        )  # seen as well again, it is believed at once


class TestWorking:
    @given(h=st.integers(32, 1200), w=st.integers(32, 1600))
    def test_shape(self, h: int, w: int) -> None:
        rows, columns = working_shape((h, w))
        assert rows % 16 == columns % 16 == 0
        assert rows >= 32 <= columns
        assert rows * columns < 170_000
        assert rows <= h + 16

    def test_normalise_ignores_gain_and_offset(self) -> None:
        picture = textured(SHAPE).astype(np.float32)
        other = normalise(picture * 0.5 + 60)
        assert np.corrcoef(normalise(picture).ravel(), other.ravel())[0, 1] > 0.99
        flat = normalise(np.full(SHAPE, 90, np.uint8))
        assert np.abs(flat).max() < 1e-3

    def test_to_working_keeps_what_fits(self) -> None:
        picture = textured(SHAPE)
        assert to_working(picture, SHAPE) is picture
        assert to_working(picture, (48, 64)).shape == (48, 64)


class TestRegistrar:
    @pytest.mark.parametrize("shape", [(32, 32), (97, 131), (480, 640)])
    def test_any_size(self, network: LiveRegistration, shape: tuple[int, int]) -> None:
        found = LiveRegistrar(LiveOptions(), network=network).register(textured(shape), textured(shape, 1))
        assert found.flow is not None
        assert found.flow.shape == (*shape, 2)
        assert found.flow.dtype == np.float32
        assert found.flow.flags.c_contiguous
        assert np.isfinite(found.flow).all()
        assert 0 <= found.confidence <= 1
        assert found.status is Status.OK
        assert not found.warm

    def test_sizes_may_change_from_call_to_call(self, network: LiveRegistration) -> None:
        registrar = LiveRegistrar(LiveOptions(), network=network)
        first = registrar.register(textured(SHAPE), textured(SHAPE, 1)).flow
        registrar.register(textured((64, 64)), textured((64, 64), 1))
        again = registrar.register(textured(SHAPE), textured(SHAPE, 1)).flow
        np.testing.assert_array_equal(first, again)

    @pytest.mark.parametrize("bad", [((64, 64), (64, 65)), ((16, 64), (16, 64))])
    def test_pictures_that_cannot_be(self, network: LiveRegistration, bad: tuple) -> None:
        with pytest.raises(DataError, match=r"of one size|of at least 32"):
            LiveRegistrar(LiveOptions(), network=network).register(*(np.zeros(s, np.uint8) for s in bad))

    @pytest.mark.parametrize("kind", ["flow", "matrix"])
    def test_a_prior_is_where_the_search_starts(self, network: LiveRegistration, kind: str) -> None:
        """A network that sees nothing gives back the prior, scaled to the working picture and out again."""
        network.confidence.bias.data.fill_(9.0)
        network.confidence.weight.data.zero_()
        matrix = np.array([[1.01, 0, 4], [0.005, 0.99, -3], [0, 0, 1]])
        shape = (480, 640)
        grid = pixel_grid(shape)
        flow = (cv2.perspectiveTransform(grid.reshape(1, -1, 2), matrix).reshape(grid.shape) - grid).astype(
            np.float32
        )
        field = {"flow": flow} if kind == "flow" else {"matrix": matrix}
        prior = Registration(status=Status.OK, confidence=1.0, **field)
        blank = np.full(shape, 100, np.uint8)
        network.fine.log_scale.data.fill_(-20)
        found = LiveRegistrar(LiveOptions(), network=network).register(blank, blank, prior=prior)
        assert found.warm
        assert found.flow is not None
        assert np.abs(found.flow - flow).max() < 0.6

    def test_a_prior_is_refined_whatever_comes_of_it(self, network: LiveRegistration) -> None:
        network.confidence.weight.data.zero_()
        network.confidence.bias.data.fill_(-3.0)
        registrar = LiveRegistrar(LiveOptions(), network=network)
        prior = Registration(status=Status.OK, confidence=1.0, matrix=np.eye(3))
        assert registrar.register(textured(SHAPE), textured(SHAPE, 1), prior=prior).warm

    @pytest.mark.parametrize("passes", [1, 2])
    def test_a_search_in_pieces_finds_what_one_at_once_finds(
        self, network: LiveRegistration, passes: int
    ) -> None:
        registrar = LiveRegistrar(LiveOptions(passes=passes), network=network)
        ir, vis, valid = textured(SHAPE), textured(SHAPE, 1), np.full(SHAPE, 255, np.uint8)
        valid[:, :20] = 0
        whole, pieces = registrar.register(ir, vis, valid=valid), []
        for piece in registrar.search(ir, vis, valid=valid):
            pieces.append(piece)
            registrar.register(vis, textured(SHAPE, len(pieces)), prior=whole)  # the next frame's work
        assert pieces[:-1] == [None] * (2 + 3 * passes)
        assert pieces[-1] is not None
        np.testing.assert_array_equal(pieces[-1].flow, whole.flow)
        assert (pieces[-1].confidence, pieces[-1].warm) == (whole.confidence, False)

    def test_the_fit_belongs_to_the_matches(self, network: LiveRegistration) -> None:
        for stage in (network.coarse, network.fine):
            picture = torch.randn(1, 1, 304, 400)
            with torch.inference_mode():
                matches = stage(picture, picture)
            assert stage_fit((304, 400), stage.config).cells == matches.mean.shape[2:]


class TestBundledWeights:
    """What the weights that ship can do, on pictures made here."""

    def test_known_shift_of_one_modality(self) -> None:
        registrar = LiveRegistrar(LiveOptions())
        shape = (304, 400)
        scene = cv2.GaussianBlur(
            np.random.default_rng(1).integers(0, 256, (38, 50)).astype(np.float32), (0, 0), 1.0
        )
        scene = cv2.resize(scene, shape[::-1], interpolation=cv2.INTER_NEAREST)
        picture = np.clip(cv2.GaussianBlur(scene, (0, 0), 1.0), 0, 255).astype(np.uint8)
        moved = np.asarray(sample(picture, pixel_grid(shape) + np.array([5, -4], np.float32)), np.uint8)
        found = registrar.register(moved, picture)
        assert found.flow is not None
        error = np.linalg.norm(found.flow - np.array([-5, 4], np.float32), axis=-1)
        assert error.mean() < 1.0
        assert found.confidence > 0.5

    def test_nothing_to_see_is_not_trusted(self) -> None:
        registrar = LiveRegistrar(LiveOptions())
        blank = np.random.default_rng(2).normal(100, 1.5, (304, 400)).astype(np.uint8)
        assert registrar.register(blank, textured((304, 400))).confidence < 0.5


def test_unshuffle_is_the_pixel_unshuffle() -> None:
    x = torch.randn(2, 1, 6, 10)
    assert torch.equal(Unshuffle()(x), F.pixel_unshuffle(x, 2))


def test_reduced_precision_moves_no_picture_by_a_grey_level() -> None:
    samples = files("streamfuse") / "samples"
    clips = [av.open(str(samples / f"street-{name}.mkv")) for name in ("ir", "vis")]
    first = [next(iter(clip.decode(video=0))) for clip in clips]
    vis = first[1].to_ndarray(format="gray")
    ir = cv2.resize(first[0].to_ndarray(format="gray"), vis.shape[::-1])
    full, half = (
        LiveRegistrar(LiveOptions(precision=precision)).register(ir, vis)
        for precision in ("float32", "bfloat16")
    )
    assert full.flow is not None
    assert half.flow is not None
    assert 0 < np.linalg.norm(full.flow - half.flow, axis=-1).mean() < 0.1
    calibration = RigCalibration.identity(ir_size=vis.shape[::-1], vis_size=vis.shape[::-1])
    pictures = [warp_infrared(ir, found, calibration, vis.shape)[0] for found in (full, half)]
    assert cv2.absdiff(*pictures).mean() < 1
    assert abs(full.confidence - half.confidence) < 0.05


@given(seed=st.integers(0, 50), low=st.integers(0, 200), span=st.integers(1, 55))
@settings(max_examples=20, deadline=None)
def test_normalise_is_zero_mean_and_unit_contrast_over_the_window(seed: int, low: int, span: int) -> None:
    image = np.random.default_rng(seed).integers(low, low + span, (40, 48)).astype(np.uint8)
    exact = image.astype(np.float64)
    mean = cv2.blur(exact, (WINDOW, WINDOW))
    variance = cv2.blur(exact * exact, (WINDOW, WINDOW)) - mean**2
    expected = np.clip((exact - mean) / np.sqrt(variance + FLOOR**2), -LIMIT, LIMIT)
    for picture in (image, image.astype(np.float32)):
        np.testing.assert_allclose(normalise(picture), expected, atol=1e-4)
