"""Checkpoints in every form found in the wild are read."""

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import assert_same, jittor_file, small_module
from safetensors.torch import save_file
from torch import nn

from streamfuse.nn.checkpoint import read_checkpoint
from streamfuse.nn.models import fit_checkpoint

# --- what is read -------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("whole", [True, False], ids=["module", "state_dict"])
def test_torch_files(tmp_path: Path, zipped: bool, whole: bool) -> None:
    module = small_module()
    path = tmp_path / "a.pth"
    content = module if whole else module.state_dict()
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(path)
    assert found.format == ("PyTorch zip" if zipped else "PyTorch legacy")
    assert_same(found.tensors, dict(module.state_dict()))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_of_torch(tmp_path: Path, protocol: int) -> None:
    module = small_module()
    torch.save(module, tmp_path / "a.pth", pickle_protocol=protocol)
    assert_same(read_checkpoint(tmp_path / "a.pth").tensors, dict(module.state_dict()))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_awkward_tensors(tmp_path: Path, zipped: bool) -> None:
    base = torch.arange(24.0)
    wanted = {
        "view": base[3:15].view(3, 4),
        "transposed": base.view(4, 6).t(),
        "same_storage": base[::2],
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(7, dtype=torch.int64),
        "bf16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "f16": torch.tensor([1.5, -2.0], dtype=torch.float16),
        "f64": torch.tensor([1 / 3], dtype=torch.float64),
        "bool": torch.tensor([True, False]),
        "bytes": torch.tensor([0, 255], dtype=torch.uint8),
    }
    torch.save(wanted, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert_same(read_checkpoint(tmp_path / "a.pth").tensors, wanted)


def test_tensors_can_be_written_to(tmp_path: Path) -> None:
    torch.save(small_module().state_dict(), tmp_path / "a.pth")
    read_checkpoint(tmp_path / "a.pth").tensors["conv.weight"].add_(1)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("container", ["plain", "jittor"])
def test_pickled_arrays(tmp_path: Path, protocol: int, container: str) -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "strided": np.arange(10, dtype=np.int16)[::3],
        "big_endian": np.array([1.0, 2.0], dtype=">f4"),
        "scalar": np.array(3.5, dtype=np.float32),
        "empty": np.zeros((0, 2), np.float32),
        "half": np.array([0.5], np.float16),
    }
    payload = pickle.dumps(arrays, protocol)
    path = tmp_path / "a.pkl"
    if container == "jittor":
        jittor_file(path, payload)
    else:
        path.write_bytes(payload)
    found = read_checkpoint(path)
    assert found.format == ("Jittor pickle" if container == "jittor" else "pickle")
    wanted = {name: torch.from_numpy(a.astype(a.dtype.newbyteorder("="))) for name, a in arrays.items()}
    assert_same(found.tensors, wanted)


def test_safetensors(tmp_path: Path) -> None:
    state = dict(small_module().state_dict())
    save_file(state, tmp_path / "a.safetensors")
    assert_same(read_checkpoint(tmp_path / "a.safetensors").tensors, state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_are_taken_off(tmp_path: Path, prefix: str) -> None:
    state = small_module().state_dict()
    torch.save({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "a.pth")
    assert_same(read_checkpoint(tmp_path / "a.pth").tensors, dict(state))


def test_a_prefix_of_only_some_names_is_part_of_the_name(tmp_path: Path) -> None:
    state = {"module.a": torch.ones(1), "b": torch.ones(1)}
    torch.save(state, tmp_path / "a.pth")
    assert_same(read_checkpoint(tmp_path / "a.pth").tensors, state)


def test_a_pickled_data_parallel_module(tmp_path: Path) -> None:
    module = small_module()
    torch.save(nn.DataParallel(module), tmp_path / "a.pth")
    assert_same(read_checkpoint(tmp_path / "a.pth").tensors, dict(module.state_dict()))


@pytest.mark.parametrize("key", ["state_dict", "model", "params", "MTAN"])
def test_training_checkpoints_are_looked_into(tmp_path: Path, key: str) -> None:
    module = small_module()
    optimizer = torch.optim.Adam(module.parameters())
    module.conv(torch.rand(1, 1, 4, 4)).sum().backward()  # type: ignore[operator]
    optimizer.step()
    content = {
        "epoch": 3,
        "best": np.float64(0.25),
        "note": "a string",
        key: module.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, tmp_path / "a.pth")
    assert_same(read_checkpoint(tmp_path / "a.pth").tensors, dict(module.state_dict()))


def test_non_persistent_buffers_are_no_parameters(tmp_path: Path) -> None:
    module = nn.Module()
    module.register_buffer("kept", torch.ones(1))
    module.register_buffer("scratch", torch.ones(1), persistent=False)
    torch.save(module, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth").tensors.keys() == {"kept"}


def test_the_authors_file_without_their_package(shared_data: Path) -> None:
    golden = shared_data / "golden" / "mepma"
    whole = read_checkpoint(golden / "checkpoint_pickled_module.pth")
    stored = read_checkpoint(golden / "checkpoint.safetensors")
    counters = {name for name in whole.tensors if name.endswith(".num_batches_tracked")}
    assert len(counters) == 54
    assert_same(
        {name: tensor for name, tensor in whole.tensors.items() if name not in counters},
        {name: tensor.float() for name, tensor in stored.tensors.items()},
    )
    fitted = fit_checkpoint(whole, network="mepma")
    assert len(fitted.unused) == 16
    assert sum(whole.tensors[name].numel() for name in fitted.unused) == 1_567_680
    assert sum(tensor.numel() for tensor in fitted.tensors.values()) == 7_736_779 - 1_567_680
    assert not any(name == "Model" or name.startswith("Model.") for name in sys.modules)
