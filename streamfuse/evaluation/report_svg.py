"""Distributions as small SVG drawings: one line a method, its box, and its points while they are few."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from streamfuse.evaluation.results import format_value

WIDTH = 340
LABEL_WIDTH = 104
LABEL_CHARACTERS = 17
ROW_HEIGHT = 17
BOX_HEIGHT = 8
MARGIN = 8
AXIS_HEIGHT = 16
PLOT_LEFT, PLOT_RIGHT = LABEL_WIDTH + MARGIN, WIDTH - MARGIN
MAX_POINTS = 60
"""More points than this hide each other: the box alone is drawn."""


class _Scale:
    """Values to horizontal positions."""

    def __init__(self, low: float, high: float) -> None:
        self._low = low
        self._span = (high - low) or 1.0

    def __call__(self, value: float) -> float:
        return PLOT_LEFT + (value - self._low) / self._span * (PLOT_RIGHT - PLOT_LEFT)


def distribution(values: Mapping[str, Sequence[float]], colours: Mapping[str, str]) -> str:
    """An SVG drawing of one metric.

    Args:
        values: row -> its values, none empty.
        colours: row -> CSS colour.
    """
    low = min(min(numbers) for numbers in values.values())
    high = max(max(numbers) for numbers in values.values())
    scale = _Scale(low, high)
    base = ROW_HEIGHT * len(values)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {base + AXIS_HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">',
        f'<line class="axis" x1="{PLOT_LEFT}" x2="{PLOT_RIGHT}" y1="{base}" y2="{base}"/>',
        _text("tick", PLOT_LEFT, base + 12, "start", format_value(low)),
    ]
    if high > low:
        parts.append(_text("tick", PLOT_RIGHT, base + 12, "end", format_value(high)))
    for index, (row, numbers) in enumerate(values.items()):
        middle = ROW_HEIGHT * (index + 0.5)
        short = (
            row if len(row) <= LABEL_CHARACTERS else row[: LABEL_CHARACTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
        )
        parts.append(_text("label", LABEL_WIDTH, middle + 3.5, "end", short))
        parts.append(f'<g fill="{colours[row]}" stroke="{colours[row]}">{_row(numbers, scale, middle)}</g>')
    return "".join([*parts, "</svg>"])


def _text(kind: str, x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _row(numbers: Sequence[float], scale: _Scale, y: float) -> str:
    """Whiskers from least to greatest, a box between the quartiles, a line at the median, points, mean."""
    low, first, median, third, high = (scale(q) for q in np.percentile(numbers, (0, 25, 50, 75, 100)))
    top = y - BOX_HEIGHT / 2
    parts = [
        f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>',
        f'<rect class="box" x="{first:.1f}" y="{top}" width="{third - first:.1f}" height="{BOX_HEIGHT}"/>',
    ]
    if len(numbers) <= MAX_POINTS:
        parts += [f'<circle class="point" cx="{scale(v):.1f}" cy="{y}" r="1.8"/>' for v in numbers]
    ends = f'y1="{top - 1}" y2="{top + BOX_HEIGHT + 1}"'
    parts.append(f'<line class="median" x1="{median:.1f}" x2="{median:.1f}" {ends}/>')
    return "".join(parts)
