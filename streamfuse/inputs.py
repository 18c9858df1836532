"""What `streamfuse fuse` was given: one pair of clips, a folder of them, or single pictures.

Known data set roots: `infrared/ + visible/` (M2VD, M3SVD), `ir/ + vis/` or `ir/ + vi/` (RoadScene, MSRS,
TNO), and `ir_move/` instead of `ir/` on request (ME-PMA's deformed test set).
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from streamfuse.errors import SourceError

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".avi", ".mov", ".ts", ".m4v", ".webm"})
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
IR_FOLDERS = ("infrared", "ir")
MOVING_IR_FOLDER = "ir_move"
VIS_FOLDERS = ("visible", "vis", "vi")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One fusion to be done. `name` is the common stem."""

    name: str
    ir: str
    vis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """`single`: one pair, OUT may be a file; else a folder. `pictures`: each job is two image files."""

    jobs: tuple[Job, ...]
    single: bool
    pictures: bool = False


def of_kind(path: Path, suffixes: frozenset[str]) -> bool:
    """By its name. Hidden files are of none: macOS leaves a `._` file beside each one it copies."""
    return path.suffix.lower() in suffixes and not path.name.startswith(".")


def find_root(root: Path, *, moving: bool = False) -> tuple[Path, Path]:
    """The infrared and visible folders of a data set root. Raises SourceError naming the known layouts."""
    ir_names = (MOVING_IR_FOLDER,) if moving else IR_FOLDERS
    ir = next((root / name for name in ir_names if (root / name).is_dir()), None)
    vis = next((root / name for name in VIS_FOLDERS if (root / name).is_dir()), None)
    if ir is None or vis is None:
        missing = f"one of {', '.join(f'{n}/' for n in (ir_names if ir is None else VIS_FOLDERS))}"
        raise SourceError(
            f"{root}: not a known data set root ({missing} is missing); "
            "give the infrared and the visible input, or a folder with infrared/ + visible/ or ir/ + vis/"
        )
    return ir, vis


def find_inputs(ir: str, vis: str | None, *, moving: bool = False, independent: bool = False) -> Inputs:
    """Sort out the command line.

    Args:
        ir, vis: files, URLs, devices or folders; `vis` None: `ir` is a data set root.
        moving: take `ir_move/` of the root.
        independent: folders of pictures are single pairs, not the frames of one clip.

    Raises:
        SourceError: a path is not there, nothing pairs, or a file is given with a folder.
    """
    if vis is None:
        root = Path(ir)
        if not root.is_dir():
            raise SourceError(f"{ir}: no visible input given, and this is not a data set root folder")
        ir_path, vis_path = find_root(root, moving=moving)
        ir, vis = str(ir_path), str(vis_path)
    folders = Path(ir).is_dir(), Path(vis).is_dir()
    if not any(folders):
        if independent:
            raise SourceError("--independent is for two folders of pictures")
        pictures = all(
            Path(word).suffix.lower() in IMAGE_SUFFIXES and "://" not in word for word in (ir, vis)
        )
        job = Job(name=Path(vis).stem or "fused", ir=ir, vis=vis)
        return Inputs(jobs=(job,), single=True, pictures=pictures)
    if not all(folders):
        raise SourceError(f"{ir} and {vis}: one is a folder and the other is not; give two of the same")
    return _pair_folders(Path(ir), Path(vis), independent=independent)


def _pair_folders(ir: Path, vis: Path, *, independent: bool) -> Inputs:
    ir_clips, vis_clips = _entries(ir), _entries(vis)
    if not ir_clips and not vis_clips:
        if independent:
            jobs = _match("pictures", _by_stem(ir, IMAGE_SUFFIXES), _by_stem(vis, IMAGE_SUFFIXES), ir, vis)
            return Inputs(jobs=jobs, single=False, pictures=True)
        return Inputs(jobs=(Job(name=vis.name, ir=str(ir), vis=str(vis)),), single=True)
    if independent:
        raise SourceError(f"{ir}: --independent is for folders of pictures, this one holds clips")
    return Inputs(jobs=_match("clips", ir_clips, vis_clips, ir, vis), single=False)


def _entries(folder: Path) -> dict[str, Path]:
    """Clips of a folder: video files, and sub-folders that hold pictures.

    Beside pictures a sub-folder is no clip: more likely what was made of them.
    """
    clips = _by_stem(folder, VIDEO_SUFFIXES)
    if not _holds_pictures(folder):
        clips |= {
            entry.name: entry for entry in folder.iterdir() if entry.is_dir() and _holds_pictures(entry)
        }
    return clips


def _holds_pictures(folder: Path) -> bool:
    return any(of_kind(file, IMAGE_SUFFIXES) for file in folder.iterdir())


def _by_stem(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.is_file() and of_kind(file, suffixes):
            if file.stem in found:
                raise SourceError(
                    f"{file} and {found[file.stem].name}: two files with one stem in one folder"
                )
            found[file.stem] = file
    return found


def _match(
    what: str, ir: dict[str, Path], vis: dict[str, Path], ir_folder: Path, vis_folder: Path
) -> tuple[Job, ...]:
    for folder, found in ((ir_folder, ir), (vis_folder, vis)):
        if not found:
            raise SourceError(f"{folder}: holds no {what}")
    common = sorted(ir.keys() & vis.keys())
    if not common:
        raise SourceError(f"{ir_folder} and {vis_folder}: no two names are the same, so nothing pairs")
    for folder, alone in ((ir_folder, ir.keys() - vis.keys()), (vis_folder, vis.keys() - ir.keys())):
        if alone:
            log.warning("%s: without a partner, left out: %s", folder, ", ".join(sorted(alone)))
    return tuple(Job(name=name, ir=str(ir[name]), vis=str(vis[name])) for name in common)
