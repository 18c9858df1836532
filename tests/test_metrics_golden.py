"""The published numbers come out: ME-PMA's table on its own pictures, FILM's evaluator on test vectors."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamfuse.metrics import film, registration
from streamfuse.metrics.panel import FILM, FUSION, REGISTRATION, epe_panel, fusion_panel, registration_panel
from streamfuse.metrics.picture import Picture, grey_from_rgb

STEMS = ("FLIR_04735", "FLIR_06307", "FLIR_06570", "FLIR_08835", "FLIR_09376", "FLIR_video_00595")


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    return json.loads((shared_data / "golden" / "metrics.json").read_text())


@pytest.fixture(scope="module")
def grey(shared_data: Path) -> Callable[[str, str], Picture]:
    def load(folder: str, stem: str) -> Picture:
        path = shared_data / "data" / "roadscene" / "test_public" / folder / f"{stem}.png"
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        return Picture(image if image.ndim == 2 else grey_from_rgb(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)))

    return load


@pytest.mark.parametrize("stem", STEMS)
def test_golden_fusion_values(stem: str, golden, grey) -> None:
    panel = fusion_panel(grey("ir", stem), grey("vis", stem), grey("paper_fus_rgb", stem))["fusion"]
    expected = golden["per_image"]["fusion"][stem]
    assert {name: panel[name] for name in expected} == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("stem", STEMS)
def test_golden_registration_values(stem: str, golden, grey) -> None:
    panel = registration_panel(grey("ir", stem), grey("paper_ir_reg", stem))
    assert panel == pytest.approx(golden["per_image"]["registration"][stem], rel=1e-6)


@pytest.mark.parametrize("stem", STEMS)
def test_golden_endpoint_error(stem: str, golden, grey) -> None:
    error = registration.picture_endpoint_error(grey("ir", stem), grey("paper_ir_reg", stem))
    expected = golden["per_image"]["epe"][stem]
    panel = epe_panel(error)
    assert {name: panel[name] for name in expected} == pytest.approx(expected, abs=0.05)


def film_vectors() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:96, :128]
    a = (3 * x + 5 * y) % 256
    b = ((x - 64) ** 2 + (y - 48) ** 2) // 8 % 256
    return a.astype(np.float32), b.astype(np.float32)


FILM_OF_AVERAGE = {
    "film_EN": 7.6516105,
    "film_SD": 51.717464,
    "film_SF": 36.04022,
    "film_AG": 9.315192,
    "film_MI": 3.366613,
    "film_MSE": 2828.2812,
    "film_CC": 0.6991235,
    "film_PSNR": 13.547184,
    "film_SCD": 1.4299564,
    "film_VIFF": 0.40779512,
    "film_Qabf": 0.38172728,
    "film_SSIM": 1.0546206,
}
FILM_OF_MAXIMUM = {
    "film_EN": 7.7161900,
    "film_SD": 59.948807,
    "film_SCD": 1.2484295,
    "film_VIFF": 0.4521133,
    "film_Qabf": 0.5001264,
}


@pytest.mark.parametrize("name", FILM)
def test_golden_film_vectors_of_the_average(name: str) -> None:
    a, b = film_vectors()
    value = FILM[name].function(a, b, np.floor((a + b) / 2))
    assert value == pytest.approx(FILM_OF_AVERAGE[name], rel=1e-6)


@pytest.mark.parametrize("name", FILM_OF_MAXIMUM)
def test_golden_film_vectors_of_the_maximum(name: str) -> None:
    a, b = film_vectors()
    assert FILM[name].function(a, b, np.maximum(a, b)) == pytest.approx(FILM_OF_MAXIMUM[name], rel=1e-6)


def test_golden_film_self_scores() -> None:
    a, _ = film_vectors()
    assert film.viff(a, a, a) == pytest.approx(2.0)
    assert film.qabf(a, a, a) == pytest.approx(0.9753328, rel=1e-6)
    assert film.ssim(a, a, a) == pytest.approx(2.0)


def test_golden_names_are_in_the_panel(golden) -> None:
    assert set(golden["mean"]["fusion"]) <= set(FUSION)
    assert set(golden["mean"]["registration"]) == set(REGISTRATION)
