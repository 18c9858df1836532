"""The chain from two sources to any number of sinks, and what it counts on the way."""

from streamfuse.pipeline.pipeline import Pipeline
from streamfuse.pipeline.rigs import Rigs

__all__ = ["Pipeline", "Rigs"]
