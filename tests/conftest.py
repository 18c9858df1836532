"""Fixtures shared by all tests."""

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest_plugins = ["evaluations", "live_runs", "network", "sources"]
"""Their fixtures; what else they hold is imported."""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data (STREAMFUSE_DATA, by default ../shared); in CI its absence is a failure."""
    root = Path(os.environ.get("STREAMFUSE_DATA", Path(__file__).parents[2] / "shared"))
    if not (root / "data").is_dir():
        message = f"no real data at {root}: set STREAMFUSE_DATA to the folder that holds data/ and golden/"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return root


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)


@pytest.fixture(autouse=True)
def _no_errors_logged(request: pytest.FixtureRequest) -> Iterator[None]:
    """A passing test logs no ERROR, unless it asks for the `expects_errors` fixture."""
    records: list[logging.LogRecord] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    collector = Collector(level=logging.ERROR)
    logging.getLogger("streamfuse").addHandler(collector)
    yield
    logging.getLogger("streamfuse").removeHandler(collector)
    if records and "expects_errors" not in request.fixturenames:
        pytest.fail(f"logged ERROR: {[r.getMessage() for r in records]}")


@pytest.fixture
def expects_errors() -> None:
    """Marks a test that provokes ERROR log lines on purpose."""


@pytest.fixture(autouse=True)
def _no_leaked_threads() -> Iterator[None]:
    """A test ends with the streamfuse threads it started gone. Ours are named `streamfuse-...`."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("streamfuse-"):
            thread.join(timeout=5)
            assert not thread.is_alive(), f"thread {thread.name} outlived its test"
