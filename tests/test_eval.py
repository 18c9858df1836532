"""`streamfuse eval`: pictures judged, several sets, its reports."""

import base64
import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from evaluations import STEMS, run

from streamfuse.errors import ConfigError
from streamfuse.evaluation.judge import TRIVIAL_FUSIONS
from streamfuse.evaluation.results import best_rows, format_value
from streamfuse.evaluation.runner import evaluate
from streamfuse.evaluation.sets import EvaluationSet, load_sets
from streamfuse.metrics.panel import fusion_panel
from streamfuse.metrics.picture import grey_from_rgb


class Page(HTMLParser):
    """Collects the pictures of a page, whatever it would load from elsewhere, and checks the nesting."""

    VOID = frozenset({"meta", "img", "br", "line", "rect", "circle"})

    def __init__(self) -> None:
        super().__init__()
        self.images: list[str] = []
        self.captions: list[str] = []
        self.outside: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.images.append(str(values["src"]))
            self.captions.append(str(values["alt"]))
        links = (values.get("src"), values.get("href"))
        self.outside += [link for link in links if link and not link.startswith(("data:", "#"))]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_golden_table_through_the_command(public: Path, shared_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    code = run(
        *("--ir", public / "ir", "--vis", public / "vis", "--fused", f"paper={public / 'paper_fus_rgb'}"),
        *("--registered", f"paper={public / 'paper_ir_reg'}", "--ir-truth", public / "ir"),
        *("--families", "fusion,registration,epe", "--no-trivial", "--json", out),
    )
    assert code == 0
    golden = json.loads((shared_data / "golden" / "metrics.json").read_text())
    report = json.loads(out.read_text())
    tolerance: dict[str, dict[str, Any]] = {
        "fusion": {"rel": 1e-3},
        "registration": {"rel": 1e-3},
        "epe": {"abs": 0.15},
    }
    for family, allowed in tolerance.items():
        expected = golden["mean"][family]
        found = report["mean"]["paper"][family]
        assert {name: found[name] for name in expected} == pytest.approx(expected, **allowed)
        for stem, values in golden["per_image"][family].items():
            found = report["sets"]["test_public"]["per_image"]["paper"][family][stem]
            assert {name: found[name] for name in values} == pytest.approx(values, **allowed)
    assert list(report["mean"]) == ["paper"]


def test_reports_of_several_methods(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    json_file, csv_file, html_file = (tmp_path / f"out.{kind}" for kind in ("json", "csv", "html"))
    code = run(
        *("--ir", small / "ir_move", "--vis", small / "vis", "--ir-truth", small / "ir"),
        *("--fused", f"paper={small / 'paper_fus_rgb'}", "--fused", f"<twin>={small / 'vis'}"),
        *("--registered", f"paper={small / 'paper_ir_reg'}", "--name", "road"),
        *("--json", json_file, "--csv", csv_file, "--html", html_file, "--pictures", 2),
    )
    assert code == 0

    report = json.loads(json_file.read_text())
    rows = {"paper", "<twin>", *TRIVIAL_FUSIONS, "unregistered"}
    assert set(report["mean"]) == rows
    assert report["methods"] == ["paper", "<twin>"]
    assert report["mean"]["<twin>"]["fusion"] == report["mean"]["copy-visible"]["fusion"]
    assert "MS_SSIM" not in report["mean"]["paper"]["fusion"], "96x70 is too small for five scales"
    assert report["mean"]["paper"]["epe"]["epe_mean"] < report["mean"]["unregistered"]["epe"]["epe_mean"]
    fused = report["sets"]["road"]["per_image"]["paper"]["fusion"]
    assert set(fused) == set(STEMS)
    mean = np.mean([values["VIFF"] for values in fused.values()])
    assert report["mean"]["paper"]["fusion"]["VIFF"] == pytest.approx(mean)
    assert report["metrics"]["fusion"]["Q_CV"]["better"] == "lower"

    with csv_file.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(rows) * len(STEMS)
    line = next(r for r in lines if r["method"] == "paper" and r["item"] == STEMS[1])
    assert float(line["VIFF"]) == fused[STEMS[1]]["VIFF"]
    assert float(line["registration_MI"]) > 0
    blank = next(r for r in lines if r["method"] == "unregistered")
    assert blank["VIFF"] == ""

    page = Page()
    page.feed(html_file.read_text())
    assert not page.open
    assert not page.outside, "the page needs nothing else"
    assert len(page.images) == 2 * (2 + 6 + 2), "two items: sources, six fused, two overlays"
    assert "<twin>" in page.captions
    for image in page.images:
        data = base64.b64decode(image.removeprefix("data:image/jpeg;base64,"))
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert decoded.shape[:2] == (70, 96)
    assert "<svg" in html_file.read_text()

    printed = capsys.readouterr().out
    assert "road: 3 pictures" in printed
    assert "Q_MI ↑" in printed
    assert re.search(r"better than paper, of \d+ fusion metrics: copy-visible in \d+", printed)


def test_the_trivial_fusions_are_made_from_the_registered_infrared(small: Path) -> None:
    result = evaluate(
        {
            "s": EvaluationSet(
                ir=small / "ir_move",
                vis=small / "vis",
                registered={"a": small / "paper_ir_reg", "b": small / "ir"},
                ir_truth=small / "ir",
            )
        },
        families=["fusion"],
    ).sets[0]

    def grey(folder: str) -> np.ndarray:
        image = cv2.imread(str(small / folder / f"{STEMS[0]}.png"), cv2.IMREAD_UNCHANGED)
        return image if image.ndim == 2 else grey_from_rgb(image[..., ::-1])

    expected_rows = {"copy-visible", *(f"{name} ({m})" for name in TRIVIAL_FUSIONS[1:] for m in "ab")}
    assert set(result.scores) == expected_rows
    for method, folder in (("a", "paper_ir_reg"), ("b", "ir")):
        maximum = np.maximum(grey(folder), grey("vis"))
        panel = fusion_panel(grey("ir"), grey("vis"), maximum, families=["fusion"])["fusion"]
        assert result.scores[f"max ({method})"]["fusion"][STEMS[0]] == panel


def test_without_truth_the_infrared_given_is_the_reference(one: EvaluationSet, small: Path) -> None:
    result = evaluate({"s": one}, families=["fusion", "registration", "epe"]).sets[0]
    assert set(result.scores) == {"paper", *TRIVIAL_FUSIONS}
    assert all(set(families) == {"fusion"} for families in result.scores.values())
    assert result.scores["copy-ir"]["fusion"][STEMS[0]]["SSIM_ir"] == pytest.approx(1)


# --- several sets ---------------------------------------------------------------------------------


def test_sets_count_once_each(small: Path, tmp_path: Path) -> None:
    for folder in ("ir", "vis", "paper_fus_rgb"):
        (tmp_path / folder).mkdir()
        source = small / folder / f"{STEMS[2]}.png"
        (tmp_path / folder / source.name).write_bytes(source.read_bytes())
    sets_file = tmp_path / "sets.yaml"
    sets_file.write_text(
        "sets:\n"
        f"  three: {{ir: {small}/ir, vis: {small}/vis, fused: {{paper: {small}/paper_fus_rgb}}}}\n"
        "  alone: {ir: ir, vis: vis, fused: {paper: paper_fus_rgb}}\n"
    )
    out = tmp_path / "out.json"
    html = tmp_path / "out.html"
    assert run("--sets", sets_file, "--families", "film", "--json", out, "--html", html) == 0
    report = json.loads(out.read_text())
    three, alone = (report["sets"][name]["mean"]["paper"]["film"] for name in ("three", "alone"))
    assert report["sets"]["three"]["items"] == 3
    for name, value in report["mean"]["paper"]["film"].items():
        assert value == pytest.approx((three[name] + alone[name]) / 2)
    assert "Mean of 2 sets" in html.read_text()
    assert "alone alone" in html.read_text()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("sets: {a: {ir: x}}", r"sets.a.vis: missing"),
        ("sets: {a: {ir: x, vis: y, fusd: {p: z}}}", r"sets.a.fusd: unknown option; did you mean 'fused'"),
        ("sets: {}", "sets"),
        ("[1, 2]", r"sets.yaml: must hold 'sets: {NAME: {ir: ..., vis: ...}}', got \[1, 2\]"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_faulty_set_file_is_explained(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "sets.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        load_sets(path)


def test_best_is_the_direction_of_the_metric() -> None:
    means: Any = {"a": {"fusion": {"Q_CV": 1.0, "EN": 2.0}}, "b": {"fusion": {"Q_CV": 3.0, "EN": 2.0}}}
    assert best_rows(means, "fusion", "Q_CV", ["a", "b"]) == {"a"}
    assert best_rows(means, "fusion", "EN", ["a", "b"]) == {"a", "b"}
    assert best_rows(means, "fusion", "SD", ["a", "b"]) == set()


def test_numbers_keep_four_digits() -> None:
    shown = [format_value(v) for v in (1234.6, 636.755, 42.7274, 4.35982, 0.39797, -0.5, None)]
    assert shown == ["1235", "636.8", "42.73", "4.360", "0.3980", "-0.5000", "-"]
