"""The tables of an evaluation on a terminal."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamfuse.evaluation.results import (
    Evaluation,
    Means,
    arrow,
    beaten_by_trivial,
    best_rows,
    format_value,
)
from streamfuse.metrics.panel import METRICS, Family

WIDE = 200
"""Columns when the output is not a terminal: nothing there can tell, and cut tables are useless."""


def print_tables(evaluation: Evaluation, *, console: Console | None = None) -> None:
    """One table a set, methods under test first, and one of the means when there are several sets."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    for one in evaluation.sets:
        noun = "pictures" if one.kind == "pictures" else "frames"
        console.print(_table(f"{one.name}: {len(one.items)} {noun}", one.means(), evaluation))
        for note in _missing(one.means(), {r: one.scores[r] for r in one.scores}):
            console.print(note, style="dim")
    if len(evaluation.sets) > 1:
        console.print(_table(f"mean of {len(evaluation.sets)} sets", evaluation.means(), evaluation))
    for method, trivial in beaten_by_trivial(evaluation, "fusion").items():
        if trivial:
            better = ", ".join(f"{row} in {len(metrics)}" for row, metrics in trivial.items())
            total = len(evaluation.metrics("fusion"))
            console.print(f"better than {method}, of {total} fusion metrics: {better}", highlight=False)


def _table(title: str, means: Means, evaluation: Evaluation) -> Table:
    rows = [row for row in dict.fromkeys(r for f in METRICS for r in evaluation.rows(f)) if row in means]
    rows.sort(key=lambda row: row not in evaluation.methods)
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("metric", no_wrap=True)
    for row in rows:
        table.add_column(row, justify="right", style="" if row in evaluation.methods else "dim")
    for family in METRICS:
        metrics = [m for m in evaluation.metrics(family) if any(m in means[r].get(family, {}) for r in rows)]
        for metric in metrics:
            best = best_rows(means, family, metric, rows)
            label = metric if family != "registration" else f"registration {metric}"
            cells = (_cell(means, row, family, metric, row in best) for row in rows)
            table.add_row(f"{label} {arrow(family, metric)}", *cells, end_section=metric == metrics[-1])
    return table


def _cell(means: Means, row: str, family: Family, metric: str, best: bool) -> Text:
    value = means[row].get(family, {}).get(metric)
    return Text(format_value(value) if value is not None else "", style="bold green not dim" if best else "")


def _missing(
    means: Means, scores: Mapping[str, Mapping[Family, Mapping[str, Mapping[str, float]]]]
) -> list[str]:
    notes = {}
    for families in scores.values():
        for family, items in families.items():
            for metric in METRICS[family]:
                having = sum(metric in values for values in items.values())
                if having < len(items):
                    sides = METRICS[family][metric].min_side
                    notes[metric] = f"{metric}: {having} of {len(items)} are large enough (sides >= {sides})"
    return list(notes.values())
