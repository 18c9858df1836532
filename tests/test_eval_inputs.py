"""`streamfuse eval` on displacement fields and clips, and what it says about input it cannot take."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from evaluations import STEMS, complaint, run

from streamfuse.errors import DataError, SinkError
from streamfuse.evaluation.judge import TRIVIAL_FUSIONS
from streamfuse.evaluation.reading import read_field, read_true_field
from streamfuse.evaluation.results import Evaluation, SetResult
from streamfuse.evaluation.runner import evaluate
from streamfuse.evaluation.sets import EvaluationSet
from streamfuse.metrics.panel import METRICS

# --- displacement fields --------------------------------------------------------------------------


@pytest.fixture
def warped(shared_data: Path, tmp_path: Path) -> Path:
    """Two pairs with a known deformation, and fields that answer it perfectly and not at all."""
    source = shared_data / "data" / "roadscene" / "warp_truth"
    for folder in ("ir", "vis", "ir_warp", "disp", "perfect", "zero"):
        (tmp_path / folder).mkdir()
    for field_file in sorted((source / "disp").glob("*.npz"))[:2]:
        for folder in ("ir", "vis", "ir_warp"):
            file = source / folder / f"{field_file.stem}.png"
            (tmp_path / folder / file.name).write_bytes(file.read_bytes())
        (tmp_path / "disp" / field_file.name).write_bytes(field_file.read_bytes())
        truth, _ = read_true_field(field_file)
        np.savez(tmp_path / "perfect" / field_file.name, flow=truth)
        np.save(tmp_path / "zero" / f"{field_file.stem}.npy", np.zeros_like(truth))
    return tmp_path


def test_fields_are_judged_against_the_known_deformation(warped: Path) -> None:
    given = EvaluationSet(
        ir=warped / "ir_warp",
        vis=warped / "vis",
        flow={"perfect": warped / "perfect", "zero": warped / "zero"},
        registered={"true": warped / "ir"},
        flow_truth=warped / "disp",
    )
    means = evaluate({"s": given}, families=["registration", "epe"]).sets[0].means()
    assert means["perfect"]["epe"]["epe_mean"] < 1e-4
    assert means["zero"]["epe"] == pytest.approx(means["unregistered"]["epe"])
    assert 9 < means["unregistered"]["epe"]["epe_mean"] < 31
    assert means["true"]["epe"]["epe_mean"] < 0.15, "the picture shipped as truth is where the field says"
    assert means["true"]["registration"]["NCC"] > 0.7 > means["unregistered"]["registration"]["NCC"]


def test_field_files(tmp_path: Path) -> None:
    flow = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    np.save(tmp_path / "a.npy", flow)
    np.savez(tmp_path / "b.npz", flow=flow)
    header = np.float32([202021.25]).tobytes() + np.int32([4, 3]).tobytes()
    (tmp_path / "c.flo").write_bytes(header + flow.tobytes())
    np.savez(tmp_path / "d.npz", disp_q64=(flow * 64).astype(np.int16))
    for name in ("a.npy", "b.npz", "c.flo", "d.npz"):
        assert np.array_equal(read_field(tmp_path / name), flow)
    unknown = flow.copy()
    unknown[0, 0] = 1e10
    unknown[1, 1, 0] = np.nan
    np.save(tmp_path / "e.npy", unknown)
    truth, known = read_true_field(tmp_path / "e.npy")
    assert np.isfinite(truth).all()
    assert not known[0, 0]
    assert not known[1, 1]
    assert known.sum() == 10


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: np.savez(path, other=np.zeros(3)), "holds other; looked for flow, disp or disp_q64"),
        (lambda path: np.savez(path, flow=np.zeros((3, 4))), r"shape \(H, W, 2\)"),
        (lambda path: path.write_bytes(b"nothing"), "not a displacement field that can be read"),
        (lambda path: path.write_bytes(b""), "not a displacement field that can be read"),
    ],
)
def test_a_file_that_is_no_field_is_named(
    make: Callable[[Path], object], complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "field.npz"
    make(path)
    with pytest.raises(DataError, match=complaint):
        read_field(path)


# --- clips ----------------------------------------------------------------------------------------


def write_video(path: Path, frames: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=10, options={"qp": "0", "preset": "ultrafast"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def clips(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six real frames as folders of pictures and as lossless video, and a fused clip that flickers."""
    root = tmp_path_factory.mktemp("clips")
    source = shared_data / "data" / "m3svd_val"
    sequence = "0114_1551"
    frames: dict[str, list[np.ndarray]] = {"vis": [], "ir": [], "flicker": []}
    for index in range(6):
        for name, folder in (("vis", "visible"), ("ir", "infrared")):
            file = next((source / folder / sequence).glob(f"{index:04d}.*"))
            frames[name].append(cv2.resize(cv2.imread(str(file)), (160, 120), interpolation=cv2.INTER_AREA))
        frames["flicker"].append(cv2.convertScaleAbs(frames["vis"][-1], beta=12 * (index % 2)))
    for name, images in frames.items():
        folder = root / name / "clip"
        folder.mkdir(parents=True)
        for index, image in enumerate(images):
            cv2.imwrite(str(folder / f"{index:04d}.png"), image)
        write_video(root / f"{name}.mkv", [image[..., ::-1].copy() for image in images])
    write_video(root / "short.mkv", [image[..., ::-1].copy() for image in frames["vis"][:4]])
    return root


def judge_clips(**paths: Any) -> SetResult:
    frames = bool(paths.pop("frames", False))
    families: Any = ["fusion", "temporal"]
    return evaluate({"s": EvaluationSet(**paths)}, families=families, frames=frames, every=3).sets[0]


def test_clips_are_judged_over_time(clips: Path) -> None:
    fused = {"flicker": clips / "flicker.mkv", "steady": clips / "vis.mkv"}
    result = judge_clips(ir=clips / "ir.mkv", vis=clips / "vis.mkv", fused=fused)
    assert result.items == ["vis/000000", "vis/000003"]
    means = result.means()
    assert set(means) == {"flicker", "steady", *TRIVIAL_FUSIONS}
    assert means["max"]["temporal"]["warp_error_ratio"] == 1
    assert means["steady"]["temporal"] == means["copy-visible"]["temporal"]
    assert means["flicker"]["temporal"]["warp_error"] > means["steady"]["temporal"]["warp_error"] + 5
    assert means["flicker"]["temporal"]["luma_jitter"] > 5
    assert set(result.scores["flicker"]["fusion"]) == set(result.items)
    assert set(result.scores["flicker"]["temporal"]) == {"vis"}


def test_a_clip_may_be_a_file_a_folder_of_frames_or_in_a_folder_of_clips(clips: Path) -> None:
    from_video = judge_clips(ir=clips / "ir.mkv", vis=clips / "vis.mkv", fused={"f": clips / "flicker.mkv"})
    as_frames = judge_clips(
        ir=clips / "ir" / "clip",
        vis=clips / "vis" / "clip",
        fused={"f": clips / "flicker" / "clip"},
        frames=True,
    )
    of_clips = judge_clips(ir=clips / "ir", vis=clips / "vis", fused={"f": clips / "flicker"})
    assert as_frames.items == of_clips.items == ["clip/000000", "clip/000003"]
    assert as_frames.means() == of_clips.means()
    for row, families in as_frames.means().items():
        for family, values in families.items():
            assert from_video.means()[row][family] == pytest.approx(values), (row, family)


def test_without_the_frames_option_a_folder_holds_independent_pictures(clips: Path) -> None:
    result = judge_clips(ir=clips / "ir" / "clip", vis=clips / "vis" / "clip")
    assert len(result.items) == 6
    assert all("temporal" not in families for families in result.scores.values())


def test_clips_must_be_equally_long(clips: Path) -> None:
    with pytest.raises(DataError, match=r"fused 'f' \(.*short.mkv\) ends after 4 frames"):
        judge_clips(ir=clips / "ir.mkv", vis=clips / "vis.mkv", fused={"f": clips / "short.mkv"})


def test_unpaired_stems_are_named_and_may_be_left_out(small: Path, tmp_path: Path) -> None:
    fused = tmp_path / "fused"
    fused.mkdir()
    file = small / "paper_fus_rgb" / f"{STEMS[0]}.png"
    (fused / file.name).write_bytes(file.read_bytes())
    args = ("--ir", small / "ir", "--vis", small / "vis", "--fused", f"mine={fused}")
    message = complaint(*args)
    assert f"fused 'mine' ({fused}) lacks {STEMS[1]}, {STEMS[2]}, which vis" in message
    assert "--common" in message
    out = tmp_path / "out.json"
    assert run(*args, "--common", "--families", "film", "--json", out) == 0
    assert json.loads(out.read_text())["sets"][small.name]["items"] == 1
    (fused / "extra.png").write_bytes(file.read_bytes())
    (fused / file.name).unlink()
    assert "no stem is common" in complaint(*args, "--common")


def test_sizes_that_differ_are_named(small: Path, public: Path) -> None:
    fused = public / "paper_fus_rgb"
    message = complaint("--ir", small / "ir", "--vis", small / "vis", "--fused", f"big={fused}", "--common")
    assert f"fused 'big': {fused / STEMS[0]}.png is 400x304" in message
    assert "is 96x70" in message


def test_a_picture_that_cannot_be_judged_is_named(small: Path, tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    deep.mkdir()
    for stem in STEMS:
        cv2.imwrite(str(deep / f"{stem}.png"), np.zeros((70, 96), np.uint16))
    message = complaint("--ir", small / "ir", "--vis", small / "vis", "--fused", deep)
    assert message == f"{deep / STEMS[0]}.png: uint16 picture; metrics are defined on 8-bit pictures"
    (deep / f"{STEMS[0]}.png").write_bytes(b"no picture")
    assert f"{STEMS[0]}.png: not a picture" in complaint(
        "--ir", small / "ir", "--vis", small / "vis", "--fused", deep
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--vis", "{vis}"), "needs --ir and --vis, or --sets"),
        (("--ir", "{ir}", "--vis", "{vis}/none"), "vis: {vis}/none is not there"),
        (("--ir", "{ir}", "--vis", "{vis}/FLIR_04735.png"), "neither a folder nor a video file"),
        (("--ir", "{ir}", "--vis", "{vis}", "--fused", "max={vis}"), "'max' is the name of a trivial method"),
        (("--ir", "{ir}", "--vis", "{vis}", "--fused", "a={vis}", "--fused", "a={ir}"), "a second 'a'"),
        (("--ir", "{ir}", "--vis", "{vis}", "--fused", "={ir}"), "must read NAME=PATH"),
        (("--ir", "{ir}", "--vis", "{vis}", "--flow", "a={ir}"), "needs flow_truth"),
        (("--ir", "{ir}", "--vis", "{vis}", "--flow-truth", "{ir}"), "no displacement fields"),
        (("--ir", "{ir}", "--vis", "{vis}", "--families", "fusion,foo"), "unknown foo; known: fusion,film"),
        (("--ir", "{ir}", "--vis", "{vis}", "--families", ","), "nothing to compute"),
        (("--ir", "{ir}", "--vis", "{vis}", "--every", "0"), "--every 0: must be at least 1"),
        (("--ir", "{ir}", "--vis", "{vis}", "--sets", "x.yaml"), "--sets describes whole sets"),
        (("--sets", "{ir}/none.yaml"), "none.yaml: cannot be read"),
    ],
)
def test_wrong_arguments_are_explained(args: tuple[str, ...], message: str, small: Path) -> None:
    places = {"ir": str(small / "ir"), "vis": str(small / "vis")}
    assert message.format(**places) in complaint(*(arg.format(**places) for arg in args))


def test_an_output_that_cannot_be_written_is_named(small: Path) -> None:
    args = ("--ir", small / "ir", "--vis", small / "vis", "--families", "film")
    for option in ("--json", "--csv", "--html"):
        with pytest.raises(SinkError, match=f"{small}/ir: cannot be written: Is a directory"):
            run(*args, option, small / "ir")


def test_a_method_without_a_name_is_called_result(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    run(
        *("--ir", small / "ir", "--vis", small / "vis", "--fused", small / "paper_fus_rgb"),
        *("--no-trivial", "--families", "film", "--json", out),
    )
    assert list(json.loads(out.read_text())["mean"]) == ["result"]


def test_an_evaluation_lists_methods_before_trivial_rows(one: EvaluationSet) -> None:
    evaluation = evaluate({"s": one}, families=["film"])
    assert isinstance(evaluation, Evaluation)
    assert evaluation.rows("film") == ["paper", *TRIVIAL_FUSIONS]
    assert evaluation.metrics("film") == list(METRICS["film"])
    assert evaluation.rows("epe") == []


def test_progress_is_told_and_jobs_do_not_change_values(one: EvaluationSet) -> None:
    told: list[tuple[str, int, int | None]] = []
    single = evaluate(
        {"s": one},
        families=["film"],
        jobs=1,
        progress=lambda name, done, total: told.append((name, done, total)),
    )
    assert told == [("s", 1, 3), ("s", 2, 3), ("s", 3, 3)]
    assert evaluate({"s": one}, families=["film"], jobs=3).means() == single.means()
