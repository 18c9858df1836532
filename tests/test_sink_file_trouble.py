"""Files whose writing goes wrong: options, missing encoders, killed processes, full disks."""

import collections
import contextlib
import math
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import pytest
from factories import fused_frame
from pydantic import ValidationError
from written import decode, make_sink, write_all

from streamfuse.errors import SinkError
from streamfuse.sinks.video_file import FLUSH_MS, VideoFileOptions


def decode_torn(path: Path) -> list[av.VideoFrame]:
    """What a player shows of a file whose last packet may be cut."""
    frames: list[av.VideoFrame] = []
    with av.open(str(path)) as container, contextlib.suppress(av.error.InvalidDataError):
        for frame in container.decode(video=0):
            frames.append(frame)
    return frames


# --- trouble ---


def test_a_missing_hardware_encoder_is_replaced_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [fused_frame(i, width=160, height=160) for i in range(40)]
    write_all(tmp_path / "out.mkv", frames, codec="h264_nvenc", segment_s=0.5)
    reasons = [r.getMessage() for r in caplog.records if "h264_nvenc" in r.getMessage()]
    assert sum(len(decode(f)) for f in tmp_path.iterdir()) == 40
    if reasons:  # no NVENC on this machine
        assert len(reasons) == 1
        assert "encoding with libx264" in reasons[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "out.avi"}, r"\.avi cannot be written; use \.mkv or \.mp4"),
        ({"path": "out.mp4", "codec": "ffv1"}, "needs an .mkv path"),
        ({"path": "out.mkv", "codec": "ffv1", "quality": 3}, "lossless"),
        ({"path": "out.mkv", "quality": 52}, "less than or equal to 51"),
        ({"path": "out.mkv", "qualty": 2}, "qualty"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        VideoFileOptions(**options)


def test_an_unwritable_output_is_refused_on_open(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("a file, not a folder")
    (tmp_path / "folder.mkv").mkdir()
    for path in (tmp_path / "plain" / "out.mkv", tmp_path / "folder.mkv", Path("/proc/out.mkv")):
        with pytest.raises(SinkError, match=f"{path}: cannot be written"):
            make_sink(path).open()


def test_a_finished_file_is_not_opened_again(tmp_path: Path) -> None:
    sink = make_sink(tmp_path / "out.mkv")
    sink.write(fused_frame(0))
    sink.close()
    with pytest.raises(SinkError, match="was closed"):
        sink.write(fused_frame(1))
    assert len(decode(tmp_path / "out.mkv")) == 1


def test_opening_alone_leaves_no_file(tmp_path: Path) -> None:
    sink = make_sink(tmp_path / "out.mkv")
    sink.open()
    sink.close()
    assert list(tmp_path.iterdir()) == []


WRITER = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from test_sink_file import make_sink, Path, SinkError, fused_frame
path, limit = Path(sys.argv[2]), int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sink = make_sink(path)
try:
    for index in range(100_000):
        sink.write(fused_frame(index, width=160, height=120))
        print(index + 1, flush=True)
except SinkError as error:
    print(error, file=sys.stderr)
    try:
        sink.write(fused_frame(index))
    except SinkError as again:
        print(again, file=sys.stderr)
    sink.close()
    sys.exit(7)
"""


def start_writer(path: Path, *, size_limit: int = 0) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(path), str(size_limit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4"])
def test_a_killed_writer_leaves_a_playable_file(tmp_path: Path, name: str) -> None:
    """SIGKILL at a random frame: every frame older than one flush interval is there and decodes."""
    last = random.randrange(40, 160)
    with start_writer(tmp_path / name) as child:
        assert child.stdout is not None
        written = next(int(line) for line in child.stdout if int(line) >= last)
        child.send_signal(signal.SIGKILL)
        child.communicate()
    survivors = decode_torn(tmp_path / name)
    assert len(survivors) >= written - math.ceil(FLUSH_MS / 1000 * 30) - 1
    stamps = [round(float(f.pts * f.time_base) * 30) for f in survivors]
    assert stamps == list(range(len(survivors)))


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4"])
def test_a_full_disk_ends_the_sink_and_keeps_the_file(tmp_path: Path, name: str) -> None:
    with start_writer(tmp_path / name, size_limit=200_000) as child:
        out, err = child.communicate(timeout=60)
    assert child.returncode == 7
    first, again = err.splitlines()
    assert "writing failed: File too large; what was written so far is kept" in first
    assert again == first
    written = int(out.split()[-1])
    assert len(decode_torn(tmp_path / name)) >= written - math.ceil(FLUSH_MS / 1000 * 30) - 1


def test_a_device_without_space_is_named(tmp_path: Path) -> None:
    (tmp_path / "out.mkv").symlink_to("/dev/full")
    sink = make_sink(tmp_path / "out.mkv")
    with pytest.raises(SinkError, match=r"out\.mkv: writing failed: No space left on device"):
        collections.deque((sink.write(fused_frame(i)) for i in range(5)), maxlen=0)
    sink.close()


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="ffprobe not installed")
def test_other_players_read_the_same_tags(tmp_path: Path) -> None:
    write_all(tmp_path / "out.mp4", [fused_frame(i) for i in range(5)], codec="hevc")
    entries = "stream=codec_name,codec_tag_string,color_space,color_range,pix_fmt,chroma_location"
    command = ["ffprobe", "-v", "error", "-of", "flat", "-show_entries", entries, str(tmp_path / "out.mp4")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for text in ('"hevc"', '"hvc1"', '"smpte170m"', '"tv"', '"yuv420p"', '"center"'):
        assert text in lines
