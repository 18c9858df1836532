"""What one rendered recording is: scene, rig, clocks, code, length."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from streamfuse.config import apply_override, describe_validation_error
from streamfuse.errors import ConfigError
from streamfuse.registry import Options
from streamfuse.synth.options import CodeOptions, RigOptions, SceneOptions, TimingOptions
from streamfuse.yaml_text import read_yaml


class ClipOptions(Options):
    """Options of `streamfuse synth`."""

    name: Annotated[str, Field(pattern=r"^[\w-]*$")] = Field(
        "", description="files are NAME-vis.mkv and so on"
    )
    duration_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    start_s: Annotated[float, Field(ge=0)] = Field(
        0.0, description="time of the scene at which filming begins"
    )
    vis_codec: Literal["h264", "hevc", "ffv1"] = "h264"
    ir_codec: Literal["h264", "hevc", "ffv1", "counts"] = Field(
        "h264", description="counts: the sensor's 16 bits, lossless; others: the 8-bit view"
    )
    quality: Annotated[int, Field(ge=0, le=51)] = Field(20, description="CRF of h264 and hevc")
    truth: bool = Field(True, description="write displacement and masks of each visible frame")
    truth_step: Annotated[int, Field(ge=1, le=64)] = Field(
        4, description="truth is stored at every n-th pixel of rows and columns"
    )
    scene: SceneOptions = SceneOptions()
    rig: RigOptions = RigOptions()
    timing: TimingOptions = TimingOptions()
    code: CodeOptions = CodeOptions()


def load_clip_options(path: Path | None, overrides: Sequence[str] = ()) -> ClipOptions:
    """Options from a YAML file (None: the defaults) with `a.b=value` overrides.

    Raises:
        ConfigError: file, key or value is wrong.
    """
    data: dict[str, Any] = {}
    if path is not None:
        loaded = read_yaml(path)
        if not isinstance(loaded, dict):
            raise ConfigError(f"{path}: must hold options such as 'duration_s: 5', got {loaded!r:.40}")
        data = loaded
    for override in overrides:
        apply_override(data, override)
    origin = str(path) if path is not None else "synth"
    try:
        return ClipOptions.model_validate(data)
    except ValidationError as error:
        raise ConfigError("; ".join(describe_validation_error(error, ClipOptions, origin))) from error
