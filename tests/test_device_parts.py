"""What the device worker is made of, each part against its twin on the CPU."""

import cv2
import numpy as np
import pytest
import torch
from device_rigs import CALIBRATIONS, soft, tensor

from streamfuse.calibration.calibration import RigCalibration
from streamfuse.device.estimator import Found
from streamfuse.device.filter import JUMPED, WITHHELD, FilterState
from streamfuse.device.filter import FieldFilter as DeviceFilter
from streamfuse.device.laplacian import LaplacianFuser as DeviceLaplacian
from streamfuse.device.live import PeopleFuser as DevicePeople
from streamfuse.device.mepma import EdgeAgreement
from streamfuse.device.picture import faded, luma, replace_luma
from streamfuse.device.pixels import Normalise, Resize
from streamfuse.device.rig import Rigs
from streamfuse.device.solve import DeviceFit
from streamfuse.flow import resample
from streamfuse.frame import Registration, Status
from streamfuse.fusion import colour, overlap
from streamfuse.fusion.decisions import DecisionOptions
from streamfuse.fusion.laplacian import LaplacianFuser
from streamfuse.fusion.people import PeopleFuser
from streamfuse.nn.live_fusion import LiveFusion
from streamfuse.nn.models import load_model
from streamfuse.registration.field_filter import FieldFilter
from streamfuse.registration.fit import SplineFit, holding
from streamfuse.registration.mepma import edge_agreement
from streamfuse.registration.working import normalise, to_working
from streamfuse.warp import warp_infrared


def test_luma_and_its_replacement_are_exactly_those_of_the_cpu(
    rng: np.random.Generator,
) -> None:
    rgb = rng.integers(0, 256, (200, 300, 3)).astype(np.uint8)
    rgb[:100] = rgb[:100] // 128 * 255  # saturated colours, which leave the cube soonest
    y = rng.integers(0, 256, (200, 300)).astype(np.uint8)
    wide = torch.from_numpy(rgb.astype(np.int32))
    np.testing.assert_array_equal(luma(wide).numpy(), colour.luma(rgb))
    replaced = replace_luma(wide, torch.from_numpy(y.astype(np.int32)))
    np.testing.assert_array_equal(replaced.numpy(), colour.replace_luma(rgb, y))


def test_the_overlap_is_faded_as_on_the_cpu(rng: np.random.Generator) -> None:
    ir, vis = (rng.integers(0, 256, (120, 160)).astype(np.uint8) for _ in range(2))
    valid = np.full((120, 160), 255, np.uint8)
    valid[:30], valid[:, 150:], valid[60:64, 70:75] = 0, 0, 0
    found = faded(tensor(ir), tensor(vis), tensor(valid) > 0)[0, 0].numpy()
    np.testing.assert_array_equal(found, overlap.prepare_infrared(ir, vis, valid))


@pytest.mark.parametrize("shape", [(240, 320), (123, 157)])
@pytest.mark.parametrize("select", ["activity", "max_abs"])
def test_laplacian_bands_are_those_of_the_cpu(
    rng: np.random.Generator, shape: tuple[int, int], select: str
) -> None:
    """To the grey level where all is covered; beside a hole its continuation may round another way."""
    options = LaplacianFuser.Options(select=select)  # type: ignore[arg-type]
    even = shape[0] // 4 * 4, shape[1] // 4 * 4
    ir, vis = (np.asarray(cv2.resize(soft(rng, even), shape[::-1]), np.uint8) for _ in range(2))
    valid = np.full(shape, 255, np.uint8)
    for holes in (0, 1):
        valid[: 20 * holes], valid[:, shape[1] - 31 * holes :], valid[60:64, 70 : 70 + 5 * holes] = 0, 0, 0
        wanted = LaplacianFuser(options).fuse(ir, vis, valid=valid).astype(int)
        fuser = DeviceLaplacian(shape, options, device="cpu")
        found = fuser(tensor(ir), tensor(vis), tensor(valid) > 0)[0, 0].numpy()
        assert (found != wanted).mean() <= 5e-3 * holes


def test_people_are_raised_as_on_the_cpu(rng: np.random.Generator) -> None:
    """To the grey level but for single pixels where the mask ends, whatever the network thinks of people."""
    shape = (123, 157)
    ir, vis = (np.asarray(cv2.resize(soft(rng, (120, 156)), shape[::-1]), np.uint8) for _ in range(2))
    valid = np.full(shape, 255, np.uint8)
    valid[:, 140:] = 0
    cpu = PeopleFuser(DecisionOptions(precision="float32"))
    network = load_model(LiveFusion.NAME)
    assert isinstance(network, LiveFusion)
    device = DevicePeople(network, shape, device=torch.device("cpu"))
    for bias in (-9.0, 0.0, 9.0):
        for one in (network, cpu._decisions._network):
            with torch.no_grad():
                one.leave.bias[2] = bias
        cpu.reset()
        wanted = cpu.fuse(ir, vis, valid=valid).astype(int)
        with torch.inference_mode():
            found = device(tensor(ir), tensor(vis), tensor(valid) > 0, device.fresh(1))[0, 0].numpy()
        assert np.mean(np.abs(found - wanted) > 1) <= 5e-3


def test_small_motion_fields_are_enlarged_as_on_the_cpu(rng: np.random.Generator) -> None:
    calibration = RigCalibration.identity(ir_size=(320, 240), vis_size=(640, 480))
    rig = Rigs(calibration, device="cpu")
    small = rng.normal(0, 3, (*rig.motion_shape, 2)).astype(np.float32)
    found = rig.motion(torch.from_numpy(small)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, resample(small, (480, 640)), atol=1e-3)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((480, 640), (304, 400)),
        ((96, 128), (48, 64)),
        ((310, 399), (304, 400)),  # one side shrinks, the other grows
        ((304, 390), (304, 400)),
        ((37, 50), (32, 48)),
    ],
)
def test_working_pictures_are_those_of_opencv(
    rng: np.random.Generator, source: tuple[int, int], target: tuple[int, int]
) -> None:
    picture = soft(rng, source)
    how = cv2.INTER_AREA if target[0] < source[0] else cv2.INTER_LINEAR
    working = to_working(picture, target)
    resized = Resize(source, target, how, device="cpu")(tensor(picture))[0, 0].numpy()
    assert np.abs(resized - working).max() <= 1
    normal = Normalise(target, device="cpu")(tensor(working))[0, 0].numpy()
    np.testing.assert_allclose(normal, normalise(working), atol=1e-3)


@pytest.mark.parametrize("name", CALIBRATIONS)
@pytest.mark.parametrize("zoom", [1, 4])
def test_the_infrared_is_warped_as_on_the_cpu(rng: np.random.Generator, name: str, zoom: int) -> None:
    """Bilinear for matching, bicubic for showing; zoom 4: finer than the visible, so averaged down first."""
    calibration = CALIBRATIONS[name](zoom)
    ir = soft(rng, (calibration.ir_size[1], calibration.ir_size[0]))
    shape = (calibration.vis_size[1], calibration.vis_size[0])
    flow = cv2.resize(rng.normal(0, 4, (4, 5, 2)).astype(np.float32), shape[::-1])
    rig = Rigs(calibration, device="cpu")
    prepared, place = rig.prepared(tensor(ir)), rig.at(torch.tensor([0]))
    brought = calibration.bring_infrared(ir)
    warped = warp_infrared(ir, Registration(status=Status.OK, confidence=1, flow=flow), calibration, shape)
    field = torch.from_numpy(flow).permute(2, 0, 1)[None]
    found = rig.bring(prepared, place), rig.warp(prepared, field, place)
    for (picture, holds), (wanted, valid) in zip(found, (brought, warped), strict=True):
        assert (255 * holds[0, 0].numpy() != valid).mean() < 1e-3
        assert np.abs(picture[0, 0].numpy() - wanted)[valid > 0].max() <= 3
        assert np.abs(picture[0, 0].numpy() - wanted).mean() < 0.5


@pytest.mark.parametrize("seen", ["all of it", "one corner", "nothing"])
def test_the_fit_without_factorisation_is_the_fit(seen: str) -> None:
    torch.manual_seed(3)
    shape, cells, log_penalty = (304, 400), (38, 50), torch.tensor([0.8, 3.9])
    places = {"pitch": 8.0, "offset": 3.5}
    precision = torch.rand(1, 3, *cells) * torch.tensor([2.0, 0.2, 2.0]).view(1, 3, 1, 1)
    if seen != "all of it":
        precision[..., 8:, :], precision[..., 10:] = 0, 0
    if seen == "nothing":
        precision.zero_()
    target = 5 + torch.randn(1, 2, *cells)
    known = 4 * torch.rand(1, *cells) ** 4
    prior = torch.randn(1, 2, 11, 13), holding(known, precision)
    for known in (None, prior):
        fits = [
            fit(target, precision, log_penalty=log_penalty, prior=known)
            for fit in (
                SplineFit(shape, cells, **places),
                DeviceFit(shape, cells, **places, log_penalty=log_penalty, device="cpu"),
            )
        ]
        torch.testing.assert_close(fits[1].coefficients, fits[0].coefficients, atol=1e-3, rtol=1e-4)


def test_fields_are_filtered_as_on_the_cpu(rng: np.random.Generator) -> None:
    """Noise, a slip of one frame, a step, a drift, frames that give nothing: verdicts and fields agree."""
    shape = (48, 64)
    cpu, device = FieldFilter(), DeviceFilter(shape, device="cpu")
    held, known, verdicts = torch.zeros(1, 2, *shape), torch.tensor([False]), set()
    state = FilterState.fresh(1, device="cpu")
    for i in range(120):
        mean = (30.0 if i == 20 else 0.0) + (4.0 if i >= 40 else 0.0) + 0.02 * max(0, i - 70)
        flow = np.full((*shape, 2), mean, np.float32) + rng.normal(0, 0.03, 2).astype(np.float32)
        confidence, good = float(rng.uniform(0.3, 1)), i % 11 != 5
        found = Found(
            torch.from_numpy(flow).permute(2, 0, 1)[None], torch.tensor([confidence]), torch.tensor([True])
        )
        held_now, verdict = device.update(
            state,
            held,
            found,
            known=known,
            good=torch.tensor([good]),
            sure=torch.tensor([False]),
            flow_of=lambda code: code,
        )
        if good:
            told = cpu.update(Registration(status=Status.OK, confidence=confidence, flow=flow), shape)
            held, known = held_now, torch.tensor([True])
            verdicts.add(told)
            assert (told == "withheld", told == "jumped") == (verdict == WITHHELD, verdict == JUMPED)
        assert cpu.field is not None
        assert cpu.field.flow is not None
        np.testing.assert_allclose(held[0].permute(1, 2, 0), cpu.field.flow, atol=1e-3)
    assert verdicts == {"started", "followed", "withheld", "jumped"}


def test_edge_agreement_is_that_of_the_registrar(rng: np.random.Generator) -> None:
    a, b = (tensor(soft(rng, (64, 80))) / 255 for _ in range(2))
    mask = torch.ones(1, 1, 64, 80, dtype=torch.bool)
    mask[..., :20] = False
    for other in (a, b, 0 * b):
        found, any_edges = EdgeAgreement(device="cpu")(a, other, mask)
        wanted = edge_agreement(a, other, mask)
        assert bool(any_edges) is (wanted is not None)
        assert float(found) == pytest.approx(wanted or 0.0, abs=1e-5)
