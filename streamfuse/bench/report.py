"""What a benchmark found: a table for the terminal, a picture, JSON, and a line of the history."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from streamfuse.bench.models import ModelRow
from streamfuse.bench.pipeline import PipelineRow
from streamfuse.errors import SinkError
from streamfuse.frame import Image8

HISTORY = Path("tests") / "benchmarks.jsonl"
"""In a checkout: one line for each change of speed that landed."""

STAGES = (
    "decode",
    "to_rgb",
    "condition",
    "pair",
    "luma",
    "calibrate",
    "register",
    "features",
    "match",
    "maps",
    "correlate",
    "fit",
    "field",
    "warp",
    "fuse",
    "colour",
    "to_yuv",
    "encode",
    "write",
)
"""Spans in the order of a frame's way; those from `features` to `field` are inside `register`."""

BAR, GAP, LABELS, BARS, FIGURES = 18, 10, 470, 520, 130
"""Of the plot, pixels: height of a bar and of the space below it; width of the three columns."""
PAPER, INK, FILL, LATE = (255, 255, 255), (30, 30, 30), (90, 140, 200), (200, 90, 60)


def model_table(rows: Sequence[ModelRow]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells."""
    headings = [
        "model",
        "",
        "precision",
        "backend",
        "size",
        "p50 ms",
        "p95",
        "p99",
        "cpu ms",
        "speed-up",
        "differs by",
    ]
    cells = [
        [
            row.model,
            row.mode,
            row.precision,
            row.backend,
            f"{row.width}x{row.height}",
            *(f"{row.ms[name]:.1f}" for name in ("p50", "p95", "p99", "cpu")),
            "" if row.speed_up is None else f"{row.speed_up:.2f}",
            "" if row.difference is None else f"{row.difference:.3f} {_unit(row)}",
        ]
        for row in rows
    ]
    return headings, cells


def _unit(row: ModelRow) -> str:
    return "grey" if row.mode == "fuse" else "px"


def pipeline_table(rows: Sequence[PipelineRow]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells."""
    headings = [
        "",
        "case",
        "size",
        "fps",
        "cpu ms/frame",
        "register+fuse p50 / p99 ms",
        "of it processor",
        "peak MiB",
        "growth MiB/min",
        "live: capture to file p50 / p99 ms",
        "live: dropped",
    ]
    return headings, [
        [
            str(number),
            row.case,
            f"{row.width}x{row.height}",
            f"{row.offline.fps:.1f}",
            f"{row.offline.cpu_ms:.1f}",
            _middle_and_late(row.offline.stages_ms, "register_and_fuse"),
            _middle_and_late(row.offline.stages_ms, "register_and_fuse", "cpu_"),
            f"{row.offline.peak_mib:.0f}",
            "" if row.offline.growth_mib_per_min is None else f"{row.offline.growth_mib_per_min:.2f}",
            "" if row.live is None else _middle_and_late(row.live.latency_ms, "capture_to_sink.file"),
            "" if row.live is None else str(row.live.dropped),
        ]
        for number, row in enumerate(rows, start=1)
    ]


def _middle_and_late(ms: Mapping[str, Mapping[str, float]], stage: str, kind: str = "") -> str:
    return f"{ms[stage][kind + 'p50']:.1f} / {ms[stage][kind + 'p99']:.1f}"


def stage_table(rows: Sequence[PipelineRow]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells: where the time of each case, by its number in the other table, goes: p50 / p99 of
    processor milliseconds. Of encoding only the share of the sink's own thread."""
    names = [name for name in STAGES if any(name in row.offline.stages_ms for row in rows)]
    numbers = [str(number) for number, _ in enumerate(rows, start=1)]
    return ["processor ms, p50 / p99", *numbers], [
        [
            name,
            *(
                _middle_and_late(row.offline.stages_ms, name, "cpu_") if name in row.offline.stages_ms else ""
                for row in rows
            ),
        ]
        for name in names
    ]


def model_bars(rows: Sequence[ModelRow]) -> list[tuple[str, float, float]]:
    """Label, median and 99th percentile in milliseconds."""
    return [(row.label, row.ms["p50"], row.ms["p99"]) for row in rows]


def pipeline_bars(rows: Sequence[PipelineRow]) -> list[tuple[str, float, float]]:
    """Label, median and 99th percentile of register and fuse in milliseconds."""
    stage = "register_and_fuse"
    return [
        (row.label, row.offline.latency_ms[stage]["p50"], row.offline.latency_ms[stage]["p99"])
        for row in rows
    ]


def plot(bars: Sequence[tuple[str, float, float]], *, title: str) -> Image8:
    """Bars for medians with a mark at the 99th percentile, on a logarithmic scale: uint8 (H, W, 3) RGB."""
    step = BAR + GAP
    picture = np.full((step * (len(bars) + 2), LABELS + BARS + FIGURES, 3), 255, np.uint8)
    _write(picture, f"{title}: median (bar) and p99 (mark), milliseconds, logarithmic", 8, BAR)
    lowest = min(middle for _, middle, _ in bars) / 2
    span = np.log(max(late for *_, late in bars) / lowest)
    for i, (label, middle, late) in enumerate(bars):
        top = (i + 1) * step + GAP
        ends = [LABELS + round(BARS * float(np.log(ms / lowest) / span)) for ms in (middle, late)]
        _write(picture, label, 8, top + BAR - 5)
        cv2.rectangle(picture, (LABELS, top), (ends[0], top + BAR), FILL, cv2.FILLED)
        cv2.line(picture, (ends[1], top - 2), (ends[1], top + BAR + 2), LATE, 2)
        _write(picture, f"{middle:.1f} / {late:.1f}", LABELS + BARS + 12, top + BAR - 5)
    return picture


def _write(picture: Image8, text: str, x: int, y: int) -> None:
    text = text.replace("registration.", "").replace("fusion.", "")
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK, 1, cv2.LINE_AA)


def record(path: Path, note: str, machine: Mapping[str, Any], figures: Mapping[str, float]) -> None:
    """Append one line to the history. Raises SinkError where there is no folder for it."""
    line = json.dumps({"note": note, "machine": dict(machine), "figures": dict(figures)}, ensure_ascii=False)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise SinkError(f"{path}: the history cannot be written: {error.strerror}") from error


def model_figures(rows: Sequence[ModelRow]) -> dict[str, float]:
    """Milliseconds of processor time a call, which other programs disturb least."""
    return {f"{row.label} cpu ms": row.ms["cpu"] for row in rows}


def pipeline_figures(rows: Sequence[PipelineRow]) -> dict[str, float]:
    """Frames a second, processor time a frame, peak memory."""
    figures = {}
    for row in rows:
        figures[f"{row.label} fps"] = row.offline.fps
        figures[f"{row.label} cpu ms"] = row.offline.cpu_ms
        figures[f"{row.label} peak MiB"] = row.offline.peak_mib
    return figures
