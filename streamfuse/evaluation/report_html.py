"""An evaluation as one HTML file that needs nothing else: tables, distributions, pictures."""

import base64
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from streamfuse import __version__
from streamfuse.evaluation.judge import UNREGISTERED
from streamfuse.evaluation.report_style import METHOD_COLOURS, STYLE, TRIVIAL_COLOUR
from streamfuse.evaluation.report_svg import distribution
from streamfuse.evaluation.results import (
    Evaluation,
    Means,
    SetResult,
    arrow,
    beaten_by_trivial,
    best_rows,
    format_value,
)
from streamfuse.evaluation.samples import Sample, Shown
from streamfuse.metrics.panel import METRICS, Family
from streamfuse.outputs import write_text

HEADINGS: dict[Family, tuple[str, str]] = {
    "fusion": (
        "Fusion",
        "The six metrics of the ME-PMA table with its quirks (Q_...), then the standard ones. The six can be "
        "won without fusing anything, so look at both sources, the pictures and the trivial methods too.",
    ),
    "film": (
        "Fusion, FILM's evaluator",
        "The reference set of that literature; definitions differ from above.",
    ),
    "registration": (
        "Registration, likeness",
        "The registered against the true infrared. Weak judges, see below.",
    ),
    "epe": (
        "Registration, displacement left",
        "In pixels: against the known field, or by dense flow from the true to the registered infrared.",
    ),
    "temporal": (
        "Steadiness",
        "Over whole clips. The warped-frame error forgives motion; its ratio is to that of pixel-wise max of "
        "the same inputs.",
    ),
}
CAPTION_METRICS = ("MI_min", "VIFF", "Qabf_std", "SSIM_min")
"""A few numbers under a fused picture: how much of both sources it keeps."""
HEAT = 0.30
"""Opacity behind the best value of a line; the worst has none."""


def write_html(evaluation: Evaluation, path: Path, *, title: str = "Fusion evaluation") -> None:
    """Raises SinkError when it cannot be written."""
    write_text(render_html(evaluation, title=title), path)


def render_html(evaluation: Evaluation, *, title: str = "Fusion evaluation") -> str:
    """The whole page."""
    families = [family for family in METRICS if evaluation.rows(family)]
    colours = _colours(evaluation)
    links = [f'<a href="#{family}">{escape(HEADINGS[family][0])}</a>' for family in families]
    if any(one.samples for one in evaluation.sets):
        links.append('<a href="#pictures">Pictures</a>')
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{_what_was_judged(evaluation)}</p>",
        f"<nav>{''.join(links)}</nav>",
        *(_family(evaluation, family, colours) for family in families),
        _pictures(evaluation),
        f"<footer>streamfuse {__version__}. Bold: best of its line. Grey: trivial methods. "
        "Boxes: quartiles, line: median, whiskers: least and greatest value.</footer>",
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _what_was_judged(evaluation: Evaluation) -> str:
    sets = ", ".join(
        f"<b>{escape(one.name)}</b> ({len(one.items)} {'pictures' if one.kind == 'pictures' else 'frames'})"
        for one in evaluation.sets
    )
    methods = ", ".join(f"<b>{escape(method)}</b>" for method in evaluation.methods) or "no method"
    return f"{methods}, beside the trivial methods, on {sets}."


def _colours(evaluation: Evaluation) -> dict[str, str]:
    rows = dict.fromkeys(row for family in METRICS for row in evaluation.rows(family))
    colours = dict.fromkeys(rows, TRIVIAL_COLOUR)
    for index, method in enumerate(evaluation.methods):
        colours[method] = METHOD_COLOURS[index % len(METHOD_COLOURS)]
    return colours


def _family(evaluation: Evaluation, family: Family, colours: dict[str, str]) -> str:
    heading, text = HEADINGS[family]
    parts = [f'<h2 id="{family}">{escape(heading)}</h2><p>{escape(text)}</p>']
    several = len(evaluation.sets) > 1
    if several:
        parts.append(f"<h3>Mean of {len(evaluation.sets)} sets, each counted once</h3>")
    parts.append(_table(evaluation, evaluation.means(), family, colours))
    parts.append(_beaten(evaluation, family))
    for one in evaluation.sets if several else ():
        table = _table(evaluation, one.means(), family, colours)
        parts.append(f"<details><summary>{escape(one.name)} alone</summary>{table}</details>")
    for one in evaluation.sets:
        parts.append(_distributions(evaluation, one, family, colours))
    return "".join(parts)


def _table(evaluation: Evaluation, means: Means, family: Family, colours: dict[str, str]) -> str:
    rows = [row for row in evaluation.rows(family) if family in means.get(row, {})]
    head = "".join(
        f'<th class="{_kind(evaluation, row)}"><span class="swatch" style="background:{colours[row]}"></span>'
        f"{escape(row)}</th>"
        for row in rows
    )
    lines = []
    for metric in evaluation.metrics(family):
        best = best_rows(means, family, metric, rows)
        shades = _shades(means, family, metric, rows)
        cells = "".join(
            f'<td class="{"best" if row in best else _kind(evaluation, row)}"{shade}>'
            f"{format_value(means[row][family].get(metric))}</td>"
            for row, shade in zip(rows, shades, strict=True)
        )
        lines.append(
            f'<tr><th class="metric">{_metric(family, metric)}</th>{cells}'
            f'<td class="what">{escape(METRICS[family][metric].what)}</td></tr>'
        )
    return (
        f'<div class="scroll"><table><thead><tr><th class="metric">metric</th>{head}<th></th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _metric(family: Family, metric: str) -> str:
    return f'{escape(metric)} <span class="direction">{arrow(family, metric)}</span>'


def _kind(evaluation: Evaluation, row: str) -> str:
    return "method" if row in evaluation.methods else "trivial"


def _shades(means: Means, family: Family, metric: str, rows: Sequence[str]) -> list[str]:
    values = {row: means[row][family][metric] for row in rows if metric in means[row][family]}
    if len(values) < 2:
        return [""] * len(rows)
    low, high = min(values.values()), max(values.values())
    if METRICS[family][metric].better == "lower":
        low, high = high, low

    def shade(row: str) -> str:
        if row not in values or high == low:
            return ""
        alpha = HEAT * (values[row] - low) / (high - low)
        return f' style="background:rgba(var(--good),{alpha:.2f})"'

    return [shade(row) for row in rows]


def _beaten(evaluation: Evaluation, family: Family) -> str:
    lines = []
    for method, trivial in beaten_by_trivial(evaluation, family).items():
        better = "; ".join(
            f"<b>{escape(row)}</b> in {', '.join(map(escape, metrics))}"
            for row, metrics in trivial.items()
            if metrics
        )
        if better:
            lines.append(f"<p>Better than <b>{escape(method)}</b>: {better}.</p>")
    return "".join(lines)


def _distributions(evaluation: Evaluation, one: SetResult, family: Family, colours: dict[str, str]) -> str:
    cards = []
    for metric in evaluation.metrics(family):
        values = {
            row: numbers for row in evaluation.rows(family) if (numbers := one.values(row, family, metric))
        }
        if any(len(numbers) > 1 for numbers in values.values()):
            cards.append(
                f'<div class="card"><h4>{_metric(family, metric)}</h4>{distribution(values, colours)}</div>'
            )
    if not cards:
        return ""
    title = "Distributions" if len(evaluation.sets) == 1 else f"Distributions, {escape(one.name)}"
    opened = " open" if len(evaluation.sets) == 1 else ""
    return f'<details{opened}><summary>{title}</summary><div class="cards">{"".join(cards)}</div></details>'


def _pictures(evaluation: Evaluation) -> str:
    parts = ['<h2 id="pictures">Pictures</h2>']
    for one in evaluation.sets:
        for sample in one.samples:
            parts.append(f"<h3>{escape(one.name)}: {escape(sample.item)}</h3>")
            parts.append(f'<div class="pictures">{"".join(_figures(evaluation, one, sample))}</div>')
            if sample.overlays:
                parts.append(
                    "<p>True infrared in magenta over the registered one in green: grey where they agree.</p>"
                )
                overlays = (_overlay(evaluation, one, sample, shown) for shown in sample.overlays)
                parts.append(f'<div class="pictures">{"".join(overlays)}</div>')
    return "".join(parts) if len(parts) > 1 else ""


def _figures(evaluation: Evaluation, one: SetResult, sample: Sample) -> Iterator[str]:
    for shown in sample.pictures:
        scores = one.scores.get(shown.row, {}).get("fusion", {}).get(sample.item, {})
        numbers = [
            f"{metric} {format_value(scores[metric])}" for metric in CAPTION_METRICS if metric in scores
        ]
        yield _figure(shown, " \N{MIDDLE DOT} ".join(numbers), method=shown.row in evaluation.methods)


def _overlay(evaluation: Evaluation, one: SetResult, sample: Sample, shown: Shown) -> str:
    scores = one.scores.get(shown.row, {}).get("epe", {}).get(sample.item, {})
    numbers = [
        f"{metric} {format_value(scores[metric])} px"
        for metric in ("epe_mean", "epe_pen")
        if metric in scores
    ]
    method = shown.row != UNREGISTERED and shown.row in evaluation.methods
    return _figure(shown, " \N{MIDDLE DOT} ".join(numbers), method=method)


def _figure(shown: Shown, note: str, *, method: bool) -> str:
    data = base64.b64encode(shown.jpeg).decode("ascii")
    caption = escape(shown.caption)
    return (
        f"<figure{' class=method' if method else ''}>"
        f'<img src="data:image/jpeg;base64,{data}" alt="{caption}" loading="lazy">'
        f"<figcaption>{caption}<span>{escape(note)}</span></figcaption></figure>"
    )
