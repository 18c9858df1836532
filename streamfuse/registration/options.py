"""Options of registration in time, beside those of each registrar."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from streamfuse.registry import Options


class TemporalOptions(Options):
    """What is carried over from frame to frame, and which fields are used; see `registration.temporal`."""

    temporal: bool = Field(True, description="false: every pair stands alone, no state is carried over")
    smooth: bool = Field(
        True, description="filter the field over time: no jitter on a still rig, quick where it changes"
    )
    key_interval: Annotated[int, Field(ge=1)] = Field(
        120,
        description="every n-th frame is searched cold as well, in pieces beside the frames after it, and "
        "what that finds overrules a worse field in use",
    )
    hold_s: Annotated[float, Field(ge=0)] = Field(
        30.0,
        description="how long the last good field stands in when a frame gives none to be trusted; long, for "
        "it belongs to the rig, not to what is seen",
    )
    min_confidence: Annotated[float, Field(ge=0, le=1)] = Field(
        0.3, description="a field below this confidence is not used"
    )
    regain_confidence: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="after a field that was not used, one is used again from this confidence on"
    )

    @model_validator(mode="after")
    def _regained_where_not_lost(self) -> Self:
        if self.regain_confidence < self.min_confidence:
            raise ValueError(
                f"regain_confidence {self.regain_confidence} must not be below min_confidence "
                f"{self.min_confidence}"
            )
        return self
