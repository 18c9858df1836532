"""Packets received on a thread of their own.

That thread does nothing else, so packets are stamped the moment they arrive, however long decoding takes.
And when FFmpeg hangs inside a connection, which happens in odd RTSP states, the thread is abandoned (it ends
itself when FFmpeg lets go) instead of the program.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from streamfuse.capture._av import find_video_stream
from streamfuse.clock import NS_PER_S, Clock
from streamfuse.frame import DropCause

log = logging.getLogger(__name__)

MAX_BACKLOG_NS = 2 * NS_PER_S
"""A decoder this far behind will not catch up: what waits is dropped, up to the next key frame."""
CLOSE_WAIT_S = 0.5
"""How long `close` waits for the connection to be torn down before it leaves that to the abandoned thread."""


@dataclass(frozen=True, slots=True)
class TimedPacket:
    """A packet and when it arrived (monotonic)."""

    packet: "Packet[VideoStream]"
    t_arrival: int


class PumpClosed(Exception):
    """`stop` was called while waiting."""


class PacketPump:
    """Connects and receives on its own thread, from the moment it is made.

    Args:
        connect: makes the connection; it runs on the thread, which also closes what it returns.
        name: for messages, free of credentials.
        drops: packets dropped because nobody took them in time are counted as overrun.
    """

    def __init__(
        self,
        connect: Callable[[], InputContainer],
        *,
        name: str,
        clock: Clock,
        drops: Counter[DropCause],
    ) -> None:
        self._connect = connect
        self._name = name
        self._clock = clock
        self._drops = drops
        self._packets: deque[TimedPacket] = deque()
        self._awaits_key = False
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._opened: tuple[InputContainer, VideoStream] | None = None
        self._ended = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="streamfuse-demux", daemon=True)
        self._thread.start()

    def wait_open(self, timeout_s: float) -> tuple[InputContainer, VideoStream]:
        """The connection, once it stands. Raises what `connect` raised, TimeoutError, PumpClosed."""
        self._wait(lambda: self._opened is not None, timeout_s)
        assert self._opened is not None
        return self._opened

    def next(self, timeout_s: float) -> TimedPacket | None:
        """The next packet, None at the end. Raises what receiving raised, TimeoutError, PumpClosed."""
        self._wait(lambda: bool(self._packets), timeout_s)
        with self._changed:
            return self._packets.popleft() if self._packets else None

    def interrupt(self) -> None:
        """Make whoever waits here return with PumpClosed."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()

    def stop(self) -> None:
        """Disconnect; nothing of the connection may be used any more."""
        self.interrupt()
        self._thread.join(CLOSE_WAIT_S)
        if self._thread.is_alive():
            log.debug("%s: still closing, left to itself", self._name)

    def _wait(self, ready: Callable[[], bool], timeout_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: ready() or self._ended or self._stopping.is_set(), timeout_s)
            if self._stopping.is_set():
                raise PumpClosed
            if ready():
                return
            if self._error is not None:
                raise self._error
            if not self._ended:
                raise TimeoutError

    def _run(self) -> None:
        container = None
        try:
            container = self._connect()
            stream = find_video_stream(container, self._name)
            with self._changed:
                self._opened = container, stream
                self._changed.notify_all()
            for packet in container.demux(stream):
                timed = TimedPacket(packet, self._clock.now_ns())
                if self._stopping.is_set():
                    break
                if packet.size:
                    self._put(timed)
        except Exception as error:  # noqa: BLE001 - handed to the thread that reads
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            # Packets that wait still belong to the connection.
            self._stopping.wait()
            if container is not None:
                container.close()

    def _put(self, timed: TimedPacket) -> None:
        with self._changed:
            if self._packets and timed.t_arrival - self._packets[0].t_arrival > MAX_BACKLOG_NS:
                self._drops[DropCause.OVERRUN] += len(self._packets)
                self._packets.clear()
                self._awaits_key = True
            if self._awaits_key and not timed.packet.is_keyframe:
                self._drops[DropCause.OVERRUN] += 1
                return
            self._awaits_key = False
            self._packets.append(timed)
            self._changed.notify_all()
