"""The sound of the visible clip, carried over packet by packet without decoding."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from streamfuse.errors import SinkError


class AudioCopy:
    """Hands out the audio packets of a clip in step with the pictures written.

    Raises SinkError when the clip cannot be opened; `present` says whether it has sound at all.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._input = av.open(f"file:{path}")
        except (av.FFmpegError, OSError) as error:
            raise SinkError(f"audio_from: cannot open {path}: {error}") from error
        self._source = next(iter(self._input.streams.audio), None)
        self._packets: Iterator[Any] = iter(())
        self._pending: Any = None
        if self._source is not None:
            self._packets = (p for p in self._input.demux(self._source) if p.pts is not None)
            self._pending = next(self._packets, None)
        self._target: Any = None

    @property
    def present(self) -> bool:
        return self._source is not None

    @property
    def codec(self) -> str:
        """FFmpeg's name of the sound's codec, empty without sound."""
        return str(self._source.codec_context.name) if self._source is not None else ""

    def attach(self, output: Any, *, start: Fraction) -> None:
        """Add the audio stream to a new output file whose first picture stands at `start` seconds."""
        self._target = output.add_stream_from_template(self._source)
        for _ in self._until(start):
            pass

    def mux(self, output: Any, *, until: Fraction) -> None:
        """Write the packets that start before `until` seconds."""
        for packet in self._until(until):
            packet.stream = self._target
            output.mux(packet)

    def close(self) -> None:
        self._input.close()

    def _until(self, seconds: Fraction) -> Iterator[Any]:
        while self._pending is not None and self._pending.pts * self._pending.time_base < seconds:
            packet, self._pending = self._pending, next(self._packets, None)
            yield packet
