"""Rig geometry without a target, against the renderer's truth and on a real clip with a known change."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from streamfuse.calibration.calibration import RigCalibration
from streamfuse.calibration.clips import matched_pairs
from streamfuse.calibration.estimate import estimate_calibration
from streamfuse.cli import main
from streamfuse.errors import CalibrationError, DataError
from streamfuse.fusion.colour import luma
from streamfuse.sampling import pixel_grid
from streamfuse.synth.options import RigOptions, SceneOptions
from streamfuse.synth.scene import Scene


def distance_px(first: RigCalibration, second: RigCalibration) -> np.ndarray:
    """Distances, in visible pixels, between where two calibrations see each visible pixel."""
    width, height = first.vis_size
    grid = pixel_grid((height, width))
    apart = np.linalg.norm(first.to_infrared(grid) - second.to_infrared(grid), axis=-1)
    return np.asarray(apart / np.sqrt(abs(np.linalg.det(second.matrix[:2, :2]))))


def test_small_infrared_inside_a_large_visible_picture_is_found_to_two_pixels() -> None:
    scene = Scene(SceneOptions(), RigOptions(ir_width=160, ir_height=120, fov_ratio=0.7))
    times = np.linspace(0, 12, 12)
    pairs = [(scene.infrared_view(scene.render_infrared(t)), luma(scene.render_visible(t))) for t in times]
    found = estimate_calibration(pairs).calibration
    truth = scene.truth(6.0)
    apart = np.linalg.norm(found.to_infrared(pixel_grid((480, 640))) - truth.ir_coordinates, axis=-1)
    apart /= np.sqrt(abs(np.linalg.det(found.matrix[:2, :2])))
    assert apart[truth.valid > 0].mean() < 2.0


def test_a_known_change_of_a_real_clip_is_found(shared_data: Path) -> None:
    clips = shared_data / "data" / "m2vd"
    names = [str(clips / kind / "0111_1716.mp4") for kind in ("infrared", "visible")]
    pairs = matched_pairs(*names, count=10)
    own = estimate_calibration(pairs).calibration
    # The infrared camera turned by 2 degrees, its lens 15 % longer, aimed a little to the side.
    change = np.vstack([cv2.getRotationMatrix2D((320, 240), 2.0, 1.15), [0, 0, 1]]) @ np.array(
        [[1, 0, 14.0], [0, 1, -9.0], [0, 0, 1]]
    )
    changed = [(cv2.warpPerspective(ir, change, (640, 480)), vis) for ir, vis in pairs]
    found = estimate_calibration(changed).calibration
    wanted = RigCalibration.from_matrix(change @ own.matrix, ir_size=own.ir_size, vis_size=own.vis_size)
    assert distance_px(found, wanted).mean() < 2.0


def test_pictures_that_show_nothing_in_common_are_refused(rng: np.random.Generator) -> None:
    pairs = [
        (rng.integers(0, 255, (120, 160), dtype=np.uint8), rng.integers(0, 255, (240, 320), dtype=np.uint8))
        for _ in range(4)
    ]
    with pytest.raises(CalibrationError):
        estimate_calibration(pairs)


def test_no_pairs_and_changing_sizes_are_refused() -> None:
    with pytest.raises(CalibrationError, match="no pairs"):
        estimate_calibration([])
    small, large = np.zeros((48, 64), np.uint8), np.zeros((96, 128), np.uint8)
    with pytest.raises(CalibrationError, match="size changes"):
        estimate_calibration([(small, large), (large, large)])


def test_the_command_writes_what_a_run_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = Path(__file__).parents[1] / "streamfuse" / "samples"
    clips = [str(sample / name) for name in ("street-ir.mkv", "street-vis.mkv")]
    assert main(["calibrate", *clips, "-o", str(tmp_path / "rig.yaml"), "--frames", "6"]) == 0
    assert "residual:" in capsys.readouterr().out
    calibration = RigCalibration.load(tmp_path / "rig.yaml")
    assert calibration.vis_size == (640, 480)
    assert calibration.residual_px is not None
    out = str(tmp_path / "fused.mkv")
    code = main(
        [
            "fuse",
            *clips,
            "-o",
            out,
            "--end",
            "0.2",
            "--calibration",
            str(tmp_path / "rig.yaml"),
            "--set",
            "registration.model=none",
        ]
    )
    assert code == 0
    assert "calibration 5" in capsys.readouterr().out


def test_too_few_frames_asked_for(tmp_path: Path) -> None:
    assert main(["calibrate", "a.mkv", "b.mkv", "-o", str(tmp_path / "r.yaml"), "--frames", "0"]) == 2


@pytest.mark.parametrize("wrong", [np.zeros((96, 128, 3), np.uint8), np.zeros((96, 128))])
def test_pictures_that_are_not_8_bit_grey_are_named(wrong: np.ndarray) -> None:
    """RGB was called too small, floats were said not to agree."""
    with pytest.raises(DataError, match=r"pair 0: visible luma is .*; must be uint8 \(H, W\)"):
        estimate_calibration([(np.zeros((96, 128), np.uint8), wrong)])
