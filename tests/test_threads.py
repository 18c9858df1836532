"""The plan for threads: what a run sets is what was asked for, and it is undone."""

import os

import cv2
import numpy as np
import pytest
import torch

from streamfuse.pipeline import Pipeline
from streamfuse.threads import MOST_THREADS, default_threads


@pytest.mark.parametrize(("asked", "used"), [(3, 3), (None, default_threads())])
def test_a_run_computes_on_its_threads_and_leaves_the_process_as_it_was(asked: int | None, used: int) -> None:
    before = cv2.getNumThreads(), torch.get_num_threads()
    seen = []
    pipeline = Pipeline.from_config(
        {
            "worker": {"threads": asked, "device": "cpu"},
            "registration": {"model": "none"},
            "fusion": {"model": "average"},
        },
        ir=[np.zeros((48, 64), np.uint8)],
        vis=[np.zeros((48, 64, 3), np.uint8)],
    )
    for _ in pipeline:
        seen.append((cv2.getNumThreads(), torch.get_num_threads()))
    assert seen == [(used, used)]
    assert (cv2.getNumThreads(), torch.get_num_threads()) == before


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (4, 3), (32, MOST_THREADS)])
def test_one_core_is_left_to_reading_and_encoding(
    cores: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert default_threads() == threads
