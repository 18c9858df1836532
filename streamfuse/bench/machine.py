"""What a measurement was made on: without it a figure means nothing."""

import os
import platform
import resource
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from streamfuse import __version__
from streamfuse.clock import RealClock
from streamfuse.threads import default_threads

PACKAGES = ("torch", "opencv-python", "numpy", "av")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, load by others, versions, and when."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "wall_s": RealClock().wall_ns() // 1_000_000_000,
        "cpu": _cpu_name(),
        "cores": cores,
        "threads": default_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "streamfuse": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def cpu_seconds() -> float:
    """Processor time of this process so far, all threads, in user code and in the kernel."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far.

    `ru_maxrss` would begin with that of the process it was started from.
    """
    return _status_bytes("VmHWM:") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_bytes() -> int:
    """Resident memory of this process now; 0 where the system does not tell."""
    return _status_bytes("VmRSS:")


def _status_bytes(key: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), 0)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
