"""A rendered recording on disk: two clips with the cameras' own stamps, and the truth beside them.

`vis.mkv`, `ir.mkv`; `times.json`: every delivery of both streams (number, true time, stamp, lost),
homography, options; `truth/NNNNNN.npz` for each visible frame number (see `write_truth`). With a name,
all of them begin with it.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from streamfuse.errors import SinkError
from streamfuse.frame import Image8, Image16, Stream
from streamfuse.sinks.video_encoder import EncoderSettings, PixelConverter, configure, encoder_name
from streamfuse.synth.clip import ClipOptions
from streamfuse.synth.film import Film
from streamfuse.synth.scene import Truth
from streamfuse.synth.schedule import TIME_BASE, Capture

MKV_TIME_BASE = Fraction(1, 1000)
"""Matroska's tick; what a reader gets back is the stamp rounded to this."""
Progress = Callable[[int, int], None]


def write_clip(folder: Path, options: ClipOptions, *, progress: Progress | None = None) -> list[Path]:
    """Render and write a recording. Returns the files of the two clips and of the times.

    A frame that the cameras' schedule loses is not written, nor is one whose stamp is before zero.

    Raises:
        SinkError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"{folder}: cannot be created: {error.strerror}") from error
    streams: tuple[Stream, Stream] = ("vis", "ir")
    films = {stream: _film(stream, options) for stream in streams}
    plans = {stream: list(film.schedule.deliveries(options.duration_s)) for stream, film in films.items()}
    prefix = f"{options.name}-" if options.name else ""
    paths = {stream: folder / f"{prefix}{stream}.mkv" for stream in films}
    total = sum(len(plan) for plan in plans.values())
    done = 0
    for stream, film in films.items():
        for _ in _write_stream(paths[stream], film, plans[stream], options):
            done += 1
            if progress is not None:
                progress(done, total)
    if options.truth:
        numbers = sorted({capture.number: capture for capture in plans["vis"]}.items())
        for number, capture in numbers:
            t_s = films["vis"].scene_time(capture)
            write_truth(
                folder / f"{prefix}truth" / f"{number:06d}.npz",
                films["vis"].scene.truth(t_s),
                options.truth_step,
            )
    times = folder / f"{prefix}times.json"
    times.write_text(_times(films["vis"], plans, options), encoding="utf-8")
    return [paths["vis"], paths["ir"], times]


def write_truth(path: Path, truth: Truth, step: int) -> None:
    """Store a truth at every `step`-th pixel, beginning with pixel step // 2 of rows and columns.

    Arrays: displacement, ir_coordinates float32 (h, w, 2); inverse_depth float32 (h, w); valid, covered,
    moving, person uint8 (h, w); step, an integer.
    """
    path.parent.mkdir(exist_ok=True)
    at = np.s_[step // 2 :: step, step // 2 :: step]
    arrays = {
        name: getattr(truth, name)[at]
        for name in (
            "displacement",
            "ir_coordinates",
            "inverse_depth",
            "valid",
            "covered",
            "moving",
            "person",
        )
    }
    np.savez_compressed(path, step=np.array(step), **arrays)


def _film(stream: Stream, options: ClipOptions) -> Film:
    return Film(
        stream,
        scene=options.scene,
        rig=options.rig,
        timing=options.timing,
        code=options.code,
        start_s=options.start_s,
    )


def _write_stream(path: Path, film: Film, plan: list[Capture], options: ClipOptions) -> Iterator[Capture]:
    codec = options.ir_codec if film.stream == "ir" else options.vis_codec
    with _Track(path, film, codec, options.quality) as track:
        last = -1
        for capture in plan:
            tick = round(capture.pts * TIME_BASE / MKV_TIME_BASE)
            if not capture.lost and tick > last:
                track.write(film.picture(capture) if codec == "counts" else film.grey(capture), tick)
                last = tick
            yield capture


class _Track:
    """One Matroska file with one video stream."""

    def __init__(self, path: Path, film: Film, codec: str, quality: int) -> None:
        width, height = film.width, film.height
        self._converter: PixelConverter | None = None
        try:
            self._output: Any = av.open(f"file:{path}", "w", format="matroska")
        except OSError as error:
            raise SinkError(f"{path}: cannot be written: {error.strerror}") from error
        if codec == "counts":
            self._stream: Any = self._output.add_stream("ffv1")
            context = self._stream.codec_context
            context.width, context.height, context.pix_fmt = width, height, "gray16le"
            context.time_base, context.gop_size = MKV_TIME_BASE, 1
            context.options = {"level": "3", "slicecrc": "1"}
        else:
            settings = EncoderSettings(codec=codec, quality=quality, fps=film.schedule.delivery_fps)  # type: ignore[arg-type]
            self._stream = self._output.add_stream(encoder_name(settings.codec))
            context = self._stream.codec_context
            configure(context, settings, width=width, height=height, time_base=MKV_TIME_BASE)
            self._converter = PixelConverter(settings.codec, width=width, height=height)
        self._stream.time_base = MKV_TIME_BASE
        self._ticks_per_frame = max(1, round(1 / film.schedule.delivery_fps / MKV_TIME_BASE))

    def __enter__(self) -> "_Track":
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            if exc[0] is None:
                self._output.mux(self._stream.encode(None))
        finally:
            self._output.close()

    def write(self, image: Image8 | Image16, tick: int) -> None:
        if self._converter is None:
            frame = av.VideoFrame.from_ndarray(image, format="gray16le")
        else:
            rgb = image if image.ndim == 3 else np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), np.uint8)
            frame = self._converter.convert(rgb)  # type: ignore[arg-type]
        frame.pts, frame.time_base = tick, MKV_TIME_BASE
        frame.duration = self._ticks_per_frame
        self._output.mux(self._stream.encode(frame))


def _times(film: Film, plans: dict[Stream, list[Capture]], options: ClipOptions) -> str:
    """JSON, one capture a line."""
    about = {
        "time_base": str(TIME_BASE),
        "homography": {
            "of": "visible pixels to infrared pixels at infinity at the first frame, but for the bend",
            "matrix": film.scene.homography(options.start_s).tolist(),
        },
        "options": options.model_dump(mode="json"),
    }
    parts = [f'"{key}": {json.dumps(value)}' for key, value in about.items()]
    for stream, plan in plans.items():
        lines = ",\n  ".join(json.dumps(asdict(capture)) for capture in plan)
        parts.append(f'"{stream}": [\n  {lines}\n ]')
    return "{\n " + ",\n ".join(parts) + "\n}\n"
