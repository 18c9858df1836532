"""Checkpoints that would run code, lie about their tensors, or are damaged are refused, and nothing runs."""

import contextlib
import copyreg
import io
import operator
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import jittor_file, small_module, torch_zip
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from streamfuse.errors import WeightsError
from streamfuse.nn.checkpoint import read_checkpoint

# --- what is refused ----------------------------------------------------------------------------------


class Reduced:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


class WithState:
    """Pickles as a call and a state for what it returns."""

    def __init__(self, function: Any, args: tuple[Any, ...], state: Any) -> None:
        self.parts = (function, args, state)

    def __reduce__(self) -> Any:
        return self.parts


def touch(marker: Path) -> str:
    return f"touch '{marker}'"


def text(value: str) -> bytes:
    """Instruction BINUNICODE."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def by_os_system(m: Path) -> bytes:
    return pickle.dumps({"w": Reduced(os.system, touch(m))})


def by_eval(m: Path) -> bytes:
    return pickle.dumps(Reduced(eval, f"open({str(m)!r}, 'w')"))


def by_exec(m: Path) -> bytes:
    return pickle.dumps(Reduced(exec, f"open({str(m)!r}, 'w')"))


def by_getattr_chain(m: Path) -> bytes:
    system = Reduced(getattr, Reduced(__import__, "os"), "system")
    caller = Reduced(operator.methodcaller, "__call__", touch(m))
    return pickle.dumps(Reduced(operator.call if sys.version_info >= (3, 11) else caller, system, touch(m)))


def by_lazy_map(m: Path) -> bytes:
    """No call at all: NEWOBJ makes map(os.system, [...]), and NEWOBJ of bytes runs through it."""
    made = b"cbuiltins\nmap\ncos\nsystem\n" + text(touch(m)) + b"\x85\x86\x81"
    return b"\x80\x02cbuiltins\nbytes\n" + made + b"\x85\x81."


def by_lazy_map_with_keywords(m: Path) -> bytes:
    """The same by NEWOBJ_EX."""
    made = b"cbuiltins\nmap\ncos\nsystem\n" + text(touch(m)) + b"\x85\x86}\x92"
    return b"\x80\x04cbuiltins\nbytes\n" + made + b"\x85}\x92."


def by_inst(m: Path) -> bytes:
    """INST, protocol 0."""
    return b"(S" + repr(touch(m)).encode() + b"\nios\nsystem\n."


def by_obj(m: Path) -> bytes:
    """OBJ, protocol 1."""
    return b"(cos\nsystem\n" + text(touch(m)) + b"o."


def by_text_protocol(m: Path) -> bytes:
    return b"cposix\nsystem\n(S" + repr(touch(m)).encode() + b"\ntR."


def by_stack_global(m: Path) -> bytes:
    """The name is put together from the memo: module and attribute never stand side by side."""
    return (
        b"\x80\x04"
        + text("system") + b"\x94" + b"0"
        + text("os") + b"\x94" + b"0"
        + b"h\x01h\x00\x93"
        + text(touch(m))
        + b"\x85R."
    )  # fmt: skip


def by_dotted_name(m: Path) -> bytes:
    """Protocol 4 looks dotted names up attribute by attribute: shutil.os.system."""
    return b"\x80\x04" + text("shutil") + text("os.system") + b"\x93" + text(touch(m)) + b"\x85R."


def by_setstate(m: Path) -> bytes:
    """BUILD gives a harmless object the method `os.system` as `__setstate__`, the next BUILD calls it."""
    return (
        b"\x80\x02cargparse\nNamespace\n)\x81}"
        + text("__setstate__") + b"cos\nsystem\n" + b"sb"
        + text(touch(m)) + b"b."
    )  # fmt: skip


def by_reduce_and_state(m: Path) -> bytes:
    return pickle.dumps(WithState(exec, (f"open({str(m)!r}, 'w')",), {"a": 1}))


def by_memo_swap(m: Path) -> bytes:
    """A name that may be called is memoized, then its place in the memo is taken by another."""
    return b"\x80\x02ccollections\nOrderedDict\nq\x000cos\nsystem\nq\x000h\x00" + text(touch(m)) + b"\x85R."


def by_nested_torch_load(m: Path) -> bytes:
    inner = io.BytesIO()
    torch.save(Reduced(os.system, touch(m)), inner)
    loader = torch.storage._load_from_bytes
    return pickle.dumps({"w": Reduced(loader, inner.getvalue())})


def by_copyreg(m: Path) -> bytes:
    """EXT1: the name comes from the registry of the running process."""
    return b"\x80\x02\x82\xf0" + text(touch(m)) + b"\x85R."


def by_object_array(m: Path) -> bytes:
    return pickle.dumps({"w": np.array([Reduced(os.system, touch(m))], dtype=object)})


def by_array_state(m: Path) -> bytes:
    """The attack hides among the arguments of a call that is allowed."""
    return pickle.dumps({"w": Reduced(np.dtype, Reduced(os.system, touch(m)))})


def by_runpy(m: Path) -> bytes:
    import runpy

    return pickle.dumps(Reduced(runpy._run_code, f"open({str(m)!r}, 'w')", {}))  # type: ignore[attr-defined]


def by_subprocess(m: Path) -> bytes:
    return pickle.dumps(Reduced(subprocess.check_output, ["touch", str(m)]))


TRICKS: dict[Callable[[Path], bytes], str] = {
    by_os_system: r"posix\.system",
    by_eval: r"builtins\.eval",
    by_exec: r"builtins\.exec",
    by_getattr_chain: r"builtins\.__import__",
    by_lazy_map: r"builtins\.map",
    by_lazy_map_with_keywords: r"NEWOBJ_EX",
    by_inst: r"INST \('os system'\)",
    by_obj: r"OBJ",
    by_text_protocol: r"posix\.system",
    by_stack_global: r"os\.system",
    by_dotted_name: r"shutil\.os\.system",
    by_setstate: r"argparse\.Namespace",
    by_reduce_and_state: r"builtins\.exec",
    by_memo_swap: r"os\.system",
    by_nested_torch_load: r"torch\.storage\._load_from_bytes",
    by_copyreg: r"EXT1",
    by_object_array: r"posix\.system|numpy dtype 'O8'",
    by_array_state: r"posix\.system",
    by_runpy: r"runpy\._run_code",
    by_subprocess: r"subprocess\.check_output",
}


@pytest.fixture
def registered_extension() -> Any:
    copyreg.add_extension("os", "system", 0xF0)
    yield
    copyreg.remove_extension("os", "system", 0xF0)


@pytest.mark.usefixtures("registered_extension")
@pytest.mark.parametrize("container", ["plain", "zip", "jittor", "legacy"])
@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: trick.__name__)
def test_code_in_a_pickle_is_named_and_not_run(
    tmp_path: Path, trick: Callable[[Path], bytes], container: str
) -> None:
    marker = tmp_path / "it-ran"
    payload = trick(marker)
    with contextlib.suppress(Exception):  # some tricks fail after they have run
        pickle.loads(payload)
    assert marker.exists(), "the trick works on the standard library, else this test shows nothing"
    marker.unlink()

    path = tmp_path / "a.pth"
    if container == "zip":
        torch_zip(path, payload)
    elif container == "jittor":
        jittor_file(path, payload)
    elif container == "legacy":
        head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + payload)
    else:
        path.write_bytes(payload)
    with pytest.raises(WeightsError, match=TRICKS[trick]) as caught:
        read_checkpoint(path)
    assert "nothing was run" in str(caught.value)
    assert str(path) in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"w": torch.ones(1), "hook": os.system}, r"posix\.system"),
        ({"w": torch.ones(1), "path": Path("a")}, r"pathlib"),
        ({"w": torch.ones(1), "module": os.path.join}, r"posixpath\.join"),
        ({"w": torch.ones(1), "args": Reduced(np.array, [1])}, r"numpy\.array"),
        ({"w": np.ones(2).view(np.ndarray).astype("U3")}, r"numpy dtype 'U3'"),
        ({"w": np.ma.masked_array([1.0])}, r"numpy\.ma"),
        ({"w": np.zeros(1, [("a", "f4")])}, r"numpy dtype 'V4'"),
    ],
)
def test_what_is_no_tensor_array_or_container_is_refused(tmp_path: Path, content: Any, named: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=named):
        read_checkpoint(tmp_path / "a.pth")


def tensor_pickle(
    pid: bytes, *, offset: int = 0, shape: bytes = b"K\x02\x85", stride: bytes = b"K\x01\x85"
) -> bytes:
    """{"w": tensor} in a storage with the persistent id `pid` (an instruction sequence)."""
    rebuilt = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + b"Q" + pickle.dumps(offset, 1)[:-1] + shape + stride
    )
    return b"\x80\x02}" + text("w") + rebuilt + b"\x89}tRs."


def storage_id(kind: bytes = b"ctorch\nFloatStorage\n", key: str = "0", numel: bytes = b"K\x02") -> bytes:
    return b"(" + text("storage") + kind + text(key) + text("cpu") + numel + b"t"


GOOD = {"archive/data/0": struct.pack("<2f", 1, 2)}


def test_the_hand_made_tensor_is_good(tmp_path: Path) -> None:
    torch_zip(tmp_path / "a.pth", tensor_pickle(storage_id()), GOOD)
    assert read_checkpoint(tmp_path / "a.pth").tensors["w"].tolist() == [1, 2]


BAD_TENSORS = {
    "beyond the storage": (tensor_pickle(storage_id(), offset=1), "beyond its storage"),
    "stride 0, a small file and a huge tensor": (
        tensor_pickle(storage_id(), shape=b"J\xff\xff\xff\x7f\x85", stride=b"K\x00\x85"),
        "beyond its storage",
    ),
    "negative stride": (tensor_pickle(storage_id(), stride=b"J\xff\xff\xff\xff\x85"), "damaged"),
    "shape of strings": (tensor_pickle(storage_id(), shape=text("2") + b"\x85"), "damaged"),
    "more dimensions than strides": (tensor_pickle(storage_id(), shape=b"K\x01K\x02\x86"), "damaged"),
    "storage of another type": (
        tensor_pickle(storage_id(kind=b"cos\nsystem\n")),
        r"a storage of type os\.system",
    ),
    "path as key": (tensor_pickle(storage_id(key="../../../etc/passwd")), r"under the key '\.\./"),
    "absolute path as key": (tensor_pickle(storage_id(key="/etc/passwd")), r"under the key '/etc/passwd'"),
    "key that is not there": (tensor_pickle(storage_id(key="7")), "storage archive/data/7 is missing"),
    "storage larger than its file": (tensor_pickle(storage_id(numel=b"J\x00\x00\x00\x40")), "has 8 bytes"),
    "storage smaller than its file": (
        tensor_pickle(storage_id(numel=b"K\x01"), shape=b"K\x01\x85"),
        "has 8 bytes",
    ),
    "negative storage": (tensor_pickle(storage_id(numel=b"J\xff\xff\xff\xff")), "damaged"),
    "persistent id of another kind": (tensor_pickle(text("evil")), "persistent object 'evil'"),
    "persistent id without end": (tensor_pickle(b"(" + text("storage") + b"t"), "persistent object a tuple"),
    "text persistent id": (b"\x80\x02Pevil\n.", "PERSID"),
    "tensor out of a list": (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(]K\x00K\x02\x85K\x01\x85\x89}tR.",
        "a tensor without storage",
    ),
    "a list that is called": (b"\x80\x02])R.", "a call of a list"),
    "filling a name": (
        b"\x80\x02ccollections\nOrderedDict\n}b.",
        r"setting the state of collections\.OrderedDict",
    ),
    "appending to a name": (
        b"\x80\x02ccollections\nOrderedDict\nK\x01a.",
        r"filling collections\.OrderedDict",
    ),
    "name out of numbers": (b"\x80\x04K\x01K\x02\x93.", "a name made of a int and a int"),
    "name with a newline": (b"\x80\x04" + text("os\n") + text("system") + b"\x93.", "a name made of"),
    "array of another class": (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncos\nsystem\nK\x00\x85U\x01b\x87R.",
        r"an array of class os\.system",
    ),
    "tuple as key": (b"\x80\x02})K\x01s.", "a tuple as key"),
    "empty": (b"", "no checkpoint|no known|damaged"),
    "without end": (b"\x80\x02}", "damaged"),
    "stack underflow": (b"\x80\x020.", "damaged"),
    "unknown memo": (b"\x80\x02h\x07.", "damaged"),
    "no tensor at all": (pickle.dumps({"a": 1}, 2), "no state dict"),
    "a number": (pickle.dumps(3, 2), "no state dict"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_damaged_and_crafted_tensors(tmp_path: Path, case: str) -> None:
    payload, message = BAD_TENSORS[case]
    torch_zip(tmp_path / "a.pth", payload, GOOD)
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(tmp_path / "a.pth")


def test_a_module_that_contains_itself_ends(tmp_path: Path) -> None:
    module = nn.Module()
    module.weight = nn.Parameter(torch.ones(1))
    module.again = module
    torch.save(module, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="has no end"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_module_tree_that_doubles_at_every_level_ends(tmp_path: Path) -> None:
    module: nn.Module = nn.Linear(1, 1)
    for _ in range(50):
        outer = nn.Module()
        outer.a = outer.b = module
        module = outer
    torch.save(module, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="has no end"):
        read_checkpoint(tmp_path / "a.pth")


def test_deep_nesting_does_not_overflow(tmp_path: Path) -> None:
    depth = 200_000
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02" + b"K\x01" + b"\x85" * depth + b".")
    with pytest.raises(WeightsError, match="no state dict"):
        read_checkpoint(tmp_path / "a.pkl")
    (tmp_path / "b.pkl").write_bytes(b"\x80\x02}K\x01" + b"\x85" * depth + b"K\x01s.")
    with pytest.raises(WeightsError, match="a tuple as key"):
        read_checkpoint(tmp_path / "b.pkl")


# --- damaged containers -------------------------------------------------------------------------------


def saved(path: Path) -> bytes:
    torch.save(small_module().state_dict(), path)
    return path.read_bytes()


def test_a_truncated_zip(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(saved(path)[:-200])
    with pytest.raises(WeightsError, match="damaged zip file"):
        read_checkpoint(path)


def test_a_changed_number_in_a_zip_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"w": torch.full((64,), 123.0)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(struct.pack("<f", 123.0)) + 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("keep", [-1, -50, 300])
def test_a_truncated_legacy_file(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.pth"
    torch.save(small_module().state_dict(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"damaged|has .* bytes"):
        read_checkpoint(path)


def test_a_changed_jittor_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    jittor_file(path, pickle.dumps({"w": np.full(9, 7.0)}, 4))
    data = bytearray(path.read_bytes())
    data[data.index(struct.pack("<d", 7.0))] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="Jittor checksum"):
        read_checkpoint(path)


def test_zip_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    good = tensor_pickle(storage_id())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", b"")
    with pytest.raises(WeightsError, match=r"0 data\.pkl"):
        read_checkpoint(path)
    torch_zip(path, good, {"other/data.pkl": good})
    with pytest.raises(WeightsError, match=r"2 data\.pkl"):
        read_checkpoint(path)
    torch_zip(path, good, {**GOOD, "archive/constants.pkl": b""})
    with pytest.raises(WeightsError, match="TorchScript"):
        read_checkpoint(path)
    torch_zip(path, good, {**GOOD, "archive/byteorder": b"big"})
    with pytest.raises(WeightsError, match="big-endian"):
        read_checkpoint(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", good)
        archive.writestr("archive/data/0", bytes(8))
    with pytest.raises(WeightsError, match="compressed"):
        read_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", good)
        archive.writestr("archive/data/0", bytes(8))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("archive/data/0", bytes(8))
    with pytest.raises(WeightsError, match="two members of one name"):
        read_checkpoint(path)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"cannot read the checkpoint .*No such file"):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match=r"cannot read the checkpoint .*directory"):
        read_checkpoint(tmp_path)
    path = tmp_path / "a.pth"
    for content in (b"\x89PNG\r\n\x1a\n" + bytes(99), b"hello world\n", b"<html></html>", bytes(600)):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="known are safetensors, PyTorch"):
            read_checkpoint(path)
    path.write_bytes(bytes(257) + b"ustar" + bytes(250))
    with pytest.raises(WeightsError, match="tar archive"):
        read_checkpoint(path)
    path.write_bytes(struct.pack("<Q", 10) + b'{"w":{"dty')
    with pytest.raises(WeightsError, match="damaged safetensors"):
        read_checkpoint(path)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("fuzz")
    module = small_module()
    for zipped in (True, False):
        torch.save(module, folder / f"{zipped}.pth", _use_new_zipfile_serialization=zipped)
    (folder / "a.pkl").write_bytes(pickle.dumps({"w": np.ones(3, np.float32)}, 4))
    with zipfile.ZipFile(folder / "True.pth") as archive:
        pickled = archive.read("True/data.pkl")
    return [*(path.read_bytes() for path in sorted(folder.iterdir())), pickled]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_damage_is_an_error_of_ours_or_harmless(
    originals: list[bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from(originals)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pth"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    with contextlib.suppress(WeightsError):
        read_checkpoint(path)
