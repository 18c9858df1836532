"""The ME-PMA network computes what the reference computes, from either form of its checkpoint."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import streamfuse
from streamfuse.nn.mepma import MEPMA, MepmaOutput

SIZES = ("64x80", "72x100", "51x67")
FIELDS = {
    "aligned": ("features_ir", "features_vis", "fused", "recon_ir", "recon_vis"),
    "unaligned": ("flow_a", "flow_e", "flow_f", "warped_features_ir", "fused", "registered_ir"),
}
TOLERANCE = 1e-4
WARPED_TOLERANCE = 3e-4
"""These values reach 12, where the rounding of float32 alone is worth 1e-4."""


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> Path:
    return shared_data / "golden" / "mepma"


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict[str, torch.Tensor]:
    return load_file(golden / "expected.safetensors")


@pytest.fixture(scope="module", params=["checkpoint.safetensors", "checkpoint_pickled_module.pth"])
def network(request: pytest.FixtureRequest, golden: Path) -> Iterator[MEPMA]:
    loaded = streamfuse.load_model("mepma", weights=golden / request.param)
    assert isinstance(loaded, MEPMA)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield loaded
    torch.set_num_threads(threads)


def run(network: MEPMA, expected: dict[str, torch.Tensor], size: str, mode: str) -> MepmaOutput:
    with torch.inference_mode():
        out = network(expected[f"{size}.ir"], expected[f"{size}.vis"], aligned=mode == "aligned")
    assert isinstance(out, MepmaOutput)
    return out


@pytest.mark.parametrize("mode", FIELDS)
@pytest.mark.parametrize("size", SIZES)
def test_every_tensor_is_the_reference_s(
    network: MEPMA, expected: dict[str, torch.Tensor], size: str, mode: str
) -> None:
    out = run(network, expected, size, mode)
    recorded = {key.split(".")[2] for key in expected if key.startswith(f"{size}.{mode}.")}
    assert recorded == set(FIELDS[mode])
    for field in FIELDS[mode]:
        tolerance = WARPED_TOLERANCE if field == "warped_features_ir" else TOLERANCE
        torch.testing.assert_close(
            getattr(out, field), expected[f"{size}.{mode}.{field}"], rtol=0, atol=tolerance, msg=field
        )


def test_what_a_mode_does_not_compute_is_none(network: MEPMA, expected: dict[str, torch.Tensor]) -> None:
    aligned = run(network, expected, "51x67", "aligned")
    assert aligned.flow is None
    assert aligned.registered_ir is None
    unaligned = run(network, expected, "51x67", "unaligned")
    assert unaligned.recon_ir is None
    assert unaligned.recon_vis is not None
