"""Pipelines and rigs from files, mappings and Python objects, and what is said of anything else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from streamfuse.config import parse_config
from streamfuse.errors import ConfigError
from streamfuse.pipeline import Pipeline, Rigs

IR, VIS = [np.zeros((48, 64), np.uint8)] * 3, [np.zeros((48, 64, 3), np.uint8)] * 3
PLAIN = {"registration": {"model": "none"}, "fusion": {"model": "max"}, "worker": {"device": "cpu"}}
STREAMS = {"ir": {"kind": "python", "frames": IR}, "vis": {"kind": "python", "frames": VIS}}


def test_pictures_and_sinks_go_with_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rig.yaml"
    path.write_text(yaml.safe_dump(PLAIN))
    kept: list[Any] = []
    assert Pipeline.from_config(path, ir=IR, vis=VIS, sinks=[kept.append]).run().frames_out == len(kept) == 3


def test_pictures_take_the_place_of_cameras() -> None:
    camera = {"kind": "v4l2", "device": "/dev/video0", "rotate": 90}
    (frame, *_) = Pipeline.from_config(PLAIN | {"sources": {"ir": camera, "vis": camera}}, ir=IR, vis=VIS)
    assert frame.image.shape == (64, 48, 3)


def test_a_mapping_is_left_as_it_was() -> None:
    tree = PLAIN | {"sources": {"ir": {"rotate": 180}}, "sinks": []}
    before = repr(tree)
    Pipeline.from_config(tree, ir=IR, vis=VIS, sinks=[print])
    assert repr(tree) == before


@pytest.mark.parametrize(
    ("config", "given", "says"),
    [
        (None, {}, "configuration: must hold sections .* got None"),
        ([1], {}, r"configuration: must hold sections .* got \[1\]"),
        ({"sources": [1]}, {"ir": IR}, r"configuration: sources: must be a section, got \[1\]"),
        ({"sources": {"ir": 1}}, {"ir": IR}, r"configuration: sources\.ir: must be a section, got 1"),
        ({"sinks": {"kind": "file"}}, {"sinks": [print]}, "configuration: sinks: must be a list"),
        (PLAIN, {"sinks": print}, "sinks: must be a list of callables, got <built-in function print>"),
        (parse_config(PLAIN | {"sources": STREAMS}), {"ir": IR}, "not with a finished Config"),
    ],
)
def test_what_is_no_configuration_is_named(config: Any, given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Pipeline.from_config(config, **given)


def test_rigs_take_what_a_pipeline_takes(tmp_path: Path) -> None:
    tree = PLAIN | {"sources": STREAMS}
    rigs = Rigs({"mapping": tree, "config": parse_config(tree)})
    rigs.run()
    assert [p.report().frames_out for p in rigs.pipelines.values()] == [3, 3]
    path = tmp_path / "rear.yaml"
    path.write_text("registraton: {model: none}")
    with pytest.raises(
        ConfigError, match=rf"(?s)rear: {path}: registraton: unknown .*\nrear: .*sources: missing"
    ):
        Rigs({"rear": path})
    with pytest.raises(ConfigError, match="rigs: must be a section"):
        Rigs([tree])  # type: ignore[arg-type]
