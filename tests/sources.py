"""Sources made and read by tests."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streamfuse.capture import SOURCES
from streamfuse.capture.source import Source
from streamfuse.clock import RealClock
from streamfuse.frame import RawFrame

FRAMES = 24


def make(kind: str, **options: Any) -> Source:
    source_class = SOURCES.load(kind)
    source: Source = source_class(source_class.Options.model_validate(options), clock=RealClock())
    return source


def read_all(source: Source) -> list[RawFrame]:
    return list(iter(source.read, None))


@pytest.fixture
def opened() -> Iterator[Callable[..., Source]]:
    sources: list[Source] = []

    def open_one(kind: str, **options: Any) -> Source:
        source = make(kind, **options)
        sources.append(source)
        source.open()
        return source

    yield open_one
    for source in sources:
        source.close()


def read_all_after_open(source: Source) -> None:
    source.open()
    read_all(source)
