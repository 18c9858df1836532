"""Reading ahead changes nothing but the time it takes."""

import threading
from collections import Counter

import numpy as np
import pytest

from streamfuse.errors import SourceError
from streamfuse.frame import DropCause, Frame
from streamfuse.pipeline.read_ahead import FRAMES_AHEAD, ReadAhead


class Reader:
    """Loses a frame before each one it delivers; ends, or fails, after `count`."""

    stream = "vis"

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.drops: Counter[DropCause] = Counter()
        self.threads: set[str] = set()
        self.delivered = 0
        self._count = count
        self._error = error

    def read(self) -> Frame | None:
        self.threads.add(threading.current_thread().name)
        if self.delivered == self._count:
            if self._error is not None:
                raise self._error
            return None
        self.drops = self.drops + Counter({DropCause.CORRUPT: 1})
        self.delivered += 1
        seq = 2 * self.delivered - 1
        return Frame(stream="vis", image=np.zeros((2, 2), np.uint8), seq=seq, t_capture=seq, t_arrival=seq)


def test_frames_drops_and_the_end_come_in_order() -> None:
    reader = Reader(50)
    ahead = ReadAhead(reader)  # type: ignore[arg-type]
    for number in range(1, 51):
        frame = ahead.read()
        assert frame is not None
        assert frame.seq == 2 * number - 1
        assert ahead.drops == {DropCause.CORRUPT: number}
    assert ahead.read() is None
    assert ahead.read() is None
    ahead.close()
    assert reader.threads == {"streamfuse-read-vis"}


def test_an_error_comes_after_the_frames_before_it() -> None:
    ahead = ReadAhead(Reader(3, SourceError("torn off")))  # type: ignore[arg-type]
    assert [ahead.read() is not None for _ in range(3)] == [True] * 3
    with pytest.raises(SourceError, match="torn off"):
        ahead.read()
    ahead.close()


def test_closed_early_it_has_read_only_a_few_frames_more() -> None:
    reader = Reader(1000)
    ahead = ReadAhead(reader)  # type: ignore[arg-type]
    assert ahead.read() is not None
    ahead.close()
    assert reader.delivered <= FRAMES_AHEAD + 2
