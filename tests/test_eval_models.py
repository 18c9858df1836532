"""Registrars and fusers judged directly: the rows mean what they say, whatever the model."""

import json
from pathlib import Path

import numpy as np
import pytest

from streamfuse.cli import main
from streamfuse.errors import ConfigError, DataError
from streamfuse.evaluation.judge import TRIVIAL_FUSIONS
from streamfuse.evaluation.models import Pair, evaluate_models, make_fuser, make_registrar
from streamfuse.evaluation.reading import read_true_field
from streamfuse.evaluation.report_html import render_html
from streamfuse.evaluation.results import beaten_by_trivial
from streamfuse.frame import Flow, Image8, Mask, Registration, Status
from streamfuse.metrics.picture import grey_from_rgb
from streamfuse.pictures import read_picture, write_picture
from streamfuse.registry import Options


class Oracle:
    """A registrar that was told the answer, and in `off` pixels of it."""

    Options = Options

    def __init__(self, flow: Flow, off: float = 0.0) -> None:
        self._flow = flow + np.float32([off, 0])

    def register(
        self, ir: Image8, vis: Image8, *, valid: Mask | None = None, prior: Registration | None = None
    ) -> Registration:
        assert prior is None, "every pair starts cold"
        assert ir.shape == vis.shape == self._flow.shape[:2]
        return Registration(status=Status.OK, confidence=1.0, flow=self._flow)


@pytest.fixture(scope="module")
def pair(shared_data: Path) -> Pair:
    """A real pair with a known deformation."""
    root = shared_data / "data" / "roadscene" / "warp_truth"
    file = sorted((root / "disp").glob("*.npz"))[0]
    flow, known = read_true_field(file)
    ir, vis, truth = (
        np.asarray(read_picture(root / folder / f"{file.stem}.png"), dtype=np.uint8)
        for folder in ("ir_warp", "vis", "ir")
    )
    return Pair(name=file.stem, ir=ir, vis=vis, ir_truth=truth, flow_truth=flow, known=known)


def test_registrars_are_judged_by_the_known_field(pair: Pair) -> None:
    assert pair.flow_truth is not None
    registrars = {
        "oracle": Oracle(pair.flow_truth),
        "2 px off": Oracle(pair.flow_truth, 2.0),
        "nothing": make_registrar("none"),
    }
    evaluation = evaluate_models([pair], registrars=registrars, families=["registration", "epe"], samples=1)
    means = evaluation.means()
    assert set(means) == {*registrars, "unregistered"}
    assert means["oracle"]["epe"]["epe_mean"] < 1e-4
    assert means["2 px off"]["epe"]["epe_mean"] == pytest.approx(2, abs=1e-3)
    assert means["nothing"] == means["unregistered"]
    assert means["oracle"]["registration"]["NCC"] > means["2 px off"]["registration"]["NCC"]
    assert "oracle" in render_html(evaluation)
    assert len(evaluation.sets[0].samples[0].overlays) == 4


def test_without_a_field_the_true_picture_judges(pair: Pair) -> None:
    assert pair.flow_truth is not None
    shown = Pair(name=pair.name, ir=pair.ir, vis=pair.vis, ir_truth=pair.ir_truth)
    registrars = {"2 px off": Oracle(pair.flow_truth, 2.0)}
    means = evaluate_models([shown], registrars=registrars, families=["epe"]).means()
    assert means["2 px off"]["epe"]["epe_mean"] == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("infrared", ["oracle", "truth", "unregistered"])
def test_all_fusers_get_the_same_infrared(pair: Pair, infrared: str) -> None:
    assert pair.flow_truth is not None
    evaluation = evaluate_models(
        [pair],
        registrars={"oracle": Oracle(pair.flow_truth)},
        fusers={"ours": make_fuser("max"), "mean": make_fuser("average")},
        infrared=infrared,
        families=["fusion"],
        samples=1,
    )
    means = evaluation.means()
    assert set(means) == {"ours", "mean", *TRIVIAL_FUSIONS}, "one trivial row each: of the same infrared"
    # The colour transform costs a rounding, and a fuser may blend towards the border of the overlap.
    for ours, trivial in (("ours", "max"), ("mean", "average")):
        for metric in ("SD", "SSIM", "VIF_std"):
            value = means[trivial]["fusion"][metric]
            assert means[ours]["fusion"][metric] == pytest.approx(value, rel=0.06)
    if infrared == "truth":
        assert means["copy-ir"]["fusion"]["SSIM_ir"] == pytest.approx(1)
        assert len(beaten_by_trivial(evaluation, "fusion")["ours"]["max"]) <= 3, "they are the same fusion"
    else:
        assert means["copy-ir"]["fusion"]["SSIM_ir"] < 0.97


def test_fused_pixels_outside_the_overlap_are_visible(pair: Pair) -> None:
    far = np.full((*pair.vis.shape[:2], 2), 10_000, np.float32)
    means = evaluate_models(
        [pair],
        registrars={"away": Oracle(far)},
        fusers={"f": make_fuser("max")},
        infrared="away",
        families=["film"],
    ).means()
    visible = grey_from_rgb(pair.vis)
    assert means["f"]["film"]["film_SD"] == pytest.approx(float(visible.std()))


def test_wrong_calls_are_explained(pair: Pair) -> None:
    with pytest.raises(ConfigError, match="unknown registrar 'ec'; did you mean 'ecc'"):
        make_registrar("ec")
    with pytest.raises(ConfigError, match=r"average.ir_wait: unknown option; did you mean 'ir_weight'"):
        make_fuser("average", ir_wait=0.3)
    with pytest.raises(DataError, match="'live' is not there; there is unregistered, truth"):
        evaluate_models([pair], infrared="live")
    with pytest.raises(ConfigError, match="'max' is the name of a trivial method"):
        evaluate_models([pair], fusers={"max": make_fuser("max")})
    with pytest.raises(DataError, match="no pairs"):
        evaluate_models([])
    plain = Pair(name="plain", ir=pair.ir, vis=pair.vis)
    with pytest.raises(DataError, match="plain: has other kinds of truth"):
        evaluate_models([pair, plain])
    cut = Pair(name="cut", ir=pair.ir[:-1], vis=pair.vis)
    with pytest.raises(DataError, match="cut: ir is"):
        evaluate_models([cut])


class TestCommand:
    @pytest.fixture
    def folders(self, pair: Pair, tmp_path: Path) -> Path:
        assert pair.ir_truth is not None
        for folder, image in (("move", pair.ir), ("vis", pair.vis), ("ir", pair.ir_truth)):
            (tmp_path / folder).mkdir()
            write_picture(tmp_path / folder / "a.png", image)
        return tmp_path

    def command(self, folders: Path, *more: str) -> int:
        given = ["--ir", folders / "move", "--vis", folders / "vis", "--ir-truth", folders / "ir", *more]
        return main(["eval", "models", *map(str, given)])

    def test_models_and_given_pictures_side_by_side(self, folders: Path) -> None:
        file = folders / "figures.json"
        asked = ["--registrars", "none", "--fusers", "laplacian", "--infrared", "truth", "--json", str(file)]
        perfect = [f"--registered=perfect={folders / 'ir'}", f"--fused=infrared={folders / 'ir'}"]
        assert self.command(folders, *asked, *perfect) == 0
        means = json.loads(file.read_text())["mean"]
        assert means["perfect"]["registration"]["NCC"] > means["none"]["registration"]["NCC"]
        assert means["infrared"]["fusion"]["MI_ir"] > means["laplacian"]["fusion"]["MI_ir"]

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            (["--registrars", "blokcs"], "blocks"),
            (["--fused", "paper"], "NAME=DIR"),
            (["--fused", "paper=nowhere"], "nowhere"),
            (["--fusers", "guided", "--infrared", "blocks"], "unregistered"),
            (["--fusers", "max"], "--fusers max: is shown anyway, as a trivial method; leave it out"),
            (["--fusers", "guided", "--pictures", "-1"], "--pictures -1: must be at least 0"),
            ([], "nothing to judge: give --registrars or --fusers"),
        ],
    )
    def test_mistakes(
        self, folders: Path, capsys: pytest.CaptureFixture[str], wrong: list[str], said: str
    ) -> None:
        assert self.command(folders, *wrong) == 2
        assert said in capsys.readouterr().err

    def test_a_registrar_without_a_truth_is_not_left_unjudged(
        self, folders: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        inputs = ["--ir", str(folders / "move"), "--vis", str(folders / "vis")]
        assert main(["eval", "models", *inputs, "--registrars", "none"]) == 2
        assert "--registrars none: judged by --ir-truth or --flow-truth" in capsys.readouterr().err
        fused = ["--registrars", "none", "--fusers", "laplacian", "--infrared", "none"]
        assert main(["eval", "models", *inputs, *fused]) == 0
