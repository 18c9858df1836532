"""Decoding beside fusing: a recorded stream is read a few frames ahead on a thread of its own.

Nothing but the time changes: frames, the end, errors and the counts of lost frames come out in the order, and
with the values, they have without the thread.
"""

import threading
from collections import Counter, deque

from streamfuse.capture.reader import FrameReader
from streamfuse.frame import DropCause, Frame

FRAMES_AHEAD = 4
"""Evens out pictures that take long to decode (key frames); more would only hold memory."""
JOIN_TIMEOUT_S = 5.0


class ReadAhead:
    """Stands in for an opened reader. One thread uses it.

    Attributes:
        drops: what the reader had lost when it delivered the frame read last.
    """

    def __init__(self, reader: FrameReader) -> None:
        self.drops: Counter[DropCause] = Counter()
        self._reader = reader
        self._ready: deque[tuple[Frame | Exception | None, Counter[DropCause]]] = deque()
        self._condition = threading.Condition()
        self._closing = False
        name = f"streamfuse-read-{reader.stream}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def read(self) -> Frame | None:
        """The next frame; None at the end. Raises what the reader raised."""
        with self._condition:
            self._condition.wait_for(lambda: self._ready)
            item, self.drops = self._ready[0]
            if isinstance(item, Frame):
                self._ready.popleft()
                self._condition.notify_all()
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        """End the thread. The reader is then closed by its owner."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._thread.join(JOIN_TIMEOUT_S)

    def _run(self) -> None:
        item: Frame | Exception | None
        more = True
        while more:
            try:
                item = self._reader.read()
            except Exception as error:  # noqa: BLE001 - raised on the thread that reads
                item = error
            more = isinstance(item, Frame)
            with self._condition:
                self._ready.append((item, self._reader.drops))
                self._condition.notify_all()
                self._condition.wait_for(lambda: len(self._ready) < FRAMES_AHEAD or self._closing)
                more = more and not self._closing
