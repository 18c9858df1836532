"""The configuration file: what is accepted, and what a mistake is told."""

from pathlib import Path

import jsonschema
import pytest
import yaml

from streamfuse.config import apply_override, config_schema, dump_config, load_config, parse_config
from streamfuse.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("[!t]*.yaml"))
SOURCES = {"ir": {"kind": "file", "path": "a.mkv"}, "vis": {"kind": "file", "path": "b.mkv"}}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_bundled_configuration_loads(path: Path) -> None:
    config = load_config(path)
    assert config.ir.kind
    assert config.sinks


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_dump_reads_back_as_the_same_configuration(path: Path) -> None:
    config = load_config(path)
    assert parse_config(yaml.safe_load(yaml.safe_dump(dump_config(config)))) == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_bundled_configuration_fits_the_schema(path: Path) -> None:
    jsonschema.validate(yaml.safe_load(path.read_text()), config_schema())


def test_the_four_ready_configurations_are_there() -> None:
    assert {path.stem for path in CONFIGS} >= {"demo", "offline-m2vd", "live-rig", "robot-zmq"}


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"sources": SOURCES, "sink": []}, ["sink: unknown section; did you mean 'sinks'?"]),
        ({}, ["sources: missing"]),
        ({"sources": {**SOURCES, "viz": {}}}, ["sources.viz: unknown stream; did you mean 'vis'?"]),
        ({"sources": {"ir": SOURCES["ir"]}}, ["sources.vis:", "it is missing"]),
        (
            {"sources": SOURCES, "registration": {"model": "block"}},
            ["registration.model: unknown registrar 'block'; did you mean 'blocks'?", "ecc"],
        ),
        (
            {"sources": SOURCES, "pairing": {"driver": "both"}},
            ["pairing.driver:", "'ir', 'vis' or 'auto'", "got 'both'"],
        ),
        (
            {"sources": SOURCES, "pairing": {"offset_ms": "atuo"}},
            ["pairing.offset_ms: must be a number of milliseconds, auto or null", "got 'atuo'"],
        ),
        (
            {"sources": SOURCES, "pairing": {"windw_ms": 3}},
            ["pairing.windw_ms: unknown option; did you mean 'window_ms'?"],
        ),
        (
            {"sources": {**SOURCES, "ir": {"kind": "file", "path": "a", "agc": {"mod": "plateau"}}}},
            ["sources.ir.agc.mod: unknown option; did you mean 'mode'?"],
        ),
        ({"sources": SOURCES, "pipeline": {"ring": "many"}}, ["pipeline.ring:", "integer", "got 'many'"]),
        ({"sources": SOURCES, "pipeline": {"ring": 1}}, ["pipeline.ring:", "greater than or equal to 2"]),
        ({"sources": SOURCES, "worker": {"device": "gpu"}}, ["worker.device:", "got 'gpu'"]),
        ({"sources": SOURCES, "sinks": {"kind": "file"}}, ["sinks: must be a list"]),
        ({"sources": SOURCES, "sinks": [{"path": "x"}]}, ["sinks.0.kind: missing, one of"]),
        ({"sources": SOURCES, "calibration": 3}, ["calibration: must be the path"]),
    ],
)
def test_a_mistake_names_key_value_and_what_would_be_right(tree: dict, expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(tree, origin="rig.yaml")
    message = str(caught.value)
    assert message.startswith("rig.yaml: ")
    for part in expected:
        assert part in message


def test_all_mistakes_are_told_at_once() -> None:
    tree = {"sources": SOURCES, "pairing": {"driver": "x"}, "worker": {"device": "y"}, "foo": 1}
    with pytest.raises(ConfigError) as caught:
        parse_config(tree)
    assert len(str(caught.value).splitlines()) == 3


def test_override_reaches_sections_lists_and_missing_parents() -> None:
    tree = {"sinks": [{"kind": "file", "path": "a.mkv"}]}
    apply_override(tree, "sinks.0.path=b.mkv")
    apply_override(tree, "registration.model=ecc")
    apply_override(tree, "pairing.window_ms=12.5")
    assert tree == {
        "sinks": [{"kind": "file", "path": "b.mkv"}],
        "registration": {"model": "ecc"},
        "pairing": {"window_ms": 12.5},
    }


@pytest.mark.parametrize("override", ["novalue", "=3", "sinks.7.path=x", "a.b=[", "sinks.0.path.deep=1"])
def test_bad_override_is_refused_by_name(override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        apply_override({"sinks": [{"path": "a"}], "a": {}}, override)


def test_file_that_is_missing_or_not_yaml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_config(tmp_path / "nowhere.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(ConfigError, match=r"broken\.yaml: not valid YAML"):
        load_config(broken)
    broken.write_text("just text")
    with pytest.raises(ConfigError, match="must hold sections"):
        load_config(broken)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"fusion: {model: max}\nfusion: {model: average}\n", "'fusion' is given twice (line 2, column 1)"),
        (b"sources:\n\tir: a.mkv\n", "found character '\\t' that cannot start any token (line 2, column 1)"),
        (b"when: 2024-99-99\n", "month must be in 1..12"),
        (b"name: \xe4\n", "not a text file in UTF-8"),
    ],
)
def test_a_mistake_in_a_yaml_file_is_one_line_with_its_place(
    content: bytes, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_merge_keys_are_no_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "sources:\n  ir: &clip {kind: file, path: a.mkv}\n  vis:\n    <<: *clip\n    path: b.mkv\n"
    )
    assert load_config(path).vis.options.path == Path("b.mkv")


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("key", ["pairing.offset_ms", "pipeline.latency_budget_ms", "sources.ir.start_s"])
def test_numbers_must_be_finite(key: str, value: float) -> None:
    tree: dict[str, dict[str, object]] = {"sources": {name: dict(one) for name, one in SOURCES.items()}}
    apply_override(tree, f"{key}={value}".replace("=", "=."))
    with pytest.raises(ConfigError, match=rf"{key}.*finite number"):
        parse_config(tree)
