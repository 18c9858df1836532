"""Files to be written: checked before the work, so that none is done for nothing and none is destroyed."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from streamfuse.errors import SinkError


class OpenOutput:
    """A file that is being written: whether it still has a name.

    One without is lost when it is closed, and writing to it never fails. One that was renamed is still there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, getattr(os, "O_PATH", os.O_RDONLY))
        self._links = self._count_links()

    def check(self) -> None:
        """Raises SinkError when the file was removed."""
        if self._count_links() < self._links:
            raise SinkError(f"{self._path}: was removed while it was being written; what it held is lost")

    def close(self) -> None:
        """May be called twice."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _count_links(self) -> int:
        return os.fstat(self._descriptor).st_nlink


class LineFile:
    """A text file that is written a line at a time, so that a killed run keeps all of them.

    Args:
        what: it is called in messages.

    Raises:
        SinkError: it cannot be written, as every method does.
    """

    def __init__(self, path: Path, *, what: str) -> None:
        self._path, self._what = path, what
        try:
            self._file = path.open("w", encoding="utf-8", newline="")
            self._presence = OpenOutput(path)
        except OSError as error:
            raise self._failure(error) from error

    def write(self, line: str) -> None:
        """Write a line with its end."""
        self._presence.check()
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        """May be called twice."""
        self._presence.close()
        try:
            self._file.close()
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> SinkError:
        return SinkError(f"{self._path}: the {self._what} cannot be written: {error.strerror}")


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
        Path(path).write_text(text, encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise SinkError(f"{path}: cannot be written: {error.strerror}") from error


def place(path: Path | str) -> tuple[int, int] | Path:
    """What all names of one file have in common, links among them; it need not be there yet."""
    try:
        found = os.stat(path)
    except OSError:
        return Path(path).resolve()
    return found.st_dev, found.st_ino


def refuse_overwriting(outputs: Iterable[Path | str], inputs: Mapping[str, Path | str]) -> None:
    """An output in the place of an input would destroy the recording; two in one place, each other.

    Args:
        inputs: by what they are called in the message.

    Raises:
        SinkError: naming the output.
    """
    taken = {place(path): f"is the {name} input, which would be lost" for name, path in inputs.items()}
    for output in outputs:
        where = place(output)
        if where in taken:
            raise SinkError(f"{output}: {taken[where]}; give the output another name")
        taken[where] = "is asked for twice"
