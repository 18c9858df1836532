"""What an evaluation found, its means, and its JSON and CSV forms."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from streamfuse import __version__
from streamfuse.errors import SinkError
from streamfuse.evaluation.judge import Scores
from streamfuse.evaluation.samples import Sample
from streamfuse.evaluation.sets import Kind
from streamfuse.metrics.panel import METRICS, Family, Metric
from streamfuse.outputs import write_text

BETTER_BY = 1e-3
"""A relative gain below this is no win: it does not show in a table."""

Means = dict[str, dict[Family, dict[str, float]]]
"""row -> family -> metric -> mean."""


@dataclass(slots=True)
class SetResult:
    """The scores of one set.

    items: judged pictures, frames as CLIP/NUMBER. scores: row -> family -> item -> metric -> value;
    the items of the family `temporal` are clips. methods: rows that are results under test, the others
    are trivial ones.
    """

    name: str
    kind: Kind
    methods: tuple[str, ...]
    items: list[str] = field(default_factory=list)
    scores: dict[str, dict[Family, dict[str, dict[str, float]]]] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()

    def add(self, item: str, scores: Scores) -> None:
        """Take the scores of one more item."""
        for row, families in scores.items():
            for family, values in families.items():
                self.scores.setdefault(row, {}).setdefault(family, {})[item] = dict(values)

    def values(self, row: str, family: Family, metric: str) -> list[float]:
        """A metric over all items that have it."""
        items = self.scores.get(row, {}).get(family, {}).values()
        return [scores[metric] for scores in items if metric in scores]

    def means(self) -> Means:
        """Plain means over the items."""
        return {
            row: {
                family: {
                    metric: float(np.mean(values))
                    for metric in METRICS[family]
                    if (values := self.values(row, family, metric))
                }
                for family in families
            }
            for row, families in self.scores.items()
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of all sets."""

    sets: tuple[SetResult, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """Rows under test, over all sets."""
        return tuple(dict.fromkeys(method for one in self.sets for method in one.methods))

    def rows(self, family: Family) -> list[str]:
        """All rows that have this family, methods under test first."""
        rows = dict.fromkeys(row for one in self.sets for row in one.scores if family in one.scores[row])
        return sorted(rows, key=lambda row: row not in self.methods)

    def metrics(self, family: Family) -> list[str]:
        """All metrics of the family that have a value anywhere, in the order of the panel."""
        found = {
            m
            for one in self.sets
            for row in one.scores.values()
            for v in row.get(family, {}).values()
            for m in v
        }
        return [metric for metric in METRICS[family] if metric in found]

    def means(self) -> Means:
        """Means over the sets: each set counts once, whatever its size."""
        per_set = [one.means() for one in self.sets]
        means: Means = {}
        for family in METRICS:
            for row in self.rows(family):
                for metric in self.metrics(family):
                    values = [
                        m[row][family][metric] for m in per_set if metric in m.get(row, {}).get(family, {})
                    ]
                    if values:
                        means.setdefault(row, {}).setdefault(family, {})[metric] = float(np.mean(values))
        return means


def best_rows(means: Means, family: Family, metric: str, rows: Sequence[str]) -> set[str]:
    """The rows with the best mean of a metric (several when equal)."""
    values = {row: means[row][family][metric] for row in rows if metric in means.get(row, {}).get(family, {})}
    if not values:
        return set()
    best = (max if METRICS[family][metric].better == "higher" else min)(values.values())
    return {row for row, value in values.items() if value == best}


def beaten_by_trivial(evaluation: Evaluation, family: Family) -> dict[str, dict[str, list[str]]]:
    """Row under test -> trivial row -> the metrics in which its mean is clearly better."""
    means = evaluation.means()
    rows = evaluation.rows(family)
    trivial = [row for row in rows if row not in evaluation.methods]
    return {
        row: {
            other: [
                metric
                for metric, value in means[row][family].items()
                if _is_better(METRICS[family][metric], means[other][family].get(metric), value)
            ]
            for other in trivial
        }
        for row in rows
        if row in evaluation.methods
    }


def _is_better(metric: Metric, value: float | None, than: float) -> bool:
    if value is None:
        return False
    gain = value - than if metric.better == "higher" else than - value
    return gain > BETTER_BY * max(abs(value), abs(than))


def format_value(value: float | None) -> str:
    """Four or so significant digits in a fixed width; a hyphen for no value."""
    if value is None:
        return "-"
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3 if size >= 1 else 4
    return f"{value:.{digits}f}"


def arrow(family: Family, metric: str) -> str:
    """Which way is better."""
    return "↑" if METRICS[family][metric].better == "higher" else "↓"


def column(family: Family, metric: str) -> str:
    """A name that is unique over all families (MS_SSIM and NCC are both fusion and registration)."""
    return f"registration_{metric}" if family == "registration" else metric


def as_json(evaluation: Evaluation) -> dict[str, object]:
    """`mean`: row -> family -> metric over the sets; `sets`: the same a set, and `per_image`."""
    return {
        "streamfuse": __version__,
        "methods": list(evaluation.methods),
        "metrics": {
            family: {m.name: {"better": m.better, "what": m.what} for m in table.values()}
            for family, table in METRICS.items()
        },
        "mean": evaluation.means(),
        "sets": {
            one.name: {"items": len(one.items), "mean": one.means(), "per_image": one.scores}
            for one in evaluation.sets
        },
    }


def write_json(evaluation: Evaluation, path: Path) -> None:
    """Raises SinkError when it cannot be written."""
    write_text(json.dumps(as_json(evaluation), indent=1) + "\n", path)


def write_csv(evaluation: Evaluation, path: Path) -> None:
    """One line an item and row, every metric a column, empty where it has no value.

    Raises:
        SinkError: the file cannot be written.
    """
    metrics = [(family, metric) for family in METRICS for metric in evaluation.metrics(family)]
    try:
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(["set", "item", "method", *(column(*key) for key in metrics)])
            for one in evaluation.sets:
                for item, row, scores in _lines(one):
                    values = (scores.get(family, {}).get(metric, "") for family, metric in metrics)
                    writer.writerow([one.name, item, row, *values])
    except OSError as error:
        raise SinkError(f"{path}: cannot be written: {error.strerror}") from error


def _lines(one: SetResult) -> Iterator[tuple[str, str, Mapping[Family, Mapping[str, float]]]]:
    for row, families in one.scores.items():
        items = dict.fromkeys(item for values in families.values() for item in values)
        for item in items:
            yield item, row, {family: values[item] for family, values in families.items() if item in values}
