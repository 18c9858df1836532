"""Pairs of frames to calibrate from, spread evenly over two recorded clips."""

from collections.abc import Sequence

from streamfuse.batch import clip_config
from streamfuse.config import apply_override
from streamfuse.errors import CalibrationError
from streamfuse.frame import Image8
from streamfuse.fusion.colour import luma
from streamfuse.inputs import Job
from streamfuse.pipeline import Pipeline

UNKNOWN_LENGTH_STRIDE = 15
"""Every so many frames of a clip that does not tell its length: half a second of video apart."""


def matched_pairs(
    ir: str, vis: str, *, count: int, overrides: Sequence[str] = ()
) -> list[tuple[Image8, Image8]]:
    """At most `count` pairs (raw infrared view, visible luma), uint8 (H, W) each, paired by capture time.

    Args:
        ir, vis: what `open_source` understands, both recorded.
        overrides: configuration values, `a.b=value` (a crop, a polarity, an offset).

    Raises:
        SourceError, ConfigError: as for a run. CalibrationError: a source is live.
    """
    settings: dict[str, object] = {}
    for override in overrides:
        apply_override(settings, override)
    settings |= {"registration": {"model": "none"}, "fusion": {"model": "max"}, "calibration": None}
    tree = clip_config(Job(name="calibration", ir=ir, vis=vis), settings)
    pipeline = Pipeline.from_config(tree)
    if pipeline.live:
        raise CalibrationError("calibrate needs recorded clips: record the live sources to files first")
    pairs: list[tuple[Image8, Image8]] = []
    stride = 0
    for frame in pipeline:
        if not stride:
            length = pipeline.infos["vis"].frame_count
            stride = max(1, length // count) if length else UNKNOWN_LENGTH_STRIDE
        if frame.seq % stride == 0 and frame.pair.ir is not None and not frame.pair.held:
            pairs.append((frame.pair.ir.image, luma(frame.visible)))
        if len(pairs) == count:
            pipeline.stop()
    return pairs
