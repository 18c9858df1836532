"""`streamfuse run` whose terminal or reader goes away: it finishes, and its counts are kept."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scripted import textured

from streamfuse.clock import NS_PER_MS, RealClock

FRAMES = 3000
"""Half a minute at most: a run that does not end of itself fails here and does not hang."""


def pictures() -> Iterator[np.ndarray]:
    clock = RealClock()
    for index in range(FRAMES):
        yield textured(index)
        clock.sleep_ns(10 * NS_PER_MS)


def start(tmp_path: Path, *options: str) -> "subprocess.Popen[str]":
    source = {"kind": "python", "frames": f"{__name__}:pictures", "live": True}
    tree = {
        "sources": {"ir": source, "vis": source},
        "registration": {"model": "none"},
        "fusion": {"model": "average"},
        "worker": {"device": "cpu"},
    }
    (tmp_path / "rig.yaml").write_text(json.dumps(tree))
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    report = ["--report", str(tmp_path / "report.json")]
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "streamfuse",
            "run",
            str(tmp_path / "rig.yaml"),
            "--log-json",
            *report,
            *options,
        ],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def frames_out(tmp_path: Path) -> int:
    return int(json.loads((tmp_path / "report.json").read_text())["frames_out"])


def test_the_run_keeps_its_duration_when_nobody_reads_its_lines(tmp_path: Path) -> None:
    with start(tmp_path, "--duration", "3") as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.stdout.close()
        run.wait(120)
    assert 0 < frames_out(tmp_path) < FRAMES // 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_live_run_that_is_told_to_end_finishes(number: signal.Signals, tmp_path: Path) -> None:
    with start(tmp_path) as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.send_signal(number)
        said, trouble = run.communicate(timeout=120)
    assert (run.returncode, trouble) == (0, "\nfinishing what is under way; again to stop at once\n")
    final = json.loads(said.splitlines()[-1])
    assert final["final"]
    assert final["frames_out"] == frames_out(tmp_path) < FRAMES
