"""Options that every source shares; each kind of source adds its own to `SourceOptions`."""

from typing import Annotated, Literal

from pydantic import Field

from streamfuse.registry import Options

LONGEST_S = 1e9
"""Thirty years: no recording is longer, and its end in a file's own ticks still fits 64 bits."""


class AgcOptions(Options):
    """How 16-bit thermal counts become an 8-bit view."""

    mode: Literal["percentile", "plateau"] = Field(
        "percentile", description="percentile: linear between two percentiles; plateau: clipped histogram"
    )
    low_percentile: Annotated[float, Field(ge=0, lt=50)] = 1.0
    high_percentile: Annotated[float, Field(gt=50, le=100)] = 99.0
    max_step: Annotated[float, Field(gt=0, le=255)] = Field(
        1.0, description="largest change of the mean luma from one frame to the next, in grey levels"
    )


class ReconnectOptions(Options):
    """When a live source is given up, and how it is tried again."""

    stall_s: Annotated[float, Field(gt=0)] = Field(
        3.0, description="no frame for this long: the connection counts as dead and is reopened"
    )
    first_delay_s: Annotated[float, Field(gt=0)] = 0.5
    max_delay_s: Annotated[float, Field(gt=0)] = 10.0
    max_attempts: Annotated[int, Field(ge=1)] | None = Field(None, description="null: try for ever")


class SourceOptions(Options):
    """Common to all kinds of source."""

    rotate: Literal[0, 90, 180, 270] = Field(0, description="clockwise, after the file's own rotation mark")
    flip: Literal["none", "horizontal", "vertical", "both"] = "none"
    crop: tuple[int, int, int, int] | None = Field(None, description="x, y, width, height, after rotation")
    polarity: Literal["white_hot", "black_hot"] = Field(
        "white_hot", description="black_hot infrared is inverted, so that hot is always bright downstream"
    )
    agc: AgcOptions = AgcOptions()
    latency_ms: Annotated[float, Field(ge=0)] | None = Field(
        None, description="from exposure to arrival; null: the prior of this kind of source"
    )
    duplicates: Literal["auto", "keep", "drop"] = Field(
        "auto", description="repeated pictures: auto drops them on live infrared and keeps them offline"
    )
    reconnect: ReconnectOptions = ReconnectOptions()
