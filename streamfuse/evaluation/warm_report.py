"""The figures of a warm-against-cold measurement, with the bounds they are held to."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from streamfuse.evaluation.warm import WarmReport
from streamfuse.frame import Image8
from streamfuse.metrics.reliability import calibration_error, reliability_curve
from streamfuse.outputs import write_text

EQUAL_COMPUTE, TIME_RATIO, JITTER_RATIO = 0.8, 0.6, 0.5
OK_SHARE, HELD_ERROR_PX, HARM_PX = 0.95, 1.0, 0.5
CALIBRATION_ERROR, CALIBRATION_CASES = 0.1, 500
STILL_PX = 0.02
"""A field that moves by less from frame to frame stands still: nothing to divide by."""
PICTURE_WIDTH = 960


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement. low, high: bounds it must keep, None where there is none."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def passed(self) -> bool:
        below = self.low is not None and self.value < self.low
        return not below and not (self.high is not None and self.value > self.high)

    def __str__(self) -> str:
        bound = next(
            (f"{sign} {b:g}" for sign, b in (("<=", self.high), (">=", self.low)) if b is not None), ""
        )
        verdict = f"  {bound}: {'yes' if self.passed else 'NO'}" if bound else ""
        return f"{self.name:<58} {self.value:8.3f}{verdict}"


def figures(report: WarmReport) -> Iterator[Figure]:
    """Everything measured, in reading order. Errors of clear frames, unless it says otherwise."""
    clear = report.clear
    cold, in_use, equal = (way.error(clear) for way in (report.cold, report.in_use, report.equal))
    yield Figure("clear frames, share", float(clear.mean()))
    yield Figure("unregistered, px", float(np.mean(report.unregistered)))
    yield Figure("cold, px", cold)
    yield Figure("cold at a refinement's compute, px", equal)
    yield Figure("in use, px", in_use)
    yield Figure("in use / cold at equal compute", in_use / equal, high=EQUAL_COMPUTE)
    yield Figure("in use / cold at full compute", in_use / cold)
    yield Figure("cold, ms (median)", report.cold.median_ms)
    yield Figure("one warm refinement, ms (median)", report.refined.median_ms)
    yield Figure("its error, px (all frames)", report.refined.error())
    yield Figure("refinement / cold, time", report.refined.median_ms / report.cold.median_ms, high=TIME_RATIO)
    yield Figure("refinement from the right start, px", float(np.mean(report.right_start)))
    yield Figure("refinement from a wrong start, px", float(np.mean(report.wrong_start)))
    if not report.drifting:
        yield Figure("jitter, cold, px a frame", report.cold.jitter)
        yield Figure("jitter, in use, px a frame", report.in_use.jitter)
        if report.cold.jitter > STILL_PX:
            ratio = report.in_use.jitter / report.cold.jitter
            yield Figure("jitter, in use / cold", ratio, high=JITTER_RATIO)
    yield Figure("clear frames that are ok, share", report.ok_share, low=OK_SHARE)
    if report.obscured.any():
        yield Figure("obscured frames after the first clear one, share", float(report.obscured.mean()))
        yield Figure("  cold, px", report.cold.error(report.obscured))
        yield Figure("  in use, px", report.in_use.error(report.obscured))
        same_frame = np.asarray(report.same_frame)[report.obscured]
        yield Figure("  in use, px from the same frame undeformed", float(same_frame.mean()))
        yield Figure("  the worst frame of that, px", float(same_frame.max()), high=HELD_ERROR_PX)
    yield Figure("worst frame in use - unregistered, px", report.worst_harm_px, high=HARM_PX)
    for status, count in sorted(Counter(s.value for s in report.status).items()):
        yield Figure(f"frames {status}", count)
    for event, count in sorted(report.events.items()):
        yield Figure(f"event {event}", count)


def reliability_lines(reports: Sequence[WarmReport]) -> tuple[list[str], bool]:
    """The reliability curve over all that was claimed, and whether the bound is kept."""
    claims = [claim for report in reports for claim in report.claims]
    curve = reliability_curve([c for c, _ in claims], [g for _, g in claims])
    error = Figure("expected calibration error", calibration_error(curve), high=CALIBRATION_ERROR)
    enough = Figure("claims judged", len(claims), low=CALIBRATION_CASES)
    return ["confidence"] + [f"  {part}" for part in (*curve, error, enough)], error.passed and enough.passed


def write_json(reports: Sequence[WarmReport], path: Path) -> None:
    """Every figure of every report, and the frames' errors and statuses. Raises SinkError."""
    rows: list[dict[str, Any]] = [
        {
            "name": report.name,
            "drifting": report.drifting,
            "deformation_px": report.deformation_px,
            "figures": {figure.name: figure.value for figure in figures(report)},
            "in_use_px": report.in_use.errors,
            "same_frame_px": report.same_frame,
            "unregistered_px": report.unregistered,
            "status": [status.value for status in report.status],
            "claims": report.claims,
        }
        for report in reports
    ]
    write_text(json.dumps(rows, indent=1) + "\n", path)


def enlarged(column: Image8) -> Image8:
    """`WarmReport.column` for the eye: frames side by side to PICTURE_WIDTH, rows twice as high."""
    wide = max(1, PICTURE_WIDTH // column.shape[1])
    return np.asarray(cv2.resize(column, None, fx=wide, fy=2, interpolation=cv2.INTER_NEAREST), np.uint8)
