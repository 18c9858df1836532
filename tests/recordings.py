"""Recorded clips as configuration, and what is in the files that come out."""

import hashlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

FAST = ("--set", "registration.model=none", "--set", "fusion.model=average", "--set", "worker.device=cpu")

Pts = list[Fraction]


def stamps(path: Path | str) -> Pts:
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [frame.pts * frame.time_base for frame in frames]


def pictures(path: Path | str) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def digest(path: Path | str) -> str:
    return hashlib.sha256(b"".join(image.tobytes() for image in pictures(path))).hexdigest()


def settings(ir: Any, vis: Any, **sections: Any) -> dict[str, Any]:
    return {
        "sources": {"ir": ir, "vis": vis},
        "registration": {"model": "none"},
        "fusion": {"model": "average"},
        "worker": {"device": "cpu"},
        **sections,
    }
