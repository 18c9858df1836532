"""Weight files: converted, written, found, verified; and the commands around them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from streamfuse.cli import main
from streamfuse.errors import ConfigError, WeightsError
from streamfuse.nn import weights as weights_module
from streamfuse.nn.checkpoint import Checkpoint
from streamfuse.nn.convert import import_weights
from streamfuse.nn.mepma import MEPMA
from streamfuse.nn.models import MODELS, build_model, fit_checkpoint, load_model, own_state, recognise
from streamfuse.nn.weights import bundled_names, find_weights, save_weights

DEAD = [f"deformable_transformation.deformation.Decoder.mobilenetv4_block{s}.conv" for s in (1, 2, 3, 4)]


@pytest.fixture(scope="module")
def authors_file(shared_data: Path) -> Path:
    return shared_data / "golden" / "mepma" / "checkpoint_pickled_module.pth"


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the package's own weights."""
    folder = tmp_path / "bundled"
    folder.mkdir()
    monkeypatch.setattr(weights_module, "BUNDLED", folder)
    return folder


def small(path: Path) -> Path:
    save_weights({"a": torch.ones(2)}, path, model="mepma", provenance={"what": "a test"})
    return path


# --- import -------------------------------------------------------------------------------------------


def test_import_save_load_gives_equal_outputs(authors_file: Path, tmp_path: Path) -> None:
    imported = import_weights(authors_file, tmp_path / "first.safetensors")
    direct = load_model("mepma", weights=authors_file)
    first = load_model("mepma", weights=imported.weights.path)
    save_weights(own_state(first), tmp_path / "second.safetensors", model="mepma", provenance={})
    second = load_model("mepma", weights=tmp_path / "second.safetensors")
    pictures = torch.rand(2, 1, 1, 24, 32)
    with torch.inference_mode():
        outputs = [network(*pictures, aligned=False) for network in (direct, first, second)]
    for field in ("fused", "flow_a", "flow_f", "registered_ir"):
        wanted = getattr(outputs[0], field)
        assert all(torch.equal(getattr(out, field), wanted) for out in outputs[1:]), field


def test_what_an_import_reports_and_records(authors_file: Path, tmp_path: Path) -> None:
    done = import_weights(authors_file, tmp_path / "a.safetensors")
    assert (done.model, done.tensors, done.values) == ("mepma", 511, 7_736_779 - 1_567_680)
    assert done.unused == [f"{name}.{i}.{p}" for name in DEAD for i in (0, 2) for p in ("bias", "weight")]
    assert len(done.counters) == 54
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["model"] == "mepma"
    assert record["source"] == authors_file.name
    assert record["source_sha256"] == find_weights(authors_file).sha256
    assert record["dropped_as_unused"] == done.unused
    found = find_weights(tmp_path / "a.safetensors")
    assert found.sha256 == record["sha256"]
    assert found.provenance == record
    assert set(load_file(tmp_path / "a.safetensors")) == set(own_state(build_model("mepma")))


def test_half_precision_stays_half(shared_data: Path, tmp_path: Path) -> None:
    import_weights(shared_data / "golden" / "mepma" / "checkpoint.safetensors", tmp_path / "a.safetensors")
    assert {tensor.dtype for tensor in load_file(tmp_path / "a.safetensors").values()} == {torch.float16}
    assert {p.dtype for p in load_model("mepma", weights=tmp_path / "a.safetensors").parameters()} == {
        torch.float32
    }


def test_nothing_is_overwritten_unasked(authors_file: Path, tmp_path: Path) -> None:
    out = small(tmp_path / "a.safetensors")
    before = out.read_bytes()
    with pytest.raises(WeightsError, match=r"a\.safetensors exists already; .*--force"):
        import_weights(authors_file, out)
    assert out.read_bytes() == before
    import_weights(authors_file, out, overwrite=True)
    assert out.read_bytes() != before
    with pytest.raises(WeightsError, match="exists already; give another one with -o"):
        import_weights(out, overwrite=True)


def test_the_default_output_lies_beside_the_file(authors_file: Path, tmp_path: Path) -> None:
    source = tmp_path / "best.pth"
    source.write_bytes(authors_file.read_bytes())
    assert import_weights(source).weights.path == tmp_path / "best.safetensors"


def test_a_file_that_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "evil.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(WeightsError, match=r"os\.system"):
        import_weights(tmp_path / "evil.pkl")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pkl"]


# --- fitting ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return own_state(build_model("mepma"))


def checkpoint(tensors: dict[str, torch.Tensor]) -> Checkpoint:
    return Checkpoint(path=Path("some.pth"), tensors=tensors, format="pickle")


def test_own_names_pass_unchanged(ours: dict[str, torch.Tensor]) -> None:
    fitted = fit_checkpoint(checkpoint(ours), network="mepma")
    assert fitted.tensors.keys() == ours.keys()
    assert not fitted.unused
    assert recognise(checkpoint(ours)) == "mepma"


def test_every_misfit_is_listed_at_once(ours: dict[str, torch.Tensor]) -> None:
    tensors = dict(ours)
    del tensors["fusion.mix.0.weight"]
    tensors["head_ir.0.bias"] = torch.zeros(7)
    tensors["stray"] = torch.zeros(1)
    tensors["head_vis.0.bias"] = torch.full((32,), torch.nan)
    with pytest.raises(WeightsError) as caught:
        fit_checkpoint(checkpoint(tensors), network="mepma")
    message = str(caught.value)
    assert message.startswith("some.pth: does not fit mepma: ")
    assert "1 missing (fusion.mix.0.weight)" in message
    assert "1 extra (stray)" in message
    assert "1 misshapen (head_ir.0.bias: (7,) instead of (32,))" in message
    assert "1 not finite (head_vis.0.bias)" in message


def test_a_long_list_is_cut(ours: dict[str, torch.Tensor]) -> None:
    with pytest.raises(WeightsError, match=r"511 missing \(.* and 491 more\)"):
        fit_checkpoint(checkpoint({}), network="mepma")


def test_counters_of_profilers_are_dropped(ours: dict[str, torch.Tensor]) -> None:
    tensors = {**ours, "total_ops": torch.zeros(1), "fusion.total_params": torch.zeros(1)}
    assert fit_checkpoint(checkpoint(tensors), network="mepma").counters == [
        "fusion.total_params",
        "total_ops",
    ]


@pytest.mark.parametrize("name", MODELS.names())
def test_each_network_is_recognised_by_its_own_tensors(name: str) -> None:
    assert recognise(checkpoint(own_state(build_model(name)))) == name


def test_a_stranger_is_not_recognised() -> None:
    with pytest.raises(
        WeightsError, match=r"some\.pth: 1 tensors of no known network \(.*mepma.*\), for example x\.y"
    ):
        recognise(checkpoint({"x.y": torch.zeros(1)}))


# --- finding ------------------------------------------------------------------------------------------


def test_bundled_weights_by_name(bundled: Path) -> None:
    small(bundled / "one.safetensors")
    assert bundled_names() == ["one"]
    found = find_weights("one")
    assert found.path == bundled / "one.safetensors"
    assert found.name == "one"
    assert found.provenance["what"] == "a test"


def test_an_unknown_name_lists_the_known(bundled: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights 'two': .*\(none\)"):
        find_weights("two")
    small(bundled / "one.safetensors")
    with pytest.raises(WeightsError, match=r"no weights 'two': .*\(one\)"):
        find_weights("two")


def test_bundled_weights_need_a_record(bundled: Path) -> None:
    small(bundled / "one.safetensors").with_suffix(".json").unlink()
    with pytest.raises(WeightsError, match=r"provenance record one\.json is missing"):
        find_weights("one")


def test_a_path_needs_none(tmp_path: Path) -> None:
    path = small(tmp_path / "a.safetensors")
    path.with_suffix(".json").unlink()
    assert find_weights(path).provenance == {}


def test_a_json_file_beside_a_foreign_checkpoint_is_none_of_ours(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "best.pth")
    (tmp_path / "best.json").write_text('{"learning_rate": 1e-4}')
    assert find_weights(tmp_path / "best.pth").provenance == {}


def test_a_wrong_checksum_is_an_error(tmp_path: Path) -> None:
    path = small(tmp_path / "a.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"a\.safetensors: wrong checksum"):
        find_weights(path)
    with pytest.raises(WeightsError, match="wrong checksum"):
        load_model("mepma", weights=path)


@pytest.mark.parametrize("record", ["", "[]", "{", '{"model": "mepma"}', "\xff"])
def test_a_damaged_record_is_an_error(tmp_path: Path, record: str) -> None:
    path = small(tmp_path / "a.safetensors")
    path.with_suffix(".json").write_text(record, encoding="latin-1")
    with pytest.raises(WeightsError, match=r"a\.json: "):
        find_weights(path)


@pytest.mark.parametrize("name", bundled_names())
def test_what_comes_with_the_package_is_whole(name: str) -> None:
    found = find_weights(name)
    assert found.size < 16e6
    assert found.provenance["model"] in MODELS.names()
    load_model(found.provenance["model"], weights=name)


def test_saving_converts_floats_and_nothing_else(tmp_path: Path) -> None:
    tensors = {"f": torch.ones(3, 2).t(), "i": torch.arange(3)}
    save_weights(tensors, tmp_path / "a.safetensors", model="mepma", provenance={}, dtype=torch.float16)
    found = load_file(tmp_path / "a.safetensors")
    assert found["f"].dtype == torch.float16
    assert torch.equal(found["i"], tensors["i"])
    assert tensors["f"].dtype == torch.float32


def test_saving_where_it_cannot(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"written as \.safetensors files"):
        save_weights({}, tmp_path / "a.pth", model="mepma", provenance={})
    with pytest.raises(WeightsError, match=r"cannot write .*No such file or directory"):
        save_weights({}, tmp_path / "absent" / "a.safetensors", model="mepma", provenance={})


# --- loading ------------------------------------------------------------------------------------------


def test_a_loaded_network_is_ready_for_inference(authors_file: Path) -> None:
    network = load_model("mepma", weights=authors_file)
    assert isinstance(network, MEPMA)
    assert not network.training
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_bundled_default_weights_are_used(bundled: Path, ours: dict[str, torch.Tensor]) -> None:
    with pytest.raises(WeightsError, match="no weights of mepma come with the package"):
        load_model("mepma")
    save_weights(ours, bundled / "mepma.safetensors", model="mepma", provenance={})
    assert torch.equal(own_state(load_model("mepma"))["fusion.mix.0.weight"], ours["fusion.mix.0.weight"])


def test_an_unknown_network_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown model 'mepna'; did you mean 'mepma'"):
        load_model("mepna")


# --- commands -----------------------------------------------------------------------------------------


def test_import_show_list(
    authors_file: Path, tmp_path: Path, bundled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.safetensors"
    assert main(["weights", "import", str(authors_file), "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "network mepma" in printed
    assert "511 tensors, 6,169,099 values" in printed
    assert "left out 16 tensors" in printed
    assert all(f"{name}.0.weight" in printed for name in DEAD)
    assert main(["weights", "show", str(out)]) == 0
    printed = capsys.readouterr().out
    assert find_weights(out).sha256 in printed
    assert "(as recorded)" in printed
    assert main(["weights", "list"]) == 0
    assert "no weights come with the package" in capsys.readouterr().out
    small(bundled / "one.safetensors")
    assert main(["weights", "list"]) == 0
    assert capsys.readouterr().out.startswith("one ")


def test_what_is_no_weight_file_is_not_shown_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clip.mkv").write_bytes(b"no tensors in here" * 10)
    assert main(["weights", "show", str(tmp_path / "clip.mkv")]) == 2
    told = capsys.readouterr()
    assert "clip.mkv: no checkpoint; known are safetensors" in told.err
    assert told.out == ""


def test_a_bad_file_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evil.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert main(["weights", "import", str(tmp_path / "evil.pkl")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "os.system" in error
    assert main(["weights", "import", str(tmp_path / "evil.pkl"), "--model", "mepna"]) == 2
    assert "did you mean 'mepma'" in capsys.readouterr().err


def test_model_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "info", "mepma", "--size", "32x24"]) == 0
    printed = capsys.readouterr()
    assert "alignment.scales.4" in printed.out
    assert "6,163,467" in printed.out
    assert printed.out.count("time here: ") == 2
    assert main(["model", "info", "mepma", "--size", "640x480", "--no-time", "--json"]) == 0
    full, fusion = json.loads(capsys.readouterr().out)
    assert full["macs"] > 1.8 * fusion["macs"]
    assert full["seconds"] is None


def test_model_info_of_what_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "info", "mepma", "--size", "8x8", "--no-time"]) == 2
    assert "at least 16x16" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["model", "info", "mepma", "--size", "640"])
    assert caught.value.code == 2
    assert "'640' is not a size like 640x480" in capsys.readouterr().err


def test_parsing_imports_nothing_heavy() -> None:
    code = (
        "import argparse, sys\n"
        "from streamfuse.cli import model, weights\n"
        "subparsers = argparse.ArgumentParser().add_subparsers()\n"
        "model.add_parser(subparsers), weights.add_parser(subparsers)\n"
        "assert not {'torch', 'cv2', 'numpy', 'kornia'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
