"""A CSV row for each fused frame: which infrared frame stands beside which visible one."""

import csv
from pathlib import Path
from typing import Any, ClassVar

from streamfuse.clock import NS_PER_MS, Clock
from streamfuse.frame import FusedFrame
from streamfuse.outputs import LineFile
from streamfuse.registry import Options

COLUMNS = (
    "seq",
    "vis_seq",
    "vis_pts",
    "vis_capture_ns",
    "ir_seq",
    "ir_pts",
    "ir_capture_ns",
    "dt_ms",
    "window_ms",
    "offset_ms",
    "held",
    "reason",
)


class PairingTableOptions(Options):
    path: Path


class PairingTableSink:
    """Writes the table as frames are fused, row by row, so that a killed run keeps all of them."""

    Options: ClassVar[type[Options]] = PairingTableOptions

    def __init__(self, options: PairingTableOptions, *, clock: Clock) -> None:
        self._path = options.path
        self._file: LineFile | None = None
        self._rows: Any = None

    def open(self) -> None:
        if self._file is None:
            self._file = LineFile(self._path, what="pairing table")
            self._rows = csv.writer(self._file)
            self._rows.writerow(COLUMNS)

    def write(self, frame: FusedFrame) -> None:
        self.open()
        pair = frame.pair
        ir = (None, None, None) if pair.ir is None else (pair.ir.seq, pair.ir.pts, pair.ir.t_capture)
        self._rows.writerow(
            (
                frame.seq,
                pair.vis.seq,
                pair.vis.pts,
                pair.vis.t_capture,
                *ir,
                pair.dt_ns / NS_PER_MS if pair.ir is not None else None,
                pair.window_ns / NS_PER_MS,
                pair.offset_ns / NS_PER_MS,
                int(pair.held),
                pair.reason,
            )
        )

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
