"""What is to be judged: the folders or clips of one data set, and which files belong together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from streamfuse.config import describe_validation_error
from streamfuse.errors import ConfigError, DataError
from streamfuse.inputs import IMAGE_SUFFIXES, VIDEO_SUFFIXES, of_kind
from streamfuse.registry import Options
from streamfuse.yaml_text import read_yaml

FIELD_SUFFIXES = frozenset({".npz", ".npy", ".flo"})
NAMED_IN_ERRORS = 5
"""So many stems are listed in a message; the rest is counted."""

Kind = Literal["pictures", "clips"]


class EvaluationSet(Options):
    """One data set: sources, truth if there is one, and the results of each method.

    Every entry is a folder of pictures, a video file, or a folder of clips (video files, or folders of
    frames); files belong together by stem. Where the true infrared is known it is the reference of the
    fusion metrics, otherwise `ir` is.
    """

    ir: Path = Field(description="infrared as it went into the methods, or the aligned reference")
    vis: Path = Field(description="visible")
    fused: dict[str, Path] = Field(default_factory=dict, description="method -> fused pictures")
    registered: dict[str, Path] = Field(default_factory=dict, description="method -> registered infrared")
    flow: dict[str, Path] = Field(default_factory=dict, description="method -> displacement fields found")
    ir_truth: Path | None = Field(None, description="the infrared as a perfect registration leaves it")
    flow_truth: Path | None = Field(None, description="known displacement fields")


class _SetFile(Options):
    sets: dict[str, EvaluationSet] = Field(min_length=1)


def load_sets(path: Path) -> dict[str, EvaluationSet]:
    """Read `sets: {NAME: {ir: ..., vis: ..., fused: {METHOD: ...}, ...}}`; paths are relative to the file.

    Raises:
        ConfigError: one line for each mistake.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must hold 'sets: {{NAME: {{ir: ..., vis: ...}}}}', got {data!r:.40}")
    try:
        parsed = _SetFile.model_validate(data)
    except ValidationError as error:
        mistakes = describe_validation_error(error, _SetFile, "")
        raise ConfigError("\n".join(f"{path}: {mistake.lstrip('.')}" for mistake in mistakes)) from error

    def located(entry: Path) -> Path:
        return path.parent / entry

    return {
        name: EvaluationSet(
            ir=located(one.ir),
            vis=located(one.vis),
            fused={method: located(entry) for method, entry in one.fused.items()},
            registered={method: located(entry) for method, entry in one.registered.items()},
            flow={method: located(entry) for method, entry in one.flow.items()},
            ir_truth=located(one.ir_truth) if one.ir_truth else None,
            flow_truth=located(one.flow_truth) if one.flow_truth else None,
        )
        for name, one in parsed.sets.items()
    }


@dataclass(frozen=True, slots=True)
class Stream:
    """One line of material. `role` is a field of `EvaluationSet`; `method` names whose result it is."""

    role: Literal["ir", "vis", "fused", "registered", "flow", "ir_truth", "flow_truth"]
    method: str = ""

    @property
    def is_field(self) -> bool:
        return self.role in ("flow", "flow_truth")

    def __str__(self) -> str:
        return f"{self.role} {self.method!r}" if self.method else self.role


IR, VIS = Stream("ir"), Stream("vis")
IR_TRUTH, FLOW_TRUTH = Stream("ir_truth"), Stream("flow_truth")


@dataclass(frozen=True, slots=True)
class Item:
    """Files that belong together: one picture of every stream, or one clip of every stream."""

    name: str
    files: Mapping[Stream, Path]


@dataclass(frozen=True, slots=True)
class Material:
    """All items of a set, of one kind."""

    kind: Kind
    items: tuple[Item, ...]
    streams: tuple[Stream, ...]


def _streams(given: EvaluationSet) -> dict[Stream, Path]:
    found = {IR: given.ir, VIS: given.vis}
    for role, entries in (
        ("fused", given.fused),
        ("registered", given.registered),
        ("flow", given.flow),
    ):
        found |= {Stream(role, method): path for method, path in entries.items()}  # type: ignore[arg-type]
    found |= {IR_TRUTH: given.ir_truth} if given.ir_truth else {}
    found |= {FLOW_TRUTH: given.flow_truth} if given.flow_truth else {}
    return found


def find_material(given: EvaluationSet, *, frames: bool = False, common: bool = False) -> Material:
    """Pair the files of a set by stem.

    Args:
        frames: the pictures of a folder are the frames of one clip, in order of name.
        common: where streams hold different stems, judge those that all have.

    Raises:
        DataError: a path is missing or empty, kinds are mixed, or stems are without a partner.
    """
    paths = _streams(given)
    _check_truth(given)
    for stream, path in paths.items():
        if not path.exists():
            raise DataError(f"{stream}: {path} is not there")
    kind = _kind(given.vis, frames)
    if kind == "clips" and (fields := [stream for stream in paths if stream.is_field]):
        raise DataError(f"{fields[0]}: displacement fields are judged with folders of pictures, not clips")
    if given.vis.is_file() or (frames and _is_picture_folder(given.vis)):
        for stream, path in paths.items():
            if not (path.is_file() or (path.is_dir() and _is_picture_folder(path))):
                raise DataError(f"{stream}: {path} is not one clip, but vis {given.vis} is")
        return Material(kind, (Item(given.vis.stem, paths),), tuple(paths))

    entries = {stream: _entries(stream, path, kind) for stream, path in paths.items()}
    shared = set.intersection(*(set(stems) for stems in entries.values()))
    if not common:
        _refuse_unpaired(entries, paths)
    if not shared:
        raise DataError("no stem is common to " + ", ".join(f"{s} ({p})" for s, p in paths.items()))
    items = tuple(
        Item(stem, {stream: stems[stem] for stream, stems in entries.items()}) for stem in sorted(shared)
    )
    return Material(kind, items, tuple(paths))


def _check_truth(given: EvaluationSet) -> None:
    if given.flow and not given.flow_truth:
        raise DataError(f"flow {next(iter(given.flow))!r}: needs flow_truth, the known fields, to be judged")


def _kind(vis: Path, frames: bool) -> Kind:
    if vis.is_file():
        if vis.suffix.lower() not in VIDEO_SUFFIXES:
            raise DataError(f"vis: {vis} is neither a folder nor a video file")
        return "clips"
    if _is_picture_folder(vis):
        return "clips" if frames else "pictures"
    return "clips"


def _is_picture_folder(folder: Path) -> bool:
    return folder.is_dir() and any(_is_picture(file) for file in folder.iterdir())


def _is_picture(path: Path) -> bool:
    return path.is_file() and of_kind(path, IMAGE_SUFFIXES)


def _is_clip(path: Path) -> bool:
    return (path.is_file() and of_kind(path, VIDEO_SUFFIXES)) or _is_picture_folder(path)


def _is_field(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in FIELD_SUFFIXES


def _entries(stream: Stream, folder: Path, kind: Kind) -> dict[str, Path]:
    wanted: Callable[[Path], bool] = _is_field if stream.is_field else _is_clip
    if kind == "pictures" and not stream.is_field:
        wanted = _is_picture
    noun = "displacement fields (.npz, .npy, .flo)" if stream.is_field else kind
    if not folder.is_dir():
        raise DataError(f"{stream}: {folder} is not a folder of {noun}")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not wanted(path):
            continue
        stem = path.name if path.is_dir() else path.stem
        if stem in found:
            raise DataError(f"{stream}: {path} and {found[stem].name} have one stem; which one is meant?")
        found[stem] = path
    if not found:
        raise DataError(f"{stream}: no {noun} in {folder}")
    return found


def _refuse_unpaired(entries: Mapping[Stream, Mapping[str, Path]], paths: Mapping[Stream, Path]) -> None:
    reference = set(entries[VIS])
    for stream, stems in entries.items():
        for missing, where, other in (
            (reference - set(stems), f"{stream} ({paths[stream]})", f"vis ({paths[VIS]})"),
            (set(stems) - reference, f"vis ({paths[VIS]})", f"{stream} ({paths[stream]})"),
        ):
            if missing:
                named = ", ".join(sorted(missing)[:NAMED_IN_ERRORS])
                more = f" and {len(missing) - NAMED_IN_ERRORS} more" if len(missing) > NAMED_IN_ERRORS else ""
                raise DataError(
                    f"{where} lacks {named}{more}, which {other} has; complete it, or judge only the "
                    "stems that all have with --common"
                )
