"""When the pictures of a folder were taken: from a sidecar CSV, from their names, or from a rate."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from pathlib import Path
from typing import Literal

from streamfuse.clock import NS_PER_S
from streamfuse.errors import SourceError

NS_TIME_BASE = Fraction(1, NS_PER_S)
MAX_RATE_DENOMINATOR = 1001
"""A rate is given as a float and means the simple fraction nearest to it."""

_UNIT_NS = {"s": NS_PER_S, "ms": 1_000_000, "us": 1_000, "ns": 1}
_NAME_COLUMNS = frozenset({"name", "file", "filename", "image"})
_TIME_COLUMN = re.compile(r"(?:timestamp|time|t)[ _]?[\[(]?(s|ms|us|ns)[\])]?")

_EPOCH_RANGE_S = range(946_684_800, 4_102_444_800)
"""2000 to 2100: a number outside is a counter, not a time."""
_EPOCH_INTEGER = re.compile(r"(?<!\d)(\d{13}|\d{16}|\d{19})(?!\d)")
_EPOCH_DIGITS_NS = {13: 1_000_000, 16: 1_000, 19: 1}
_EPOCH_SECONDS = re.compile(r"(?<!\d)(\d{10})(?:\.(\d{1,9})|_(\d{3}|\d{6}|\d{9}))?(?!\d)")
_CALENDAR = re.compile(
    r"(?<!\d)(\d{4})-?(\d\d)-?(\d\d)[T_ -](\d\d)[:_-]?(\d\d)[:_-]?(\d\d)"
    r"(?:[.,](\d{1,9})|[_-](\d{3}|\d{6}|\d{9}))?(?!\d)"
)
NAME_FORMS = (
    "seconds since 1970 (1700000000.123456, or 13, 16 or 19 digits), or 2024-06-07T12:34:56.789 (UTC)"
)


@dataclass(frozen=True, slots=True)
class Timeline:
    """The pictures in order of time. `origin`: where the stamps come from."""

    paths: tuple[Path, ...]
    pts: tuple[int, ...]
    time_base: Fraction
    origin: Literal["csv", "name", "rate"]

    def __post_init__(self) -> None:
        for i in range(1, len(self.pts)):
            if self.pts[i] <= self.pts[i - 1]:
                raise SourceError(
                    f"{self.paths[i]} and {self.paths[i - 1].name}: both have the time "
                    f"{float(self.pts[i] * self.time_base):.6f} s (from the {self.origin})"
                )

    @property
    def fps(self) -> float:
        """Mean rate, 0 for a single picture."""
        if len(self.pts) < 2:
            return 0.0
        return float((len(self.pts) - 1) / ((self.pts[-1] - self.pts[0]) * self.time_base))

    def between(self, start_s: float | None, end_s: float | None) -> "Timeline":
        """The part from start to before end, in seconds after the first picture."""
        origin = self.pts[0]
        first = 0 if start_s is None else origin + Fraction(start_s) / self.time_base
        limit = self.pts[-1] + 1 if end_s is None else origin + Fraction(end_s) / self.time_base
        kept = [i for i, pts in enumerate(self.pts) if first <= pts < limit]
        return Timeline(
            tuple(self.paths[i] for i in kept), tuple(self.pts[i] for i in kept), self.time_base, self.origin
        )


def by_rate(paths: Sequence[Path], fps: float) -> Timeline:
    """Equal distances, in the order given."""
    period = 1 / Fraction(fps).limit_denominator(MAX_RATE_DENOMINATOR)
    return Timeline(tuple(paths), tuple(range(len(paths))), period, "rate")


def by_name(paths: Sequence[Path]) -> Timeline:
    """Times from the file names. Raises SourceError naming the first file whose name holds none."""
    stamps = []
    for path in paths:
        stamp = parse_name(path.stem)
        if stamp is None:
            raise SourceError(f"{path}: no time in its name; understood: {NAME_FORMS}")
        stamps.append(stamp[0])
    return _sorted(paths, stamps, "name")


def names_hold_times(paths: Sequence[Path]) -> bool:
    """Whether every name holds a time finer than a second, and no two the same: chance is ruled out."""
    stamps = [parse_name(path.stem) for path in paths]
    exact = {stamp[0] for stamp in stamps if stamp is not None and stamp[1]}
    return len(exact) == len(paths)


def parse_name(stem: str) -> tuple[int, bool] | None:
    """The time in a file name: nanoseconds since 1970, and whether it is finer than a second."""
    if match := _CALENDAR.search(stem):
        *fields, fraction, fraction_ = match.groups()
        try:
            moment = datetime.strptime("".join(fields) + "+0000", "%Y%m%d%H%M%S%z")
        except ValueError:
            return None
        return _epoch_ns(int(moment.timestamp()), fraction or fraction_)
    if match := _EPOCH_INTEGER.search(stem):
        digits = match.group()
        ns = int(digits) * _EPOCH_DIGITS_NS[len(digits)]
        return (ns, True) if ns // NS_PER_S in _EPOCH_RANGE_S else None
    if match := _EPOCH_SECONDS.search(stem):
        seconds, fraction, fraction_ = match.groups()
        return _epoch_ns(int(seconds), fraction or fraction_)
    return None


def by_csv(paths: Sequence[Path], table: Path) -> Timeline:
    """Times from a CSV with a name column and one of timestamp_s, timestamp_ms, timestamp_us, timestamp_ns.

    Raises:
        SourceError: the table cannot be read, lacks a column or a picture, or names one that is not there;
            with the line.
    """
    times = _read_table(table)
    by_file = {path.name: path for path in paths}
    stamps = []
    for path in paths:
        if path.name not in times:
            raise SourceError(f"{table}: no row for {path.name}")
        stamps.append(times[path.name][0])
    for name, (_, line) in times.items():
        if name not in by_file:
            raise SourceError(f"{table}:{line}: {name} is not in the folder")
    return _sorted(paths, stamps, "csv")


def _read_table(table: Path) -> dict[str, tuple[int, int]]:
    """File name -> (nanoseconds, line number)."""
    times: dict[str, tuple[int, int]] = {}
    try:
        with table.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            rows = csv.reader(file, skipinitialspace=True)
            name_column, time_column, unit_ns = _columns(next(rows, []), table)
            for row in rows:
                if not any(row):
                    continue
                where = f"{table}:{rows.line_num}"
                try:
                    name, value = row[name_column].strip(), row[time_column].strip()
                    stamp = int((Decimal(value) * unit_ns).to_integral_value())
                except (IndexError, InvalidOperation, OverflowError, ValueError) as error:
                    raise SourceError(f"{where}: not a name and a number: {','.join(row)!r}") from error
                if name in times:
                    raise SourceError(f"{where}: {name} has a row already, line {times[name][1]}")
                times[name] = (stamp, rows.line_num)
    except (OSError, csv.Error) as error:
        raise SourceError(f"{table}: the time stamps cannot be read: {error}") from error
    return times


def _columns(header: Sequence[str], table: Path) -> tuple[int, int, int]:
    """Where name and time are, and how many nanoseconds the time's unit has."""
    names = [title.strip().lstrip("#").strip().lower() for title in header]
    name_columns = [i for i, title in enumerate(names) if title in _NAME_COLUMNS]
    time_columns = [(i, match) for i, title in enumerate(names) if (match := _TIME_COLUMN.fullmatch(title))]
    if len(name_columns) != 1 or len(time_columns) != 1:
        raise SourceError(
            f"{table}:1: the header must hold 'name' and one of timestamp_s, timestamp_ms, timestamp_us, "
            f"timestamp_ns; it is {','.join(header)!r}"
        )
    column, match = time_columns[0]
    return name_columns[0], column, _UNIT_NS[match.group(1)]


def _epoch_ns(seconds: int, fraction: str | None) -> tuple[int, bool] | None:
    if seconds not in _EPOCH_RANGE_S:
        return None
    return seconds * NS_PER_S + int((fraction or "0").ljust(9, "0")), fraction is not None


def _sorted(paths: Sequence[Path], stamps: Sequence[int], origin: Literal["csv", "name"]) -> Timeline:
    order = sorted(range(len(paths)), key=stamps.__getitem__)
    return Timeline(tuple(paths[i] for i in order), tuple(stamps[i] for i in order), NS_TIME_BASE, origin)
