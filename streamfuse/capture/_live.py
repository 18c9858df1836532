"""Live video through PyAV: what network streams and cameras share."""

import threading
from abc import ABC, abstractmethod
from collections import Counter, deque
from dataclasses import replace

import av.error
from av.container import InputContainer

from streamfuse.capture._av import PictureDecoder, SensorUnit
from streamfuse.capture._pump import PacketPump, PumpClosed, TimedPacket
from streamfuse.clock import NS_PER_S, Clock
from streamfuse.errors import SourceError, SourceInterrupted
from streamfuse.frame import DropCause, RawFrame, SourceInfo

OPEN_GRACE_S = 1.0
"""Beyond FFmpeg's own time-outs, before an opening connection counts as hung."""


class LiveVideoSource(ABC):
    """Base of the live sources: a subclass says how to connect and what an error means.

    `drops` counts packets that could not be decoded (corrupt) or were not taken in time (overrun).

    Args:
        name: for messages, free of credentials.
        open_timeout_s: longest wait for a connection, and then for its first picture.
        stall_s: longest wait for a picture after that.
        threads: decoder threads.
    """

    live = True

    def __init__(
        self,
        *,
        name: str,
        open_timeout_s: float,
        stall_s: float,
        unit: SensorUnit,
        threads: int,
        clock: Clock,
    ) -> None:
        self.drops: Counter[DropCause] = Counter()
        self._name = name
        self._clock = clock
        self._open_timeout_s = open_timeout_s
        self._stall_s = stall_s
        self._unit = unit
        self._threads = threads
        # A connection must not go away under a decoder that runs.
        self._decoding = threading.Lock()
        self._pump: PacketPump | None = None
        self._decoder: PictureDecoder | None = None
        self._pictures: deque[RawFrame] = deque()

    @abstractmethod
    def _connect(self) -> InputContainer:
        """Open the container, on the pump's thread. Raises SourceError, or SourceInterrupted when trying
        again may help."""

    @abstractmethod
    def _explain(self, error: av.error.FFmpegError) -> SourceError:
        """What an error while receiving means to the user."""

    def _capture_hint(self, timed: TimedPacket) -> int | None:
        """When a packet's picture was taken, if the packet says so."""
        return None

    def _deliver(self, picture: RawFrame) -> RawFrame | None:
        """The picture with its stamps corrected; None when it is not fit to be delivered."""
        return picture

    def open(self) -> SourceInfo:
        """Connect and wait for the first picture.

        Raises:
            SourceInterrupted: the other end is not there or says nothing now; it may be later.
            SourceError: what is asked for is wrong, and trying again will not help.
        """
        self.close()
        self._pictures = deque()
        pump = PacketPump(self._connect, name=self._name, clock=self._clock, drops=self.drops)
        self._pump = pump
        try:
            info = self._start(pump)
            first = self._next_picture(self._open_timeout_s)
            if first is None:
                raise SourceInterrupted(f"{self._name}: ended before its first picture")
        except BaseException:
            self.close()
            raise
        self._pictures.appendleft(first)
        height, width = first.image.shape[:2]
        return replace(info, width=width, height=height, time_base=first.time_base)

    def read(self) -> RawFrame | None:
        """The next picture.

        Raises:
            SourceInterrupted: none came for `stall_s`, the connection broke or the stream ended.
        """
        if self._pump is None:
            raise SourceInterrupted(f"{self._name}: not open")
        picture = self._next_picture(self._stall_s)
        if picture is None:
            raise SourceInterrupted(f"{self._name}: the stream ended")
        return picture

    def close(self) -> None:
        pump = self._pump
        if pump is None:
            return
        pump.interrupt()
        with self._decoding:
            self._pump = self._decoder = None
        pump.stop()

    def _start(self, pump: PacketPump) -> SourceInfo:
        """Wait for the connection and prepare to decode; what is known before the first picture."""
        try:
            container, stream = pump.wait_open(2 * self._open_timeout_s + OPEN_GRACE_S)
        except TimeoutError as error:
            raise SourceInterrupted(f"{self._name}: connecting hangs, given up") from error
        except PumpClosed as error:
            raise SourceInterrupted(f"{self._name}: closed while connecting") from error
        with self._decoding:
            if self._pump is not pump:
                raise SourceInterrupted(f"{self._name}: closed while connecting")
            self._decoder = PictureDecoder(
                stream, unit=self._unit, live=True, threads=self._threads, drops=self.drops
            )
            return SourceInfo(
                width=stream.width,
                height=stream.height,
                fps=float(stream.average_rate or stream.guessed_rate or 0),
                pixel_format=stream.pix_fmt or "",
                codec=stream.codec.name,
                detail=container.format.name,
            )

    def _next_picture(self, timeout_s: float) -> RawFrame | None:
        """The next picture, None at the end of the stream. Raises SourceInterrupted, SourceError."""
        deadline = self._clock.now_ns() + round(timeout_s * NS_PER_S)
        packets = 0
        while not self._pictures:
            pump = self._pump
            left_s = (deadline - self._clock.now_ns()) / NS_PER_S
            try:
                if pump is None:
                    raise PumpClosed
                if left_s <= 0:
                    raise TimeoutError
                timed = pump.next(left_s)
            except PumpClosed as error:
                raise SourceInterrupted(f"{self._name}: closed") from error
            except TimeoutError as error:
                silence = "data comes, but no picture" if packets else "no data"
                raise SourceInterrupted(f"{self._name}: {silence} for {timeout_s:g} s") from error
            except av.error.FFmpegError as error:
                raise self._explain(error) from error
            if timed is None:
                return None
            packets += 1
            self._decode(timed)
        return self._pictures.popleft()

    def _decode(self, timed: TimedPacket) -> None:
        hint = self._capture_hint(timed)
        with self._decoding:
            if self._decoder is None:
                return
            pictures = self._decoder.decode(timed.packet, t_arrival=timed.t_arrival, hint=hint)
        self._pictures.extend(picture for raw in pictures if (picture := self._deliver(raw)) is not None)
