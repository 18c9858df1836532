"""The threads of a live run: one a camera, one that pairs and fuses.

The fusing thread sleeps until a frame arrives or the matcher's next deadline passes. The cameras' threads
belong to `CaptureThread`; a camera that dies and comes back is their business, an error that ends one for
good ends the run.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Literal

from streamfuse.capture.thread import CaptureThread
from streamfuse.clock import NS_PER_S, Clock
from streamfuse.errors import ConfigError
from streamfuse.frame import STREAMS, FusedFrame, Stream
from streamfuse.pipeline.core import FusionCore

IDLE_WAIT_S = 0.5
"""Longest sleep without any event: bounds how late an ended source is noticed."""
DRAIN_S = 2.0
"""How long after `stop` decided pairs are still fused; those left are counted."""
END_S = 5.0
"""For the end of a run whose frames cost nothing: each camera has 2 s to let go."""
FRAMES_AT_END = 3
"""The frame under way when the end comes, one begun just before `DRAIN_S` is over, and a reserve."""


def decide_live(mode: Literal["auto", "live", "offline"], live: Mapping[Stream, bool]) -> bool:
    """Whether a run is live, from `pipeline.mode` and what each source is. Raises ConfigError."""
    if mode == "auto":
        if len(set(live.values())) > 1:
            finite, endless = sorted(STREAMS, key=lambda stream: live[stream])
            raise ConfigError(
                f"sources.{endless} is live and sources.{finite} is not: their stamps have no "
                "common time line. Set pipeline.mode=live to play the finite one in real time"
            )
        return live["ir"]
    if mode == "offline" and any(live.values()):
        raise ConfigError("pipeline.mode=offline, but a live source cannot wait: use live or auto")
    return all(live.values())


class LiveRunner:
    """Drives a core from two capture threads.

    Args:
        captures: not started yet; their `notify` must be this runner's `wake`.
        deliver: takes each fused frame on the fusing thread; must not block.
        stop_asked: whether the run is to end, though nobody may have come to call `stop` yet.
    """

    def __init__(
        self,
        core: FusionCore,
        captures: dict[Stream, CaptureThread],
        deliver: Callable[[FusedFrame], None],
        *,
        stop_asked: Callable[[], bool] = lambda: False,
        clock: Clock,
    ) -> None:
        self.error: BaseException | None = None
        self._core = core
        self._captures = captures
        self._deliver = deliver
        self._stop_asked = stop_asked
        self._clock = clock
        self._slowest_ns = 0
        self._began_ns: int | None = None
        self._drain_until_ns: int | None = None
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="streamfuse-fusion", daemon=True)

    def wake(self) -> None:
        """Something arrived or changed; any thread may call it."""
        self._wake.set()

    def start(self) -> None:
        for capture in self._captures.values():
            capture.start()
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> bool:
        """End the run: cameras closed, what is decided is fused while there is time, the rest accounted for.

        Waits for a few frames as slow as the slowest one so far, and then leaves the thread behind.

        Returns:
            Whether the run ended.
        """
        self._begin_drain()
        self._stopping.set()
        self.wake()
        if self._thread.ident is None:
            return True
        began_ns = self._began_ns
        under_way_ns = 0 if began_ns is None else self._clock.now_ns() - began_ns
        self._thread.join(END_S + FRAMES_AT_END * max(self._slowest_ns, under_way_ns) / NS_PER_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        ended: set[Stream] = set()
        try:
            while not (self._stopping.is_set() or self._stop_asked() or self._core.exhausted):
                self._wait()
                self._pump(ended)
        except Exception as error:  # noqa: BLE001 - handed to the caller's thread
            self.error = error
        finally:
            self._finish(ended)

    def _wait(self) -> None:
        deadline = self._core.next_deadline_ns()
        timeout = IDLE_WAIT_S
        if deadline is not None:
            timeout = min(timeout, max(0, deadline - self._clock.now_ns()) / NS_PER_S)
        self._wake.wait(timeout)
        self._wake.clear()

    def _pump(self, ended: set[Stream]) -> None:
        for stream, capture in self._captures.items():
            capture.watch()
            finished = capture.finished
            for frame in capture.take():
                self._core.feed(frame)
            if finished and stream not in ended:
                if capture.error is not None:
                    raise capture.error
                self._core.end(stream)
                ended.add(stream)
            self._core.lost_before(stream, capture.drops)
        self._fuse()

    def _fuse(self) -> None:
        """Fuse and deliver what is decided."""
        self._began_ns = self._clock.now_ns()
        for fused in self._core.step():
            now = self._clock.now_ns()
            self._slowest_ns = max(self._slowest_ns, now - self._began_ns)
            self._deliver(fused)
            if self._drain_until_ns is not None and now >= self._drain_until_ns:
                break
            self._began_ns = now
        self._began_ns = None

    def _begin_drain(self) -> None:
        if self._drain_until_ns is None:
            self._drain_until_ns = self._clock.now_ns() + round(DRAIN_S * NS_PER_S)

    def _finish(self, ended: set[Stream]) -> None:
        if self._stop_asked():
            self._begin_drain()
        for capture in self._captures.values():
            capture.stop()
        try:
            for stream, capture in self._captures.items():
                for frame in capture.take():
                    self._core.feed(frame)
                self._core.lost_before(stream, capture.drops)
                if stream not in ended:
                    self._core.end(stream)
            if self.error is None:
                self._fuse()
        except Exception as error:  # noqa: BLE001 - handed to the caller's thread
            self.error = self.error or error
        try:
            self._core.finish()
        except Exception as error:  # noqa: BLE001 - handed to the caller's thread
            self.error = self.error or error
