"""Who computes on how many threads.

Problem. Reading, fusing and encoding have threads of their own already, and both OpenCV and PyTorch would
start one more per core inside each call. PyTorch's (OpenMP) wait for each other by spinning: as soon as
another thread or program takes one of the cores, every small convolution lasts until the scheduler has given
it back. On two cores with other work going on, the learned registrar took 60 ms on one thread and 230 ms on
two (p99 115 and 3800 ms). Design. The fusing thread gets the cores that reading and encoding leave, never
more than pay.
"""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import cv2

T = TypeVar("T")

MOST_THREADS = 4
"""Pictures are worked on at about 400 x 304: more threads have too little to do each."""

_lock = threading.Lock()
_before: list[tuple[int, int]] = []
"""For each run under way what was set before the first one: threads of OpenCV and PyTorch (0: not loaded)."""


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class SecondThread:
    """A thread for what can go on beside the fusing one; without a core to spare all is done at once.

    Args:
        device: where networks compute: beside a GPU nothing is worth a thread.
    """

    def __init__(self, name: str, *, device: str = "cpu") -> None:
        spare = device == "cpu" and available_cores() > 1
        self._pool = ThreadPoolExecutor(1, f"streamfuse-{name}") if spare else None

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have it done, after what was given before. What it raises the future raises."""
        return done_at_once(work) if self._pool is None else self._pool.submit(work)


def done_at_once(work: Callable[[], T]) -> Future[T]:
    """As `SecondThread.submit` without the thread."""
    done: Future[T] = Future()
    done.set_result(work())
    return done


def default_threads() -> int:
    """All cores that this process may use but one, which reads and encodes; at least one."""
    return max(1, min(available_cores() - 1, MOST_THREADS))


def use_threads(count: int | None) -> Callable[[], None]:
    """Have OpenCV and (where it is loaded) PyTorch compute on `count` threads; None: `default_threads`.

    The counts belong to the whole process: of runs side by side the last one to begin sets them.

    Returns:
        What brings the counts back that were set before any run, once the last one calls it.
    """
    count = count or default_threads()
    with _lock:
        if not _before:
            torch = sys.modules.get("torch")
            _before.append((cv2.getNumThreads(), 0 if torch is None else torch.get_num_threads()))
        else:
            _before.append(_before[0])
        _set(count, count)

    def restore() -> None:
        with _lock:
            counts = _before.pop()
            if not _before:
                _set(*counts)

    return restore


def _set(opencv: int, pytorch: int) -> None:
    cv2.setNumThreads(opencv)
    torch = sys.modules.get("torch")
    if torch is not None and pytorch > 0:
        torch.set_num_threads(pytorch)
