"""The bundled sample through the whole pipeline: what a new user sees first."""

import json
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

from streamfuse.contact_sheet import contact_sheet
from streamfuse.errors import SinkError
from streamfuse.frame import FusedFrame
from streamfuse.outputs import write_text
from streamfuse.pictures import write_picture
from streamfuse.pipeline import Pipeline
from streamfuse.pipeline.statistics import Report

SHEET_AT = (0.1, 0.5, 0.9)
"""Moments of the contact sheet, as shares of the clip."""


class Demo:
    """Fuses the sample into a folder: `fused.mkv`, `contact-sheet.png`, `report.json`."""

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(f"{folder}: the output folder cannot be made: {error.strerror}") from error
        self._video = folder / "fused.mkv"
        self._sheet = folder / "contact-sheet.png"
        self._report = folder / "report.json"
        self._frames: list[FusedFrame] = []
        self.pipeline = Pipeline.from_config(
            {
                "sources": {
                    "ir": {"kind": "file", "path": str(files("streamfuse") / "samples" / "street-ir.mkv")},
                    "vis": {"kind": "file", "path": str(files("streamfuse") / "samples" / "street-vis.mkv")},
                },
                "worker": {"device": "cpu"},
                "sinks": [{"kind": "file", "path": str(self._video)}],
            }
        )

    @property
    def written(self) -> tuple[Path, Path, Path]:
        return self._video, self._sheet, self._report

    def keep(self, frame: FusedFrame) -> None:
        """Remember the frames that the contact sheet shows."""
        count = self.pipeline.infos["vis"].frame_count or 1
        if frame.seq in {round(share * (count - 1)) for share in SHEET_AT}:
            self._frames.append(frame)

    def finish(self) -> Report:
        """Write the contact sheet and the report. Raises SinkError."""
        for error in self.pipeline.failed_sinks.values():
            raise error
        report = self.pipeline.report()
        write_picture(self._sheet, contact_sheet(self._frames))
        write_text(json.dumps(asdict(report), indent=2) + "\n", self._report)
        return report
