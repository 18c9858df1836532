"""What `fuse` makes of the paths it is given."""

from pathlib import Path

import pytest

from streamfuse.batch import PARTIAL, parse_shard, plan
from streamfuse.errors import ConfigError, SourceError
from streamfuse.inputs import Inputs, Job, find_inputs, find_root


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("ir", "vis"), [("infrared", "visible"), ("ir", "vis"), ("ir", "vi")], ids=["m2vd", "msrs", "roadscene"]
)
def test_known_roots(tmp_path: Path, ir: str, vis: str) -> None:
    touch(tmp_path / ir / "a.mp4", tmp_path / vis / "a.mp4", tmp_path / vis / "b.mp4")
    inputs = find_inputs(str(tmp_path), None)
    assert not inputs.single
    assert inputs.jobs == (Job(name="a", ir=str(tmp_path / ir / "a.mp4"), vis=str(tmp_path / vis / "a.mp4")),)


def test_the_deformed_set_is_taken_on_request(tmp_path: Path) -> None:
    for name in ("ir", "ir_move", "vis"):
        touch(tmp_path / name / "1.png")
    assert find_root(tmp_path)[0].name == "ir"
    assert find_root(tmp_path, moving=True)[0].name == "ir_move"


def test_unknown_root_names_the_layouts(tmp_path: Path) -> None:
    (tmp_path / "ir").mkdir()
    with pytest.raises(SourceError, match=r"visible/, vis/, vi/ is missing"):
        find_inputs(str(tmp_path), None)


def test_picture_folders_are_one_clip_or_single_pairs(tmp_path: Path) -> None:
    touch(*(tmp_path / s / f"{n}.png" for s in ("ir", "vis") for n in (1, 2)))
    ir, vis = str(tmp_path / "ir"), str(tmp_path / "vis")
    clip = find_inputs(ir, vis)
    assert clip.single
    assert len(clip.jobs) == 1
    pairs = find_inputs(ir, vis, independent=True)
    assert pairs.pictures
    assert [job.name for job in pairs.jobs] == ["1", "2"]


def test_folders_of_sequences_pair_by_name(tmp_path: Path) -> None:
    touch(*(tmp_path / s / q / "0.png" for s in ("ir", "vis") for q in ("s1", "s2")))
    inputs = find_inputs(str(tmp_path / "ir"), str(tmp_path / "vis"))
    assert [job.name for job in inputs.jobs] == ["s1", "s2"]


def test_inputs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "x.mp4", tmp_path / "b" / "y.mp4")
    with pytest.raises(SourceError, match="nothing pairs"):
        find_inputs(str(tmp_path / "a"), str(tmp_path / "b"))
    with pytest.raises(SourceError, match="one is a folder and the other is not"):
        find_inputs(str(tmp_path / "a"), str(tmp_path / "b" / "y.mp4"))
    with pytest.raises(SourceError, match="--independent is for"):
        find_inputs(str(tmp_path / "a" / "x.mp4"), str(tmp_path / "b" / "y.mp4"), independent=True)
    with pytest.raises(SourceError, match="no visible input"):
        find_inputs(str(tmp_path / "a" / "x.mp4"), None)


def test_two_files_with_one_stem_are_ambiguous(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "x.mp4", tmp_path / "a" / "x.mkv", tmp_path / "b" / "x.mp4")
    with pytest.raises(SourceError, match="two files with one stem"):
        find_inputs(str(tmp_path / "a"), str(tmp_path / "b"))


def jobs(count: int) -> Inputs:
    return Inputs(jobs=tuple(Job(name=f"c{i}", ir="", vis="") for i in range(count)), single=False)


def test_shards_cover_all_clips_once(tmp_path: Path) -> None:
    names = []
    for index in (1, 2, 3):
        todo, done = plan(jobs(7), tmp_path, {}, shard=(index, 3))
        assert done == 0
        names += [task.job.name for task in todo]
    assert sorted(names) == [f"c{i}" for i in range(7)]


def test_finished_clips_are_not_done_again_and_partial_ones_are(tmp_path: Path) -> None:
    touch(tmp_path / "c0.mkv", tmp_path / f"{PARTIAL}c1.mkv")
    todo, done = plan(jobs(2), tmp_path, {})
    assert done == 1
    assert [task.job.name for task in todo] == ["c1"]
    assert len(plan(jobs(2), tmp_path, {}, overwrite=True)[0]) == 2


@pytest.mark.parametrize("text", ["0/2", "3/2", "a/b", "1", "1/0", "-1/2"])
def test_bad_shard(text: str) -> None:
    with pytest.raises(ConfigError, match="must read i/n"):
        parse_shard(text)
