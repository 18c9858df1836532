"""The threads of a live run: one a camera, one that pairs and fuses.

The fusing thread sleeps until a frame arrives or the matcher's next deadline passes. The cameras' threads
belong to `CaptureThread`; a camera that dies and comes back is their business, an error that ends one for
good ends the run.
"""

import threading
from collections.abc import Callable

from streamfuse.capture.thread import CaptureThread
from streamfuse.clock import NS_PER_S, Clock
from streamfuse.frame import FusedFrame, Stream
from streamfuse.pipeline.core import FusionCore

IDLE_WAIT_S = 0.5
"""Longest sleep without any event: bounds how late an ended source is noticed."""
JOIN_TIMEOUT_S = 5.0


class LiveRunner:
    """Drives a core from two capture threads.

    Args:
        captures: not started yet; their `notify` must be this runner's `wake`.
        deliver: takes each fused frame on the fusing thread; must not block.
    """

    def __init__(
        self,
        core: FusionCore,
        captures: dict[Stream, CaptureThread],
        deliver: Callable[[FusedFrame], None],
        *,
        clock: Clock,
    ) -> None:
        self.error: BaseException | None = None
        self._core = core
        self._captures = captures
        self._deliver = deliver
        self._clock = clock
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

    def stop(self) -> None:
        """End the run: cameras closed, what is decided is fused, the rest is accounted for."""
        self._stopping.set()
        self.wake()
        if self._thread.ident is not None:
            self._thread.join(JOIN_TIMEOUT_S)

    def _run(self) -> None:
        ended: set[Stream] = set()
        try:
            while not self._stopping.is_set() and not self._core.exhausted:
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
        for fused in self._core.step():
            self._deliver(fused)

    def _finish(self, ended: set[Stream]) -> None:
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
                for fused in self._core.step():
                    self._deliver(fused)
        except Exception as error:  # noqa: BLE001 - handed to the caller's thread
            self.error = self.error or error
        self._core.finish()
