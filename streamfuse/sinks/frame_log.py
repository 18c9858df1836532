"""One JSON line for each fused frame: exact source stamps, status, confidence, latencies."""

import json
from pathlib import Path
from typing import Any, ClassVar

from streamfuse.clock import Clock
from streamfuse.frame import Frame, FusedFrame
from streamfuse.outputs import LineFile
from streamfuse.registry import Options


class FrameLogOptions(Options):
    path: Path


class FrameLogSink:
    """Writes JSON lines, flushed one by one, so that a killed run keeps all of them."""

    Options: ClassVar[type[Options]] = FrameLogOptions

    def __init__(self, options: FrameLogOptions, *, clock: Clock) -> None:
        self._path = options.path
        self._file: LineFile | None = None

    def open(self) -> None:
        if self._file is None:
            self._file = LineFile(self._path, what="frame log")

    def write(self, frame: FusedFrame) -> None:
        self.open()
        assert self._file is not None
        self._file.write(json.dumps(describe_frame(frame)) + "\n")

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def describe_frame(frame: FusedFrame) -> dict[str, Any]:
    """The log line of one frame. `pts_s` is exact: a fraction as text."""
    pair = frame.pair
    return {
        "seq": frame.seq,
        "t_capture_ns": frame.t_capture,
        "vis": _describe_source(pair.vis),
        "ir": None if pair.ir is None else _describe_source(pair.ir),
        "dt_ns": pair.dt_ns,
        "offset_ns": pair.offset_ns,
        "held": pair.held,
        "motion": frame.extra.get("motion"),
        "status": frame.status,
        "reason": frame.reason,
        "confidence": round(frame.confidence, 4),
        "warm": frame.warm,
        "rung": frame.rung,
        "rung_reason": frame.extra.get("rung_reason", ""),
        "latencies_ns": frame.latencies_ns,
    }


def _describe_source(frame: Frame) -> dict[str, Any]:
    seconds = frame.pts_seconds
    return {
        "seq": frame.seq,
        "pts": frame.pts,
        "time_base": None if frame.time_base is None else str(frame.time_base),
        "pts_s": None if seconds is None else str(seconds),
        "t_capture_ns": frame.t_capture,
        "epoch": frame.epoch,
        "duplicate": frame.duplicate,
        "frozen": frame.frozen,
    }
