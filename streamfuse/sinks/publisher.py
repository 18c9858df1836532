"""The socket side of publishing: one thread that owns an XPUB socket."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from socket import AF_UNIX
from socket import socket as Socket
from typing import Any

import zmq

from streamfuse.clock import NS_PER_MS, NS_PER_S, Clock
from streamfuse.errors import SinkError

logger = logging.getLogger(__name__)

Parts = Sequence[bytes | memoryview]

SEND_HIGH_WATER = 4
"""Messages that wait for a slow subscriber. 1 starves it between two sends, more only makes it later."""
LINGER_MS = 200
"""How long `close` lets the last messages leave."""
HANDOVER_MS = 1000
"""A message that the thread has not taken within this time means that the thread is dead."""
ANNOUNCE_NS = NS_PER_S
"""Liveness is otherwise invisible in publish-subscribe."""
HEARTBEAT_MS = 1000
"""Peers that vanish without a word are noticed after three of these."""
JOIN_S = 5.0
_HANDOVER = "inproc://handover"


class Publisher:
    """Sends multi-part messages and knows which topics anybody listens to.

    Args:
        endpoint: to bind, port 0 for a free one; `endpoint` holds the real one after `open`.
        announce: what to send unasked, called on the publisher's thread once a second with None, and with
            the topic prefix of every new subscription.
    """

    def __init__(
        self, endpoint: str, announce: Callable[[bytes | None], list[Parts]], *, clock: Clock
    ) -> None:
        self.endpoint = endpoint
        self._announce = announce
        self._clock = clock
        self._prefixes: tuple[bytes, ...] = ()
        self._context: zmq.Context[Any] = zmq.Context()
        self._handover: zmq.Socket[Any] = self._context.socket(zmq.PUSH)
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Bind and start. Raises SinkError when the address is taken or is none."""
        self._check_free()
        socket: zmq.Socket[Any] = self._context.socket(zmq.XPUB)
        socket.setsockopt(zmq.SNDHWM, SEND_HIGH_WATER)
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.XPUB_VERBOSER, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * HEARTBEAT_MS)
        try:
            socket.bind(self.endpoint)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise SinkError(f"cannot bind {self.endpoint}: {error.strerror}") from error
        self.endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        taker: zmq.Socket[Any] = self._context.socket(zmq.PULL)
        taker.bind(_HANDOVER)
        self._handover.setsockopt(zmq.SNDTIMEO, HANDOVER_MS)
        self._handover.setsockopt(zmq.SNDHWM, SEND_HIGH_WATER)
        self._handover.connect(_HANDOVER)
        name = f"streamfuse-zmq-{self.endpoint.rpartition(':')[2]}"
        self._thread = threading.Thread(target=self._run, args=(socket, taker), name=name, daemon=True)
        self._thread.start()

    def _check_free(self) -> None:
        """ZeroMQ takes an ipc path away from whoever listens there, without a word to either."""
        if not self.endpoint.startswith("ipc://"):
            return
        with Socket(AF_UNIX) as probe, suppress(OSError):
            probe.connect(self.endpoint.removeprefix("ipc://"))
            self._context.destroy(linger=0)
            raise SinkError(f"cannot bind {self.endpoint}: another program publishes there")

    def wanted(self, topic: bytes) -> bool:
        """Whether a subscriber would get a message of this topic."""
        return any(topic.startswith(prefix) for prefix in self._prefixes)

    def publish(self, parts: Parts) -> None:
        """Send without copying large parts: their buffers must never change. One thread calls it."""
        try:
            self._handover.send_multipart(parts, copy=False)
        except zmq.ZMQError as error:
            raise SinkError(f"{self.endpoint}: publishing stopped: {self._error or error}") from error

    def close(self) -> None:
        """Announce once more, let the last messages leave, release the address. May be called twice."""
        thread, self._thread = self._thread, None
        if thread is not None:
            if thread.is_alive():
                self.publish([b""])
            thread.join(JOIN_S)
            if thread.is_alive():
                logger.warning("%s did not stop within %.0f s and was left behind", thread.name, JOIN_S)
                return
        if not self._context.closed:
            self._handover.close(linger=0)
            self._context.term()

    def _run(self, socket: "zmq.Socket[Any]", taker: "zmq.Socket[Any]") -> None:
        try:
            self._serve(socket, taker)
        except Exception as error:  # noqa: BLE001 - handed to the thread that publishes
            self._error = error
            logger.warning("%s: publishing stopped: %s", self.endpoint, error)
        finally:
            taker.close(linger=0)
            socket.close()

    def _serve(self, socket: "zmq.Socket[Any]", taker: "zmq.Socket[Any]") -> None:
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(taker, zmq.POLLIN)
        subscriptions: Counter[bytes] = Counter()
        due = self._clock.now_ns()
        while True:
            wait_ns = due - self._clock.now_ns()
            ready = dict(poller.poll(max(0, wait_ns // NS_PER_MS + 1))) if wait_ns > 0 else {}
            if socket in ready:
                self._subscription(socket, subscriptions)
            if taker in ready:
                frames = taker.recv_multipart(copy=False)
                stop = len(frames) == 1 and not frames[0].bytes
                self._send(socket, self._announce(None) if stop else [frames])
                if stop:
                    return
            if self._clock.now_ns() >= due:
                due = self._clock.now_ns() + ANNOUNCE_NS
                self._send(socket, self._announce(None))

    def _subscription(self, socket: "zmq.Socket[Any]", subscriptions: Counter[bytes]) -> None:
        event = socket.recv()
        joins, prefix = event[:1] == b"\x01", event[1:]
        subscriptions[prefix] += 1 if joins else -1
        self._prefixes = tuple(prefix for prefix, count in subscriptions.items() if count > 0)
        if joins:
            self._send(socket, self._announce(prefix))

    def _send(self, socket: "zmq.Socket[Any]", messages: Sequence[Any]) -> None:
        for parts in messages:
            socket.send_multipart(parts, copy=False)
