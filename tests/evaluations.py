"""Sets of pictures that `streamfuse eval` judges."""

import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamfuse.cli import eval as command
from streamfuse.errors import StreamfuseError
from streamfuse.evaluation.sets import EvaluationSet

STEMS = ("FLIR_04735", "FLIR_06307", "FLIR_06570")
FOLDERS = ("ir", "ir_move", "vis", "paper_fus_rgb", "paper_ir_reg")
CROP = np.s_[100:170, 150:246]


def run(*args: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(dest="command", required=True))
    parsed = parser.parse_args(["eval", *map(str, args)])
    return int(parsed.run(parsed))


@pytest.fixture(scope="module")
def public(shared_data: Path) -> Path:
    return shared_data / "data" / "roadscene" / "test_public"


@pytest.fixture(scope="module")
def small(public: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real pictures cut to 96x70, so that a test takes a moment."""
    root = tmp_path_factory.mktemp("small")
    for folder in FOLDERS:
        (root / folder).mkdir()
        for stem in STEMS:
            image = cv2.imread(str(public / folder / f"{stem}.png"), cv2.IMREAD_UNCHANGED)
            cv2.imwrite(str(root / folder / f"{stem}.png"), image[CROP])
    return root


@pytest.fixture
def one(small: Path) -> EvaluationSet:
    return EvaluationSet(ir=small / "ir", vis=small / "vis", fused={"paper": small / "paper_fus_rgb"})


def complaint(*args: object) -> str:
    with pytest.raises(StreamfuseError) as caught:
        run(*args)
    return str(caught.value)
