"""Frames for the matcher, and what it made of them."""

from collections.abc import Iterable

import numpy as np

from streamfuse.frame import STREAMS, Frame, FramePair, Stream
from streamfuse.pairing.matcher import Matcher
from streamfuse.pairing.options import PairingOptions

MS = 1_000_000
PICTURE = np.zeros((1, 1), np.uint8)


def frame(
    stream: Stream, t_ms: float, *, seq: int = 0, delay_ms: float = 0, epoch: int = 0, **more: int
) -> Frame:
    t = round(t_ms * MS)
    return Frame(
        stream=stream,
        image=PICTURE,
        seq=seq,
        t_capture=t,
        t_arrival=t + round(delay_ms * MS),
        epoch=epoch,
        **more,  # type: ignore[arg-type]
    )


def frames(stream: Stream, stamps_ms: Iterable[float]) -> list[Frame]:
    return [frame(stream, t, seq=i) for i, t in enumerate(stamps_ms)]


def stamps(pairs: Iterable[FramePair]) -> list[tuple[float | None, float]]:
    return [(p.ir.t_capture / MS if p.ir else None, p.vis.t_capture / MS) for p in pairs]


def assert_conserved(matcher: Matcher, *, buffered: int | None = None) -> None:
    s = matcher.statistics()
    for stream in STREAMS:
        assert s.pushed[stream] == s.used[stream] + sum(s.drops[stream].values()) + s.buffered[stream]
        if buffered is not None:
            assert s.buffered[stream] == buffered


def live(driver: Stream, **options: object) -> Matcher:
    return Matcher(PairingOptions(driver=driver, **options), live=True, default_driver="vis")  # type: ignore[arg-type]


def play(matcher: Matcher, *streams: list[Frame]) -> tuple[list[FramePair], list[float]]:
    """Push in order of arrival, poll whenever the matcher asks; pairs and their ages in ms."""
    pairs: list[FramePair] = []
    ages: list[float] = []

    def poll(now_ns: int) -> None:
        for pair in matcher.poll(now_ns):
            pairs.append(pair)
            ages.append((now_ns - pair.t_capture) / MS)

    for arrived in sorted((f for s in streams for f in s), key=lambda f: f.t_arrival):
        while (due := matcher.next_deadline_ns()) is not None and due < arrived.t_arrival:
            poll(due)
        matcher.push(arrived)
        poll(arrived.t_arrival)
    pairs += matcher.flush()
    assert_conserved(matcher, buffered=0)
    return pairs, ages
