"""Work recorded once and replayed: one CUDA graph for each pass of a program.

A pass of a program is hundreds of small kernels; started one by one from Python they cost more than they
compute. A CUDA graph starts them all with one call, always on the same memory. So the work reads and writes
buffers that stay where they are, and is given nothing and returns nothing.

Whatever cannot be recorded is run as it is, on the same stream; that is said once in the log. On a device
without graphs everything is.

Source of the recipe (side stream, warm-up, capture): PyTorch's notes on CUDA semantics, "CUDA Graphs".
"""

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

from streamfuse.clock import NS_PER_MS

log = logging.getLogger(__name__)

WARM_UP_RUNS = 3
"""As in PyTorch's own recipe: libraries make handles and workspaces and choose algorithms in them."""
Name = TypeVar("Name")


class Replay(dict[Name, Callable[[], None]]):
    """Each piece of work by name, ready to be called on `stream`.

    recorded: how many are graphs. device_ns: how long the device takes for each; empty without graphs.

    Args:
        work: reads and writes only memory that outlives it. It is run a few times before it is recorded.
        stream: a CUDA stream other than the default one; None: there are no graphs here.
    """

    def __init__(
        self, work: Mapping[Name, Callable[[], None]], *, stream: "torch.cuda.Stream | None"
    ) -> None:
        super().__init__(work)
        self.recorded = 0
        self.device_ns: dict[Name, int] = {}
        if stream is None:
            return
        with torch.cuda.stream(stream):
            for run in work.values():
                for _ in range(WARM_UP_RUNS):
                    run()
        stream.synchronize()
        # One pool serves all: no memory of one graph is looked at after it ended, and they never overlap.
        pool = torch.cuda.graph_pool_handle()
        for name, run in work.items():
            graph = torch.cuda.CUDAGraph()
            try:
                # Other threads (encoders, a camera's) may call CUDA meanwhile.
                with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                    run()
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                log.warning("%s is not recorded as a CUDA graph, only slower: %s", name, reason)
            else:
                self[name] = graph.replay
                self.recorded += 1
        for name, run in self.items():
            self.device_ns[name] = _duration_ns(run, stream)


def _duration_ns(run: Callable[[], None], stream: "torch.cuda.Stream") -> int:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        begin.record()
        run()
        end.record()
    end.synchronize()
    milliseconds: float = begin.elapsed_time(end)
    return round(milliseconds * NS_PER_MS)
