"""How old a message is and what is missing before it: the policy of a subscriber, without a socket."""

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from streamfuse.clock import NS_PER_MS, NS_PER_S
from streamfuse.errors import WireError
from streamfuse.sinks.wire_message import Message

BASELINE_MESSAGES = 256
"""The shortest transit is taken over as many messages; a stepped wall clock is forgotten after that many."""
TAKEOVER_NS = 3 * NS_PER_S
"""A publisher that was replaced counts again when its successor was silent for so long (three of its status
messages); before that both are at it, and their pictures would come mixed."""
SESSIONS_KEPT = 8
AGES = 256
"""Messages in the age statistics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriberStatistics:
    """What a subscriber met so far.

    lost: missing sequence numbers. rejected: foreign or damaged messages; `last_rejected` says why.
    repeated: older than one already taken. sessions: publisher starts. age_ms: capture to arrival, p50, p95
    and max of the latest messages.
    """

    received: int
    lost: int
    rejected: int
    repeated: int
    sessions: int
    age_ms: dict[str, float]
    last_rejected: str = ""


class Freshness:
    """Keeps the books of one topic.

    The two machines' clocks need not agree: the quickest of the latest messages tells their difference, and
    what another one took longer than that is time it spent under way. The sender accounts for the time
    before, by monotonic clock.
    """

    def __init__(self) -> None:
        self._session = ""
        self._former: deque[str] = deque(maxlen=SESSIONS_KEPT)
        self._accepted_ns = 0
        self._seq = -1
        self._transits: deque[int] = deque(maxlen=BASELINE_MESSAGES)
        self._ages: deque[int] = deque(maxlen=AGES)
        self._received = self._lost = self._rejected = self._repeated = self._sessions = 0
        self._last_rejected = ""

    def accept(self, message: Message, *, now_ns: int, wall_ns: int) -> Message | None:
        """Date a message that arrived; None when it is not newer than the one before.

        Raises WireError for one of a publisher that another has replaced.
        """
        if message.session != self._session:
            if message.session in self._former and now_ns - self._accepted_ns < TAKEOVER_NS:
                raise WireError(
                    f"{message.topic}: two publishers send it, sessions {self._session:.8} and "
                    f"{message.session:.8}; the first one is ignored: give each rig a name of its own"
                )
            self._former.append(self._session)
            self._session = message.session
            self._sessions += 1
            self._transits.clear()
            lost = 0
        elif message.seq <= self._seq:
            self._repeated += 1
            return None
        else:
            lost = message.seq - self._seq - 1
        self._seq = message.seq
        self._accepted_ns = now_ns
        self._received += 1
        self._lost += lost
        transit = wall_ns - message.publish_stamp_ns
        self._transits.append(transit)
        own = message.header["latency_ns"].get("capture_to_publish") or 0
        delay = own + transit - min(self._transits)
        self._ages.append(delay)
        return replace(message, received_ns=now_ns, delay_ns=delay, lost=lost)

    def reject(self, reason: str) -> bool:
        """Count a message that is none; True when the reason is new."""
        self._rejected += 1
        new = reason != self._last_rejected
        self._last_rejected = reason
        return new

    def statistics(self) -> SubscriberStatistics:
        ages = np.array(self._ages or [0]) / NS_PER_MS
        return SubscriberStatistics(
            received=self._received,
            lost=self._lost,
            rejected=self._rejected,
            repeated=self._repeated,
            sessions=self._sessions,
            age_ms={
                "p50": round(float(np.percentile(ages, 50)), 2),
                "p95": round(float(np.percentile(ages, 95)), 2),
                "max": round(float(ages.max()), 2),
            },
            last_rejected=self._last_rejected,
        )
