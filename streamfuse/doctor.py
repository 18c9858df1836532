"""What will work on this machine, what will not, and why.

Every check tries the thing itself where that is cheap: an encoder is opened, a socket bound, a pair of
pictures fused, a clip written and read back. A library that cannot be imported is a finding, not a crash.
"""

import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any


class Verdict(StrEnum):
    """How a check came out."""

    OK = "ok"
    LIMITED = "limited"
    """Something is not available here; streamfuse does without."""
    BROKEN = "broken"
    """Something that is needed does not work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report. advice: what would help, empty when nothing is amiss."""

    area: str
    what: str
    verdict: Verdict
    detail: str
    advice: str = ""


SYSTEM_PACKAGES = {
    "libGL.so.1": "libgl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libxcb.so.1": "libxcb1",
    "libX11.so.6": "libx11-6",
    "libX11-xcb.so.1": "libx11-xcb1",
    "libXext.so.6": "libxext6",
    "libXrender.so.1": "libxrender1",
    "libSM.so.6": "libsm6",
    "libICE.so.6": "libice6",
    "libgomp.so.1": "libgomp1",
    "libstdc++.so.6": "libstdc++6",
}
"""Debian's names for the libraries that wheels expect from the system."""
CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16")
"""What makes networks faster on a processor, x86 and ARM."""
DECODERS = ("h264", "hevc", "mpeg4", "mjpeg", "ffv1", "vp9", "av1", "rawvideo")
TRIAL_FRAMES = 10
_MISSING_LIBRARY = re.compile(r"(lib[\w.+-]+\.so[.\d]*): cannot open shared object")


def examine() -> Iterator[Finding]:
    """Run every check, yielding what each found. A check that breaks is itself a finding."""
    for area, check in CHECKS:
        try:
            yield from check()
        except Exception as error:  # noqa: BLE001 - the report must reach its end on any machine
            yield Finding(
                area=area,
                what=check.__name__.strip("_").replace("_", " "),
                verdict=Verdict.BROKEN,
                detail=f"{type(error).__name__}: {error}",
                advice=library_advice(str(error)),
            )


def library_advice(message: str) -> str:
    """What to install when a shared library is missing; empty for any other message."""
    match = _MISSING_LIBRARY.search(message)
    if match is None:
        return ""
    package = SYSTEM_PACKAGES.get(match[1])
    if package is None:
        return f"install the system package that has {match[1]}"
    return f"apt-get install {package} (all that OpenCV needs: libgl1 libglib2.0-0)"


def _versions() -> Iterator[Finding]:
    yield Finding(
        area="versions",
        what="python",
        verdict=Verdict.OK,
        detail=f"{platform.python_version()} on {platform.platform()}",
    )
    for requirement in requires("streamfuse") or []:
        if "extra ==" in requirement:
            continue
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        try:
            yield Finding(area="versions", what=name, verdict=Verdict.OK, detail=version(name))
        except PackageNotFoundError:
            yield Finding(
                area="versions",
                what=name,
                verdict=Verdict.BROKEN,
                detail="not installed",
                advice=f'pip install "{requirement}"',
            )
    for module in ("numpy", "scipy", "cv2", "av", "torch", "zmq"):
        try:
            import_module(module)
        except Exception as error:  # noqa: BLE001 - binary modules fail in many ways
            yield Finding(
                area="versions",
                what=f"import {module}",
                verdict=Verdict.BROKEN,
                detail=str(error),
                advice=library_advice(str(error)),
            )


def _processor() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flags = ""
    with suppress(OSError):
        words = set(Path("/proc/cpuinfo").read_text().split())
        flags = " ".join(flag for flag in CPU_FLAGS if flag in words)
    few = cores < 2
    yield Finding(
        area="devices",
        what="processor",
        verdict=Verdict.LIMITED if few else Verdict.OK,
        detail=f"{cores} cores usable, {flags or 'no vector extensions known'}",
        advice="live runs want two cores or more" if few else "",
    )
    with suppress(OSError):
        memory = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
        if memory is not None:
            yield Finding(
                area="devices",
                what="memory",
                verdict=Verdict.OK,
                detail=f"{int(memory[1]) / 2**20:.1f} GiB available",
            )


def _accelerator() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            memory = f"{about.total_memory / 2**30:.0f} GiB"
            yield Finding(
                area="devices",
                what=f"cuda:{index}",
                verdict=Verdict.OK,
                detail=f"{about.name}, {memory}, capability {about.major}.{about.minor}",
            )
        return
    has_card = Path("/dev/nvidiactl").exists() or Path("/proc/driver/nvidia").exists()
    if torch.version.cuda is None:
        detail = "this PyTorch is built for the processor only"
        advice = "an NVIDIA card is there: install PyTorch with CUDA to use it" if has_card else ""
    else:
        detail = f"PyTorch for CUDA {torch.version.cuda} finds no usable NVIDIA card"
        advice = (
            "a card is there: update its driver, or give the container access (--gpus all)"
            if has_card
            else ""
        )
    yield Finding(area="devices", what="cuda", verdict=Verdict.LIMITED, detail=detail, advice=advice)


def _cameras() -> Iterator[Finding]:
    from streamfuse.capture.devices import find_cameras

    cameras = find_cameras()
    if not cameras:
        yield Finding(
            area="devices",
            what="cameras",
            verdict=Verdict.LIMITED,
            detail="no /dev/video*",
            advice="files and network streams need none; a container must be given its devices (--device)",
        )
    for camera in cameras:
        yield Finding(
            area="devices",
            what=str(camera.device),
            verdict=Verdict.LIMITED if camera.problem else Verdict.OK,
            detail=camera.problem or camera.name + (" (looks thermal)" if camera.thermal else ""),
            advice="join the group 'video'" if "ermission" in camera.problem else "",
        )


def _codecs() -> Iterator[Finding]:
    import av
    from av.codec import codecs_available

    from streamfuse.sinks.video_encoder import Codec, EncoderSettings, encoder_name, why_not

    yield Finding(area="codecs", what="ffmpeg", verdict=Verdict.OK, detail=str(av.ffmpeg_version_info))
    codecs: tuple[Codec, ...] = ("h264", "hevc", "ffv1", "h264_nvenc", "hevc_nvenc")
    for codec in codecs:
        reason = why_not(EncoderSettings(codec=codec), width=640, height=480)
        software = not codec.endswith("_nvenc")
        yield Finding(
            area="codecs",
            what=f"write {codec}",
            verdict=Verdict.OK if reason is None else Verdict.LIMITED,
            detail=encoder_name(codec) if reason is None else reason,
            advice=""
            if reason is None or software
            else f"{codec.removesuffix('_nvenc')} is written in software",
        )
    missing = [name for name in DECODERS if name not in codecs_available]
    yield Finding(
        area="codecs",
        what="read",
        verdict=Verdict.LIMITED if missing else Verdict.OK,
        detail=" ".join(name for name in DECODERS if name not in missing),
        advice=f"cannot read {' '.join(missing)}" if missing else "",
    )
    networks = {"rtsp", "mpegts", "mpjpeg"} - av.formats_available
    yield Finding(
        area="codecs",
        what="network streams",
        verdict=Verdict.LIMITED if networks else Verdict.OK,
        detail=f"missing {' '.join(sorted(networks))}" if networks else "rtsp, http",
    )


def _display() -> Iterator[Finding]:
    from streamfuse.errors import SinkError
    from streamfuse.sinks.display import display_for_windows

    try:
        with display_for_windows():
            pass
    except SinkError as error:
        reason = str(error).removeprefix("screen: ")
        yield Finding(
            area="outputs",
            what="screen",
            verdict=Verdict.LIMITED,
            detail=reason,
            advice=library_advice(reason) or "the screen sink will refuse to start; files and topics work",
        )
    else:
        where = os.environ.get("DISPLAY", "")
        yield Finding(area="outputs", what="screen", verdict=Verdict.OK, detail=f"display {where}".strip())


def _topics() -> Iterator[Finding]:
    import zmq

    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        socket.bind_to_random_port("tcp://127.0.0.1")
    curve = "with" if zmq.has("curve") else "without"
    yield Finding(
        area="outputs",
        what="zeromq",
        verdict=Verdict.OK,
        detail=f"libzmq {zmq.zmq_version()}, {curve} encryption, port bound on 127.0.0.1",
    )


def _fuse() -> Iterator[Finding]:
    """The main job in small: fuse a pair, write a clip, read it back."""
    import numpy as np

    from streamfuse.api import fuse_pair

    rows, columns = np.mgrid[0:96, 0:128]
    grey = (127 + 60 * np.sin(rows / 7) + 60 * np.cos(columns / 9)).astype(np.uint8)
    frame = fuse_pair(grey, np.dstack([grey, 255 - grey, grey]))
    yield Finding(
        area="fuse",
        what="fuse a pair",
        verdict=Verdict.OK,
        detail=f"{frame.image.shape[1]}x{frame.image.shape[0]}, status {frame.status.value}",
    )
    with tempfile.TemporaryDirectory() as folder:
        read = _write_and_read(Path(folder) / "trial.mkv", frame)
    yield Finding(
        area="fuse",
        what="write a clip",
        verdict=Verdict.OK if read == TRIAL_FRAMES else Verdict.BROKEN,
        detail=f"{TRIAL_FRAMES} frames written, {read} read back",
    )


def _write_and_read(path: Path, frame: Any) -> int:
    import av

    from streamfuse.clock import VirtualClock
    from streamfuse.sinks.video_file import VideoFileOptions, VideoFileSink

    sink = VideoFileSink(VideoFileOptions(path=path), clock=VirtualClock())
    for _ in range(TRIAL_FRAMES):
        sink.write(frame)
    sink.close()
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


CHECKS: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
    ("versions", _versions),
    ("devices", _processor),
    ("devices", _accelerator),
    ("devices", _cameras),
    ("codecs", _codecs),
    ("outputs", _display),
    ("outputs", _topics),
    ("fuse", _fuse),
)
