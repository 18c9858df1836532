"""Files to be written: checked before the work, so that none is done for nothing and none is destroyed."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from streamfuse.errors import SinkError


def check_writable(*paths: Path | str | None) -> None:
    """Make the folders of these files and prove that each can be written, leaving it as it is.

    None stands for a file that was not asked for.

    Raises:
        SinkError: naming the first one that cannot.
    """
    for path in (Path(path) for path in paths if path is not None):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = not path.exists()
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666))
            if new:
                path.unlink()
        except OSError as error:
            raise SinkError(f"{path}: cannot be written: {error.strerror}") from error


def write_text(text: str, path: Path | str) -> None:
    """Write a report. Raises SinkError when that fails."""
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise SinkError(f"{path}: cannot be written: {error.strerror}") from error


def refuse_overwriting(outputs: Iterable[Path | str], inputs: Mapping[str, Path | str]) -> None:
    """An output in the place of an input would destroy the recording; two in one place, each other.

    Args:
        inputs: by what they are called in the message.

    Raises:
        SinkError: naming the output.
    """
    taken = {
        Path(path).resolve(): f"is the {name} input, which would be lost" for name, path in inputs.items()
    }
    for output in outputs:
        place = Path(output).resolve()
        if place in taken:
            raise SinkError(f"{output}: {taken[place]}; give the output another name")
        taken[place] = "is asked for twice"
