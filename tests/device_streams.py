"""Stand-ins for CUDA streams and events that run their work late, in any order that is allowed.

A stream is a queue. Copies made while it is the current one, and work handed to `later`, wait in it; an event
is a mark in it, and another stream may not go on beyond a wait before the mark is passed. When the host waits
for an event, streams chosen at random run a step at a time until it has been passed. So code that has an
event too few gives wrong results here sooner or later, as on a device.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from streamfuse.device.layout import Layout


class Events:
    """All streams of one test."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.streams: list[Stream] = []
        self.current: list[Stream] = []

    def run_until(self, event: "Event") -> None:
        while not event.passed:
            able = [stream for stream in self.streams if stream.able]
            assert able, "the host waits for an event that no stream will pass"
            able[self.rng.integers(len(able))].step()

    def later(self, work: Callable[[], object]) -> None:
        self.current[-1].queue.append(work)


class Stream:
    def __init__(self, world: Events) -> None:
        self.queue: deque[Any] = deque()
        world.streams.append(self)

    @property
    def able(self) -> bool:
        return bool(self.queue) and not (isinstance(self.queue[0], Wait) and not self.queue[0].mark[0])

    def step(self) -> None:
        first = self.queue.popleft()
        if isinstance(first, list):
            first[0] = True
        elif not isinstance(first, Wait):
            first()

    def synchronize(self) -> None:
        while self.queue:
            self.step()

    def wait_event(self, event: "Event") -> None:
        self.queue.append(Wait(event.mark))


class Wait:
    def __init__(self, mark: list[bool]) -> None:
        self.mark = mark


class Event:
    """Recording again makes a new mark; who waits for the old one is not concerned."""

    def __init__(self, world: Events) -> None:
        self._world = world
        self.mark = [True]

    @property
    def passed(self) -> bool:
        return self.mark[0]

    def record(self) -> None:
        self.mark = [False]
        self._world.current[-1].queue.append(self.mark)

    def synchronize(self) -> None:
        self._world.run_until(self)

    def query(self) -> bool:
        return self.passed

    def elapsed_time(self, end: "Event") -> float:
        """Milliseconds, all of them alike."""
        assert self.passed
        assert end.passed
        return 1.0


class _LateCopies(TorchDispatchMode):
    def __init__(self, world: Events) -> None:
        super().__init__()
        self._world = world

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default:
            target, source = args[0].numpy(), args[1].numpy()
            self._world.later(lambda: np.copyto(target, source))
            return args[0]
        return func(*args, **(kwargs or {}))


def pretend_cuda(monkeypatch: pytest.MonkeyPatch, world: Events) -> None:
    """Until the test ends, `torch.cuda` has these streams, and its memory is the host's."""

    @contextmanager
    def current(stream: Stream) -> Iterator[None]:
        world.current.append(stream)
        with _LateCopies(world):
            yield
        world.current.pop()

    block = Layout.block
    monkeypatch.setattr(Layout, "block", lambda self, rows=1, **_: block(self, rows=rows))
    monkeypatch.setattr(torch.cuda, "Stream", lambda *_: Stream(world))
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: Event(world))
    monkeypatch.setattr(torch.cuda, "stream", current)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
