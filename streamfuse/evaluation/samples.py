"""A few judged pictures, small and compressed, for a report to show."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from streamfuse.evaluation.judge import UNREGISTERED, Case
from streamfuse.evaluation.sets import IR, VIS
from streamfuse.frame import Image8
from streamfuse.fusion.colour import replace_luma
from streamfuse.metrics.picture import Picture

MAX_WIDTH = 480
JPEG_QUALITY = 88


@dataclass(frozen=True, slots=True)
class Shown:
    """A JPEG and what it shows. `row`: the table row it belongs to, empty for a source."""

    caption: str
    jpeg: bytes
    row: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One judged item: its sources and fused pictures, and how well each registration fits the truth."""

    item: str
    pictures: tuple[Shown, ...]
    overlays: tuple[Shown, ...]


def make_sample(item: str, case: Case) -> Sample:
    """Compress the pictures of a case. Trivial fusions are shown with the visible colour put back."""
    visible = case.shot.images[VIS]
    shown = [
        Shown("infrared" if case.truth is None else "infrared, true position", _jpeg(case.reference.pixels)),
        Shown("visible", _jpeg(visible)),
    ]
    for row in case.plan.fusion_rows:
        if row in case.plan.fused:
            image = case.shot.images[case.plan.fused[row]]
        else:
            image = replace_luma(visible, case.fused(row).pixels)
        shown.append(Shown(row, _jpeg(image), row))
    return Sample(item, tuple(shown), _overlays(case))


def _overlays(case: Case) -> tuple[Shown, ...]:
    truth = case.truth
    if truth is None:
        return ()
    candidates = {UNREGISTERED: case.grey[IR]} if case.plan.unregistered else {}
    candidates |= {name: case.grey[stream] for name, stream in case.plan.registered.items()}
    return tuple(Shown(name, _jpeg(_overlay(truth, it)), name) for name, it in candidates.items())


def _overlay(truth: Picture, registered: Picture) -> Image8:
    """Truth in red and blue, registered in green: grey where they agree."""
    return np.dstack([truth.pixels, registered.pixels, truth.pixels])


def _jpeg(image: Image8) -> bytes:
    height, width = image.shape[:2]
    if width > MAX_WIDTH:
        size = MAX_WIDTH, max(1, round(height * MAX_WIDTH / width))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    bgr = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    return data.tobytes()


def spread(samples: Sequence[Sample], count: int) -> tuple[Sample, ...]:
    """At most `count` of them, evenly spaced."""
    return tuple(samples[i] for i in spread_indices(len(samples), count))


def spread_indices(total: int, count: int) -> list[int]:
    """At most `count` of the indices 0..total-1, evenly spaced, first and last included."""
    if count <= 0 or total <= 0:
        return []
    return sorted({round(i) for i in np.linspace(0, total - 1, min(count, total))})
