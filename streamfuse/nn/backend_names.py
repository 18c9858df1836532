"""Which backends there are, and whether one can be used: known without loading PyTorch."""

from importlib.util import find_spec
from typing import Literal

from streamfuse.errors import ConfigError

BackendName = Literal["eager", "compile", "openvino"]
Backend = Literal["auto", "eager", "compile", "openvino"]
MEASURED_BY_AUTO: tuple[BackendName, ...] = ("openvino",)
"""Beside `eager`. Not `compile`, which takes a minute to start."""


def is_installed(backend: BackendName) -> bool:
    """Whether what a backend needs can be imported. (A compiler's absence shows when it is called.)"""
    return backend != "openvino" or find_spec("openvino") is not None


def check_backend(backend: Backend, *, device: str) -> None:
    """Raise ConfigError where a backend asked for by name cannot be used."""
    if backend == "auto" or backend == "eager":
        return
    if device != "cpu":
        raise ConfigError(f"worker.backend: {backend} is for the CPU, the worker is on {device}; use auto")
    if not is_installed(backend):
        raise ConfigError(
            f"worker.backend: {backend} is not installed; pip install 'streamfuse[{backend}]', or use auto"
        )
