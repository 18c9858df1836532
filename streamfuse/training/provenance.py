"""Where weights come from: what a provenance record says about the run that made them."""

import csv
import subprocess
from pathlib import Path


def commit() -> str:
    """The commit of the source tree the package runs from, `+` when it is changed; `unknown` outside one."""
    here = Path(__file__).parent
    try:
        name = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--", "."], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + ("+" if changes else "")


def curve(log: Path, figure: str) -> dict[int, float]:
    """One validation figure by step, from the log of a run."""
    with log.open(newline="") as file:
        rows = list(csv.reader(file))
    return {
        int(step): float(value) for step, phase, key, value in rows if (phase, key) == ("validate", figure)
    }
