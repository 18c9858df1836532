"""Checkpoint files made by tests."""

import hashlib
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn


def small_module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(conv=nn.Conv2d(1, 3, 3), norm=nn.BatchNorm2d(3), inner=nn.Sequential(nn.Linear(3, 2)))
    )


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def jittor_file(path: Path, payload: bytes) -> None:
    path.write_bytes(payload + hashlib.sha1(payload).digest() + b"HCAJSLHD")


def torch_zip(path: Path, payload: bytes, members: dict[str, bytes] | None = None) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", b"3\n")
        for name, data in (members or {}).items():
            archive.writestr(name, data)
