"""Receiving fused frames without ever working on an old one unawares.

ZeroMQ's own means do not give the latest frame: CONFLATE destroys multi-part messages, and high-water marks
keep the oldest ones (2.5 s of age at a consumer taking 200 ms a frame). So one thread drains the socket into
a slot as fast as messages come (19 ms in the same measurement), and the caller takes from the slot.

    with Subscriber("tcp://127.0.0.1:5556") as subscriber:
        message = subscriber.latest(max_age_s=0.2)   # never blocks
        message = subscriber.next(timeout_s=1.0)     # the newest one not yet seen
        for message in subscriber.every(buffer=64):  # all of them, gaps counted
            picture = message.image()
"""

import logging
import threading
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, get_args
from weakref import WeakSet

import zmq

from streamfuse.clock import NS_PER_S, Clock, RealClock
from streamfuse.errors import ConfigError, StaleError, WireError
from streamfuse.sinks.freshness import Freshness, SubscriberStatistics
from streamfuse.sinks.wire import Channel, topic_name
from streamfuse.sinks.wire_message import Message, decode

logger = logging.getLogger(__name__)

RECEIVE_HIGH_WATER = 4
"""Per connection; the thread empties it at once, so it only bounds what a stopped process finds on waking."""
HEARTBEAT_MS = 1000
"""A publisher that vanished without a word is reconnected to after three of these."""
RECONNECT_MS, RECONNECT_MAX_MS = 100, 1000
ALIVE_S = 3.0
"""Three missed status messages: the publisher counts as gone."""
JOIN_S = 5.0
_STOP = "inproc://stop"


class Subscriber:
    """The newest frames of one channel of one rig.

    Args:
        endpoint: of the publisher; it need not be there yet, and may come back.
        rig, channel: which topic.

    Raises ConfigError for an endpoint, rig or channel that there cannot be.

    Threads: one of its own; every method may be called from any thread.
    """

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:5556",
        *,
        rig: str = "rig0",
        channel: str = "fused",
        clock: Clock | None = None,
    ) -> None:
        if not rig or set(rig) & set("/ \x00"):
            raise ConfigError(f"{rig!r} is no name of a rig: one word without a slash")
        if channel not in get_args(Channel):
            raise ConfigError(f"{channel!r} is no channel: use one of {', '.join(get_args(Channel))}")
        self.endpoint = endpoint
        self._channel = channel
        self.topic = topic_name(rig, channel).decode()
        self._status_topic = topic_name(rig, "status").decode()
        self._clock = clock or RealClock()
        self._freshness = Freshness()
        self._changed = threading.Condition()
        self._latest: Message | None = None
        self._unseen = False
        self._ended = False
        self._end_unseen = False
        self._closed = False
        self._status: Message | None = None
        self._status_at_ns = 0
        self._readers: WeakSet[Frames] = WeakSet()
        self._context: zmq.Context[Any] = zmq.Context()
        socket = self._connect()
        self._stop: zmq.Socket[Any] = self._context.socket(zmq.PAIR)
        self._stop.bind(_STOP)
        stopped: zmq.Socket[Any] = self._context.socket(zmq.PAIR)
        stopped.connect(_STOP)
        self._thread = threading.Thread(
            target=self._run, args=(socket, stopped), name=f"streamfuse-subscriber-{rig}", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def latest(self, max_age_s: float) -> Message:
        """The newest message, at once. Raises StaleError when there is none, or none that young.

        max_age_s: since capture (since publication, for recordings), see `Message.age_ns`.
        """
        with self._changed:
            message, now = self._latest, self._clock.now_ns()
            if message is None or message.age_ns(now) > max_age_s * NS_PER_S:
                raise StaleError(self._why(f"none younger than {max_age_s:g} s", now))
            self._unseen = False
            return message

    def next(self, timeout_s: float) -> Message | None:
        """The newest message not yet seen, waiting for one if need be; None, once, when the stream ended.

        Messages between two calls are skipped (`every` keeps them). Calling again after the end waits for a
        publisher that starts anew. Raises StaleError after `timeout_s`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._unseen or self._end_unseen or self._closed, timeout_s)
            if self._unseen:
                self._unseen = False
                return self._latest
            if self._end_unseen or self._closed:
                self._end_unseen = False
                return None
            raise StaleError(self._why(f"none for {timeout_s:g} s", self._clock.now_ns()))

    def every(self, *, buffer: int = 64, timeout_s: float | None = None) -> "Frames":
        """Iterate over all messages from now on, see `Frames`.

        Args:
            buffer: messages that may wait; when it is full the oldest one is lost, and counted.
            timeout_s: raise StaleError when none came for so long; None: wait for ever.
        """
        if buffer < 1:
            raise ValueError(f"every() needs room for at least one message: {buffer = }")
        with self._changed:
            frames = Frames(self, self._changed, buffer=buffer, timeout_s=timeout_s)
            self._readers.add(frames)
            if self._closed:
                frames.end()
            return frames

    def status(self, max_age_s: float = ALIVE_S) -> dict[str, Any]:
        """The publisher's last status message. Raises StaleError when it is not heard any more."""
        with self._changed:
            now = self._clock.now_ns()
            if self._status is None or now - self._status_at_ns > max_age_s * NS_PER_S:
                raise StaleError(f"{self._status_topic} from {self.endpoint}: {self._publisher_state(now)}")
            return self._status.header

    def statistics(self) -> SubscriberStatistics:
        """What was received, lost and rejected so far, and how old it was."""
        with self._changed:
            return self._freshness.statistics()

    def close(self) -> None:
        """Stop receiving; whoever waits is released. May be called twice."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._end_readers()
        self._stop.send(b"")
        self._thread.join(JOIN_S)
        self._stop.close(linger=0)
        self._context.term()

    def _connect(self) -> "zmq.Socket[Any]":
        socket: zmq.Socket[Any] = self._context.socket(zmq.SUB)
        socket.setsockopt(zmq.RCVHWM, RECEIVE_HIGH_WATER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * HEARTBEAT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        try:
            socket.connect(self.endpoint)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise ConfigError(
                f"{self.endpoint!r} is no ZeroMQ endpoint such as tcp://127.0.0.1:5556: {error.strerror}"
            ) from error
        socket.setsockopt(zmq.SUBSCRIBE, self.topic.encode())
        socket.setsockopt(zmq.SUBSCRIBE, self._status_topic.encode())
        return socket

    def _run(self, socket: "zmq.Socket[Any]", stopped: "zmq.Socket[Any]") -> None:
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(stopped, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if stopped in ready:
                break
            self._take(socket.recv_multipart())
        socket.close()
        stopped.close(linger=0)

    def _take(self, parts: list[bytes]) -> None:
        try:
            message = decode(parts)
            if message.topic not in (self.topic, self._status_topic):
                raise WireError(f"topic {message.topic!r} is not {self.topic!r}")
            self._accept(message)
        except WireError as error:
            with self._changed:
                new = self._freshness.reject(str(error))
            if new:
                logger.warning("%s: rejected a message: %s", self.endpoint, error)

    def _accept(self, message: Message) -> None:
        now, wall = self._clock.now_ns(), self._clock.wall_ns()
        with self._changed:
            if message.topic == self._status_topic:
                self._status, self._status_at_ns = message, now
            else:
                self._deliver(message, now, wall)
            self._changed.notify_all()

    def _deliver(self, message: Message, now_ns: int, wall_ns: int) -> None:
        dated = self._freshness.accept(message, now_ns=now_ns, wall_ns=wall_ns)
        if dated is None:
            return
        for reader in self._readers:
            reader.push(dated)
        self._ended = self._end_unseen = dated.eos
        if dated.eos:
            self._end_readers()
        else:
            self._latest, self._unseen = dated, True

    def _end_readers(self) -> None:
        for reader in self._readers:
            reader.end()
        self._readers.clear()
        self._changed.notify_all()

    def _why(self, what: str, now_ns: int) -> str:
        text = f"{self.topic} from {self.endpoint}: {what}"
        if self._latest is not None:
            text += f", the last one is {self._latest.age_ns(now_ns) / NS_PER_S:.2f} s old"
        return f"{text}; {self._publisher_state(now_ns)}"

    def _publisher_state(self, now_ns: int) -> str:
        if self._ended:
            return "the publisher ended its stream"
        if self._status is None:
            rig = self.topic.partition("/")[0]
            return f"the publisher was never heard: it is not there, or its rig is not {rig!r}"
        silent_s = (now_ns - self._status_at_ns) / NS_PER_S
        if silent_s > ALIVE_S:
            return f"the publisher was not heard for {silent_s:.1f} s"
        channels = self._status.header.get("channels")
        if isinstance(channels, list) and self._channel not in channels:
            names = ", ".join(map(str, channels))
            return f"the publisher is alive and does not send {self._channel!r}, only {names}"
        return f"the publisher is alive and {self._status.header.get('state')}"


class Frames(Iterator[Message]):
    """Every message in order, from `Subscriber.every`; one that nobody holds any more is forgotten.

    lost: messages that never came or found no room.
    """

    def __init__(
        self, owner: Subscriber, changed: threading.Condition, *, buffer: int, timeout_s: float | None
    ) -> None:
        self.lost = 0
        self._owner = owner
        self._changed = changed
        self._waiting: deque[Message] = deque()
        self._buffer = buffer
        self._timeout_s = timeout_s
        self._ended = False

    def __next__(self) -> Message:
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting or self._ended, self._timeout_s):
                raise StaleError(
                    f"{self._owner.topic} from {self._owner.endpoint}: none for {self._timeout_s:g} s"
                )
            if not self._waiting:
                raise StopIteration
            return self._waiting.popleft()

    def push(self, message: Message) -> None:
        """Called by the subscriber, which holds the lock."""
        self.lost += message.lost
        if message.eos:
            return
        if len(self._waiting) >= self._buffer:
            self._waiting.popleft()
            self.lost += 1
        self._waiting.append(message)

    def end(self) -> None:
        """Called by the subscriber, which holds the lock: what waits is still handed out."""
        self._ended = True
