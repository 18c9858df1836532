"""Training of the live registration network: truth of its samples, resuming, and a run from end to end."""

import argparse
import json
import math
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfuse.cli import train as train_command
from streamfuse.errors import ConfigError, DataError, WeightsError
from streamfuse.flow import compose, invert
from streamfuse.nn.live_registration import LiveConfig, LiveRegistration, Matches
from streamfuse.nn.models import load_model
from streamfuse.registration.working import sample
from streamfuse.sampling import pixel_grid
from streamfuse.training import trust
from streamfuse.training.augment import compress, dim, noise, photometric, tone
from streamfuse.training.data import Pair, load_pairs, split
from streamfuse.training.deform import DeformationRange, mepma_field, random_field, smooth_noise
from streamfuse.training.loop import Loop, LoopConfig, learning_rate
from streamfuse.training.options import read_training
from streamfuse.training.registration import (
    RegistrationTask,
    RegistrationTraining,
    match_loss,
    precision_loss,
)
from streamfuse.training.registration_cases import affine_part, distance, make_cases, shifted_expectation
from streamfuse.training.registration_samples import FAR, NEAR, Cells, make_sample
from streamfuse.training.rendered import render_pairs
from streamfuse.training.residuals import apply_residuals, estimate_residuals, write_residuals

SHAPE = (64, 96)
ELASTIC = DeformationRange(
    rotation_deg=0,
    translation=0,
    scale=0,
    shear=0,
    perspective=0,
    elastic=2.0,
    elastic_sigma=(30, 30),
)


def scene(seed: int, shape: tuple[int, int] = (120, 160)) -> Pair:
    """Blobs of random sizes; the infrared is the negative of a blurred copy."""
    rng = np.random.default_rng(seed)
    vis = np.full(shape, 90, np.uint8)
    for _ in range(60):
        centre = (int(rng.integers(shape[1])), int(rng.integers(shape[0])))
        cv2.circle(vis, centre, int(rng.integers(3, 14)), int(rng.integers(0, 255)), -1)
    return Pair(f"scene{seed}", 255 - cv2.GaussianBlur(vis, (0, 0), 1.2), vis)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with one set of six pairs."""
    root = tmp_path_factory.mktemp("data")
    for part in ("ir", "vis"):
        (root / "blobs" / part).mkdir(parents=True)
    for seed in range(6):
        pair = scene(seed)
        cv2.imwrite(str(root / "blobs" / "ir" / f"{pair.name}.png"), pair.ir)
        cv2.imwrite(str(root / "blobs" / "vis" / f"{pair.name}.png"), pair.vis)
    return root


def config(**loop: object) -> RegistrationTraining:
    return RegistrationTraining(
        folders=["blobs"],
        drop=("scene5",),
        held_back=1,
        shape=SHAPE,
        batch=2,
        fit_from=2,
        loop=LoopConfig(**{"steps": 4, "learning_rate": 1e-3, "validate_every": 4, "log_every": 1} | loop),
    )


class TestDeform:
    @given(seed=st.integers(0, 10_000))
    @settings(max_examples=10, deadline=None)
    def test_inverse_undoes(self, seed: int) -> None:
        field = random_field((120, 160), np.random.default_rng(seed), NEAR)
        inner = compose(field, invert(field))[20:-20, 20:-20]
        assert np.abs(inner).max() < 0.05

    def test_inverse_registers_the_picture(self) -> None:
        picture = scene(1).ir
        field = random_field(picture.shape, np.random.default_rng(0), NEAR)
        moved = sample(picture, pixel_grid(picture.shape) + field)
        back = sample(moved, pixel_grid(picture.shape) + invert(field))
        difference = np.abs(back.astype(int) - picture)[15:-15, 15:-15].mean()
        assert difference < 0.2 * np.abs(moved.astype(int) - picture)[15:-15, 15:-15].mean()

    def test_noise_has_the_strength_asked_for(self) -> None:
        field = smooth_noise((600, 800), np.random.default_rng(0), sigma=24, std=2.5)
        assert field.shape == (600, 800, 2)
        assert 2.1 < field.std() < 2.9

    def test_mepma_is_as_strong_as_the_published_set(self) -> None:
        rng = np.random.default_rng(0)
        fields = [mepma_field((304, 400), rng) for _ in range(8)]
        assert 4 < np.mean([np.linalg.norm(f, axis=-1).mean() for f in fields]) < 7
        rest = np.mean([distance(affine_part(f), f).mean() for f in fields])
        assert 1.5 < rest < 2.3

    def test_elastic_part_is_not_affine(self) -> None:
        field = random_field((304, 400), np.random.default_rng(3), ELASTIC)
        assert distance(affine_part(field), field).mean() > 0.2


class TestSamples:
    def test_truth_registers_the_sample(self) -> None:
        """Warping a deformed same-modality sample by its truth gives the other picture back."""
        pair = scene(2, (300, 400))
        twin = Pair("twin", pair.vis, pair.vis)
        cells = Cells.of((160, 224), LiveConfig())
        gains = []
        for seed in range(12):
            drawn = make_sample([twin], (160, 224), cells, np.random.default_rng(seed), far=True)
            for name, at in (("near", cells.fine), ("far", cells.coarse)):
                truth = drawn[f"truth_{name}"].transpose(1, 2, 0)
                there = sample(drawn[f"ir_{name}"], at + truth)
                here, fixed = sample(drawn[f"ir_{name}"], at), sample(drawn["vis"], at)
                inner = slice(4, -4), slice(4, -4)

                def alike(a: np.ndarray, b: np.ndarray, inner: tuple = inner) -> float:
                    return abs(float(np.corrcoef(a[inner].ravel(), b[inner].ravel())[0, 1]))

                gains.append(alike(there, fixed) - alike(here, fixed))
        assert np.mean(gains) > 0.15
        assert np.mean(np.array(gains) > 0) > 0.8

    def test_depends_on_the_generator_alone(self) -> None:
        cells = Cells.of(SHAPE, LiveConfig())
        one, two = (
            make_sample([scene(0), scene(1)], SHAPE, cells, np.random.default_rng([1, 2]), far=True)
            for _ in range(2)
        )
        assert one.keys() == two.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], two[key])

    def test_far_lessons_are_given_only_when_asked_for(self) -> None:
        cells = Cells.of(SHAPE, LiveConfig())
        drawn = make_sample([scene(0)], SHAPE, cells, np.random.default_rng(0), far=False)
        assert not [key for key in drawn if key.endswith("far")]

    def test_far_reaches_further_than_near(self) -> None:
        reach = {}
        for name, bounds in (("far", FAR), ("near", NEAR)):
            fields = [random_field((120, 160), np.random.default_rng(s), bounds) for s in range(20)]
            reach[name] = np.mean([np.linalg.norm(f, axis=-1).mean() for f in fields])
        assert reach["far"] > 2 * reach["near"]

    def test_photometric_changes_stay_in_range(self) -> None:
        picture = scene(0).vis.astype(np.float32)
        for seed in range(20):
            changed = photometric(picture, np.random.default_rng(seed), flip=0.5, softest=2)
            assert changed.dtype == np.float32
            assert changed.min() >= 0
            assert changed.max() <= 255
        assert not np.allclose(tone(picture, np.random.default_rng(0)), picture)
        assert np.ptp(cv2.blur(dim(picture, np.random.default_rng(0)), (5, 5))) < 80
        assert not np.allclose(compress(picture, np.random.default_rng(0)), picture)
        assert not np.allclose(noise(picture, np.random.default_rng(0), most=5), picture)


class TestMatchLoss:
    def test_is_lowest_at_the_truth(self) -> None:
        stage = LiveRegistration().fine
        offsets = stage.moments[:, :2]
        truth = torch.tensor([4.0, -8.0]).view(1, 2, 1, 1).expand(1, 2, 9, 9)

        def loss(dx: float, dy: float) -> float:
            logits = (-2 * ((offsets - torch.tensor([dx, dy])) ** 2).sum(-1)).expand(1, 9, 9, 49)
            return match_loss(Matches(truth, truth, logits), truth, stage).item()

        right = loss(1, -2)
        assert right < loss(0, -2)
        assert right < loss(1, -1)
        assert right < math.log(49) - 1

    def test_what_is_out_of_reach_does_not_count(self) -> None:
        stage = LiveRegistration().fine
        far = torch.full((1, 2, 5, 5), 100.0)
        logits = torch.randn(1, 5, 5, 49, requires_grad=True)
        loss = match_loss(Matches(far, far, logits), far, stage)
        assert loss.item() == 0


class TestPrecisionLoss:
    def loss(self, error: float, precision: float) -> float:
        """Of matches that are off by `error` px and say so with `precision` px^-2."""
        stage = LiveRegistration().fine
        truth = torch.full((1, 2, 5, 5), 1.0)
        said = torch.tensor([precision, 0.0, precision]).view(1, 3, 1, 1).expand(1, 3, 5, 5)
        return precision_loss(Matches(truth + error, said, torch.zeros(())), truth, stage).item()

    def test_exact_beats_wrong(self) -> None:
        assert self.loss(0.1, 1.0) < self.loss(1.0, 1.0) < self.loss(3.0, 1.0)

    @pytest.mark.parametrize(("error", "honest", "liar"), [(0.1, 10.0, 0.1), (4.0, 0.1, 10.0)])
    def test_saying_how_exact_beats_lying(self, error: float, honest: float, liar: float) -> None:
        assert self.loss(error, honest) < self.loss(error, liar)


class TestRendered:
    def test_pairs_are_aligned_and_the_same_again(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            render_pairs(tmp_path / name, count=2, seed=3)
        one, two = (load_pairs(tmp_path / name) for name in ("a", "b"))
        for pair, again in zip(one, two, strict=True):
            np.testing.assert_array_equal(pair.ir, again.ir)
            np.testing.assert_array_equal(pair.vis, again.vis)
            edges = [cv2.Laplacian(cv2.GaussianBlur(p, (0, 0), 2), cv2.CV_32F) for p in (pair.ir, pair.vis)]
            moved = {
                shift: np.abs(np.roll(edges[0], shift, axis=1) * edges[1]).mean() for shift in (-6, 0, 6)
            }
            assert max(moved, key=moved.__getitem__) == 0


class TestLoop:
    def trained(self, root: Path, folder: Path, *, stops: list[int]) -> Loop:
        settings_ = config(steps=6, validate_every=5, save_every=1, seed=4)
        train, held = settings_.pairs(root)
        for stop in stops:
            torch.manual_seed(4)
            network = LiveRegistration()
            loop = Loop(network, RegistrationTask(settings_, train, held), settings_.loop, folder)
            loop.run(until=stop)
        return loop

    def test_resumed_equals_uninterrupted(self, root: Path, tmp_path: Path) -> None:
        straight = self.trained(root, tmp_path / "straight", stops=[6])
        resumed = self.trained(root, tmp_path / "resumed", stops=[3, 6])
        assert straight.step == resumed.step == 6
        ours, theirs = straight.network.state_dict(), resumed.network.state_dict()
        fresh = LiveRegistration().state_dict()
        assert any(not torch.equal(ours[name], fresh[name]) for name in ours)
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), name
            assert torch.equal(straight.average[name], resumed.average[name]), name
        assert straight.best == resumed.best

    def test_rate_warms_up_and_falls(self) -> None:
        loop = LoopConfig(steps=100, learning_rate=1.0, warm_up=10, decay_from=0.5)
        rates = [learning_rate(step, loop) for step in range(100)]
        assert rates[0] == 0.1
        assert rates[9] == rates[50] == 1.0
        assert all(a >= b for a, b in pairwise(rates[50:]))
        assert rates[-1] < 0.02

    def test_it_learns(self, root: Path, tmp_path: Path) -> None:
        settings_ = config(steps=24, validate_every=1000, learning_rate=2e-3, warm_up=2)
        train, held = settings_.pairs(root)
        torch.manual_seed(0)
        task = RegistrationTask(settings_, train, held)
        network = LiveRegistration()
        batch = task.make_batch(1)
        before = task.loss(network, batch, 0)[0].item()
        Loop(network, task, settings_.loop, tmp_path).run()
        assert task.loss(network, batch, 0)[0].item() < before - 0.1


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    train_command.add_parser(parser.add_subparsers())
    return parser.parse_args(["train", *argv])


class TestCommand:
    def test_train_export_residuals_and_check(
        self,
        root: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(trust, "FIT_SEEDS", range(100, 101))
        monkeypatch.setattr(trust, "RENDERED_FRAMES", 1)
        file = tmp_path / "train.yaml"
        file.write_text(yaml.safe_dump(config(steps=3, validate_every=3).model_dump(mode="json")))
        common = ["--config", str(file), "--data", str(root)]
        run, weights = tmp_path / "run", tmp_path / "weights.safetensors"

        args = parse("registration", *common, "--run", str(run))
        assert args.run(args) == 0
        assert (run / "state.pt").is_file()
        assert list((run / "pictures").glob("*.png"))
        assert "validate,score" in (run / "log.csv").read_text()

        args = parse("registration", *common, "--run", str(run), "--export", str(weights))
        assert args.run(args) == 0
        record = json.loads(weights.with_suffix(".json").read_text())
        assert record["model"] == "live-registration"
        assert record["dropped_from_training"] == ["scene5"]
        assert len(record["held_back"]) == 1
        assert record["validation"]["curve"].keys() == {"3"}
        network = load_model("live-registration", weights=weights)
        assert isinstance(network, LiveRegistration)

        args = parse("residuals", *common, "--weights", str(weights), "-o", str(tmp_path / "residuals.json"))
        assert args.run(args) == 0
        assert len(json.loads((tmp_path / "residuals.json").read_text())) == 4

        capsys.readouterr()
        args = parse("check", *common, "--weights", str(weights))
        code = args.run(args)
        printed = capsys.readouterr().out
        assert code == (1 if "NO" in printed else 0)
        for figure in ("same modality: end-point error", "validation: end-point error", "label floor"):
            assert figure in printed

    def test_a_mistake_in_the_configuration_is_named(self, tmp_path: Path) -> None:
        file = tmp_path / "train.yaml"
        file.write_text("folders: [x]\nshape: [240, 320]\nbatch: 4\nstps: 3\nloop: {steps: 5}\n")
        with pytest.raises(ConfigError, match="stps") as caught:
            read_training(file, RegistrationTraining)
        assert "learning_rate" in str(caught.value)

    def test_export_before_the_first_validation(self, root: Path, tmp_path: Path) -> None:
        file = tmp_path / "train.yaml"
        file.write_text(yaml.safe_dump(config().model_dump(mode="json")))
        out = str(tmp_path / "w.safetensors")
        args = parse(
            "registration",
            "--config",
            str(file),
            "--data",
            str(root),
            "--run",
            str(tmp_path),
            "--export",
            out,
        )
        with pytest.raises(DataError, match="not been validated"):
            args.run(args)

    @pytest.mark.parametrize("text", ["", "- 1\n", "5\n"])
    def test_a_configuration_without_sections(self, text: str, tmp_path: Path) -> None:
        file = tmp_path / "train.yaml"
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"train\.yaml: must hold sections such as 'loop:', got"):
            read_training(file, RegistrationTraining)

    @pytest.mark.parametrize("state", [b"", b"junk" * 100, {"network": {"other": torch.zeros(1)}}, {}])
    def test_a_folder_of_another_run_is_refused(self, state: object, root: Path, tmp_path: Path) -> None:
        path = tmp_path / "state.pt"
        if isinstance(state, bytes):
            path.write_bytes(state)
        else:
            torch.save(state, path)
        before = path.read_bytes()
        file = tmp_path / "train.yaml"
        file.write_text(yaml.safe_dump(config(steps=1).model_dump(mode="json")))
        args = parse("registration", "--config", str(file), "--data", str(root), "--run", str(tmp_path))
        with pytest.raises(WeightsError, match=r"state\.pt: not a state that this training can go on from"):
            args.run(args)
        assert path.read_bytes() == before

    def test_unknown_weights(self, root: Path, tmp_path: Path) -> None:
        file = tmp_path / "train.yaml"
        file.write_text(yaml.safe_dump(config().model_dump(mode="json")))
        args = parse("check", "--config", str(file), "--data", str(root), "--weights", "no-such")
        with pytest.raises(WeightsError, match="no-such"):
            args.run(args)

    def test_the_shipped_configuration_is_valid(self) -> None:
        path = Path(__file__).parents[1] / "configs" / "train-registration.yaml"
        assert len(read_training(path, RegistrationTraining).drop) == 10


class TestData:
    def test_split_is_stable_and_disjoint(self) -> None:
        pairs = [scene(seed, (40, 40)) for seed in range(8)]
        train, held = split(pairs, held_back=3, seed=1)
        again = split(pairs, held_back=3, seed=1)
        assert [p.name for p in held] == [p.name for p in again[1]]
        assert len(held) == 3
        assert {p.name for p in train}.isdisjoint(p.name for p in held)

    @pytest.mark.parametrize("held_back", [0, 8, 9])
    def test_split_that_leaves_nothing(self, held_back: int) -> None:
        with pytest.raises(DataError, match="hold back"):
            split([scene(s, (40, 40)) for s in range(8)], held_back=held_back, seed=0)

    def test_folders_that_are_not_there_or_do_not_match(self, tmp_path: Path, root: Path) -> None:
        with pytest.raises(DataError, match="no folder"):
            load_pairs(tmp_path / "nothing")
        (tmp_path / "ir").mkdir()
        (tmp_path / "vis").mkdir()
        with pytest.raises(DataError, match="no pair"):
            load_pairs(tmp_path)
        cv2.imwrite(str(tmp_path / "ir" / "a.png"), np.zeros((40, 40), np.uint8))
        cv2.imwrite(str(tmp_path / "vis" / "a.png"), np.zeros((40, 41), np.uint8))
        with pytest.raises(DataError, match="pair a"):
            load_pairs(tmp_path)
        (tmp_path / "vis" / "a.png").write_bytes(b"no picture")
        with pytest.raises(DataError, match=r"a\.png"):
            load_pairs(tmp_path)
        assert len(load_pairs(root / "blobs", drop=["scene0"])) == 5

    def test_expected_change_composes(self) -> None:
        own = np.full((40, 60, 2), (2.0, 0.0), np.float32)
        applied = np.full((40, 60, 2), (0.0, 3.0), np.float32)
        np.testing.assert_allclose(shifted_expectation(own, applied), own + applied)

    def test_cases_are_always_the_same(self) -> None:
        pairs = [scene(0, (150, 200))]
        one, two = make_cases(pairs)[0], make_cases(pairs)[0]
        np.testing.assert_array_equal(one.ir, two.ir)
        np.testing.assert_array_equal(one.truth, two.truth)
        assert one.ir.shape == (304, 400)


class TestResiduals:
    def test_round_trip_in_pixels(self, tmp_path: Path) -> None:
        """A shift of (2, -1) px and 1 % of stretch, in half sides, comes back as a map of pixels."""
        pair = scene(0, (100, 200))
        unit = [[0.01, 0.0, 2 / 100], [0.0, 0.0, -1 / 50]]
        write_residuals({pair.name: unit}, tmp_path / "r.json")
        [known] = apply_residuals([pair], tmp_path / "r.json")
        assert known.residual is not None
        centre = known.residual @ np.array([100, 50, 1])
        np.testing.assert_allclose(centre, [102, 49])
        right = known.residual @ np.array([200, 50, 1])
        np.testing.assert_allclose(right, [203, 49])

    def test_unreadable_file(self, tmp_path: Path) -> None:
        (tmp_path / "r.json").write_text("{")
        with pytest.raises(DataError, match=r"r\.json"):
            apply_residuals([scene(0)], tmp_path / "r.json")

    def test_what_all_have_in_common_is_left_in(self) -> None:
        torch.manual_seed(0)
        found = estimate_residuals(LiveRegistration(), [scene(0), scene(1)])
        np.testing.assert_allclose(np.mean(list(found.values()), axis=0), 0, atol=1e-9)
