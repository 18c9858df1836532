"""Options of the matcher."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from streamfuse.registry import Options

MotionMode = Literal["off", "causal", "interpolate"]


class PairingOptions(Options):
    """Which frames belong together. Every null is learnt from the streams while they run."""

    driver: Literal["ir", "vis", "auto"] = Field(
        "auto",
        description="ir: one result per infrared frame, each visible frame used once; "
        "vis: one result per visible frame, infrared frames reused; auto: what the outputs ask for",
    )
    window_ms: Annotated[float, Field(gt=0)] | None = Field(
        None, description="largest time between partners; null: 0.55 periods of the faster stream + residual"
    )
    deadline_ms: Annotated[float, Field(ge=0)] | None = Field(
        None, description="live: longest wait for a partner after arrival; null: learnt from the delays"
    )
    hold_max_ms: Annotated[float, Field(ge=0)] | None = Field(
        None, description="vis-driven: oldest infrared frame reused; null: 1.6 periods of the slower stream"
    )
    offset_ms: float | Literal["auto"] | None = Field(
        None,
        description="positive: the same event is later in the visible; null: no offset; auto: measured from "
        "what moves, while the run goes on when live, over both clips beforehand when not",
    )
    motion: MotionMode = Field(
        "causal",
        description="infrared not taken at the visible time is moved to it. causal: by what was seen until "
        "then; interpolate: between two infrared frames, live at the price of waiting for the later one; "
        "off: shown where it was",
    )

    @field_validator("offset_ms", mode="before")
    @classmethod
    def _number_or_auto(cls, value: object) -> object:
        if isinstance(value, str) and value != "auto":
            raise ValueError("must be a number of milliseconds, auto or null")
        return value
