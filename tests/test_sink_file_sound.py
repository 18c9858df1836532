"""Sound copied from the visible clip into the file that is written."""

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from factories import fused_frame, picture
from written import decode, make_sink, write_all

from streamfuse.errors import SinkError

# --- sound ---


def make_clip_with_sound(path: Path, *, seconds: float = 1.0, audio_codec: str = "aac") -> None:
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=30)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = output.add_stream(audio_codec, rate=48000)
        for index in range(round(seconds * 30)):
            output.mux(video.encode(av.VideoFrame.from_ndarray(picture(index), format="rgb24")))
        wave = np.sin(np.arange(round(seconds * 48000)) * 2 * math.pi * 440 / 48000) * 20000
        layout = "stereo"
        sound = av.AudioFrame.from_ndarray(np.repeat(wave.astype(np.int16), 2)[None], "s16", layout)
        sound.sample_rate, sound.pts, sound.time_base = 48000, 0, Fraction(1, 48000)
        for chunk in av.AudioResampler(audio.format, layout, 48000, frame_size=1024).resample(sound):
            output.mux(audio.encode(chunk))
        output.mux(video.encode(None))
        output.mux(audio.encode(None))


def sound_packets(path: Path) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return [
            (p.pts * p.time_base, bytes(p)) for p in container.demux(stream) if p.size and p.pts is not None
        ]


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4"])
def test_sound_is_copied_in_step(tmp_path: Path, name: str) -> None:
    make_clip_with_sound(tmp_path / "clip.mp4")
    write_all(tmp_path / name, [fused_frame(i) for i in range(30)], audio_from=tmp_path / "clip.mp4")
    original = [p for p in sound_packets(tmp_path / "clip.mp4") if 0 <= p[0] < 1]
    copied = sound_packets(tmp_path / name)
    assert [data for _, data in copied] == [data for _, data in original]
    for (new, _), (old, _) in zip(copied, original, strict=True):
        assert abs(new - old) <= Fraction(1, 1000)
    assert len(decode(tmp_path / name)) == 30


def test_sound_of_a_part_starts_with_the_part(tmp_path: Path) -> None:
    make_clip_with_sound(tmp_path / "clip.mp4")
    write_all(tmp_path / "out.mkv", [fused_frame(i) for i in range(15, 24)], audio_from=tmp_path / "clip.mp4")
    copied = sound_packets(tmp_path / "out.mkv")
    assert Fraction(1, 2) <= copied[0][0] < Fraction(1, 2) + Fraction(1024, 48000)
    assert copied[-1][0] < Fraction(24, 30)


def test_sound_goes_on_through_segments(tmp_path: Path) -> None:
    make_clip_with_sound(tmp_path / "clip.mp4", seconds=2)
    write_all(
        tmp_path / "r.mkv", [fused_frame(i) for i in range(60)], audio_from=tmp_path / "clip.mp4", segment_s=1
    )
    parts = [data for f in sorted(tmp_path.glob("r_*.mkv")) for _, data in sound_packets(f)]
    assert parts == [data for t, data in sound_packets(tmp_path / "clip.mp4") if 0 <= t < 2]


def test_a_clip_without_sound_is_written_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_all(tmp_path / "clip.mkv", [fused_frame(0)])
    write_all(tmp_path / "out.mkv", [fused_frame(0)], audio_from=tmp_path / "clip.mkv")
    assert len(decode(tmp_path / "out.mkv")) == 1
    assert "has no sound" in caplog.text


def test_sound_troubles_are_named(tmp_path: Path) -> None:
    make_clip_with_sound(tmp_path / "clip.mkv", audio_codec="pcm_s16le")
    with pytest.raises(SinkError, match=r"cannot open .*gone\.mkv"):
        make_sink(tmp_path / "out.mkv", audio_from=tmp_path / "gone.mkv").open()
    with pytest.raises(SinkError, match=r"out\.mp4: cannot start .* with pcm_s16le sound \(\.mkv"):
        write_all(tmp_path / "out.mp4", [fused_frame(0)], audio_from=tmp_path / "clip.mkv")
    with pytest.raises(SinkError, match="not a live source"):
        write_all(tmp_path / "out.mkv", [fused_frame(0, live=True)], audio_from=tmp_path / "clip.mkv")
    with pytest.raises(SinkError, match="is the clip its sound would be copied from"):
        make_sink(tmp_path / "clip.mkv", audio_from=tmp_path / "clip.mkv").open()
