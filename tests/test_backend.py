"""`worker.backend`: every backend computes what eager PyTorch computes, and mistakes are named.

`pytest -m slow tests/test_backend.py` compiles, which takes a minute.
"""

import os
import subprocess
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import av
import cv2
import media
import numpy as np
import pytest

from streamfuse.clock import NS_PER_MS, VirtualClock
from streamfuse.config import Component, WorkerOptions
from streamfuse.errors import ConfigError
from streamfuse.frame import Image8
from streamfuse.fusion.maximum import MaximumFuser
from streamfuse.nn import backend_names
from streamfuse.nn.backend import fastest
from streamfuse.nn.backend_names import BackendName, check_backend
from streamfuse.pipeline import Pipeline
from streamfuse.registration.blocks import BlocksRegistrar
from streamfuse.registration.live import LiveOptions, LiveRegistrar
from streamfuse.worker import Worker

SMALLER = (192, 256)
needs_openvino = pytest.mark.skipif(
    find_spec("openvino") is None and not os.environ.get("CI"),
    reason="OpenVINO is not installed: pip install 'streamfuse[openvino]'; in CI that is a failure",
)


@pytest.fixture(scope="module")
def street() -> tuple[Image8, Image8]:
    """Infrared and visible luma of the sample."""
    clips = [av.open(str(files("streamfuse") / "samples" / f"street-{name}.mkv")) for name in ("ir", "vis")]
    ir, vis = (next(iter(clip.decode(video=0))).to_ndarray(format="gray") for clip in clips)
    return np.asarray(cv2.resize(ir, vis.shape[::-1]), np.uint8), vis


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param("openvino", marks=needs_openvino),
        pytest.param("compile", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
@pytest.mark.parametrize(("precision", "pixels"), [("float32", 1e-3), ("bfloat16", 0.1)])
def test_fields_are_those_of_eager(
    street: tuple[Image8, Image8], backend: BackendName, precision: str, pixels: float
) -> None:
    """In bfloat16 sums are rounded at other places: eager itself is 0.02 pixel from float32."""
    eager, other = (LiveRegistrar(LiveOptions(precision=precision)) for _ in range(2))
    assert eager.prepare(street[1].shape, backend="eager") == "eager"
    assert other.prepare(street[1].shape, backend=backend) == backend
    prior = eager.register(*street)
    small = [np.asarray(cv2.resize(picture, SMALLER[::-1]), np.uint8) for picture in street]
    for asked in ({}, {"prior": prior}):
        one, two = (registrar.register(*street, **asked) for registrar in (eager, other))
        assert np.linalg.norm(one.flow - two.flow, axis=-1).mean() < pixels
        assert two.confidence == pytest.approx(one.confidence, abs=0.01)
        assert two.warm == bool(asked)
    # Nothing is kept of a part's result when it is called again, and other sizes are computed, too.
    *_, searched = other.search(*street)
    np.testing.assert_array_equal(searched.flow, other.register(*street).flow)
    np.testing.assert_array_equal(other.register(*small).flow, eager.register(*small).flow)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_auto_takes_changes_no_result(street: tuple[Image8, Image8], precision: str) -> None:
    """It goes by the clock, and recordings are to come out the same every time."""
    eager, auto = (LiveRegistrar(LiveOptions(precision=precision)) for _ in range(2))
    eager.prepare(street[1].shape, backend="eager")
    assert auto.prepare(street[1].shape, backend="auto") in ("eager", "openvino")
    for asked in ({}, {"prior": eager.register(*street)}):
        one, two = (registrar.register(*street, **asked) for registrar in (eager, auto))
        np.testing.assert_array_equal(one.flow, two.flow)


@needs_openvino
def test_a_search_is_not_disturbed_by_the_frames_beside_it(street: tuple[Image8, Image8]) -> None:
    registrar = LiveRegistrar(LiveOptions())
    registrar.prepare(street[1].shape, backend="openvino")
    whole = registrar.register(*street)
    pieces = []
    for piece in registrar.search(*street):
        pieces.append(piece)
        registrar.register(street[1], street[0], prior=whole)
    np.testing.assert_array_equal(pieces[-1].flow, whole.flow)


INTERRUPTED = """
import gc, os, signal
import numpy as np
from streamfuse.registration.live import LiveOptions, LiveRegistrar
for _ in range(2):
    registrar = LiveRegistrar(LiveOptions(precision="float32"))
    registrar.prepare((64, 96), backend="openvino")
    del registrar
    gc.collect()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


@needs_openvino
def test_an_interrupt_after_openvino_was_dropped_is_an_interrupt() -> None:
    """It leaves a stack for signal handlers behind, which has to outlive it."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


@pytest.mark.parametrize(
    ("eager_ms", "openvino_ms", "chosen"), [(20, 15, "openvino"), (20, 25, "eager"), (20, 19.8, "eager")]
)
def test_auto_takes_the_fastest_and_eager_in_doubt(
    eager_ms: float, openvino_ms: float, chosen: str, rng: np.random.Generator
) -> None:
    """However much other programs add to each call."""
    clock = VirtualClock()

    def call(ms: float) -> None:
        clock.sleep_ns(round((ms + rng.choice([0, 0, 40])) * NS_PER_MS))

    calls = {"eager": lambda: call(eager_ms), "openvino": lambda: call(openvino_ms)}
    assert fastest(calls, now_ns=clock.now_ns) == chosen


def test_without_openvino_auto_is_eager_and_its_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, street: tuple[Image8, Image8]
) -> None:
    monkeypatch.setattr(backend_names, "find_spec", lambda name: None)
    assert LiveRegistrar(LiveOptions()).prepare(SMALLER, backend="auto") == "eager"
    with pytest.raises(ConfigError, match=r"pip install 'streamfuse\[openvino\]'"):
        Worker(
            Component("live", LiveOptions()),
            Component("max", MaximumFuser.Options()),
            options=WorkerOptions(device="cpu", backend="openvino"),
        )


def test_a_backend_that_has_nothing_to_compute_is_refused() -> None:
    with pytest.raises(ConfigError, match="'blocks' has none"):
        Worker(
            Component("blocks", BlocksRegistrar.Options()),
            Component("max", MaximumFuser.Options()),
            options=WorkerOptions(device="cpu", backend="compile"),
        )
    with pytest.raises(ConfigError, match="compile is for the CPU"):
        check_backend("compile", device="cuda:1")


@pytest.mark.slow
def test_without_a_compiler_the_message_says_what_is_missing(tmp_path: Path) -> None:
    code = (
        "from streamfuse.registration.live import LiveOptions, LiveRegistrar\n"
        "LiveRegistrar(LiveOptions()).prepare((64, 96), backend='compile')\n"
    )
    environment = {**os.environ, "CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ran.returncode == 1
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("streamfuse.errors.ConfigError: worker.backend: compile")
    assert "C++ compiler" in last


@pytest.mark.parametrize(("model", "expected"), [("live", {"eager", "openvino"}), ("blocks", {None})])
def test_the_report_says_which_backend_was_used(tmp_path: Path, model: str, expected: set) -> None:
    clip = {"kind": "file", "path": str(media.write_clip(tmp_path / "clip.mkv"))}
    pipeline = Pipeline.from_config(
        {
            "sources": {"ir": clip, "vis": clip},
            "registration": {"model": model},
            "worker": {"device": "cpu"},
        }
    )
    assert pipeline.run().backend in expected
