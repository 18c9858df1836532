"""Everything that can be set about the street, the two cameras and their clocks.

All of it together with the seeds determines every pixel and every stamp.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from streamfuse.registry import Options

Side = Annotated[int, Field(ge=32, le=4096)]
Corner = Literal["top_left", "top_right", "bottom_left", "bottom_right"]


class MotionOptions(Options):
    """How the rig moves. Amplitudes are those of a smooth, never repeating sway."""

    pan_deg: Annotated[float, Field(ge=0, le=20)] = Field(0.6, description="sway to the sides")
    tilt_deg: Annotated[float, Field(ge=0, le=10)] = 0.25
    roll_deg: Annotated[float, Field(ge=0, le=10)] = 0.25
    sway_m: Annotated[float, Field(ge=0, le=0.5)] = Field(0.03, description="sideways and up and down")
    sway_hz: Annotated[float, Field(gt=0, le=5)] = 0.35
    speed_m_s: Annotated[float, Field(ge=0, le=20)] = Field(0.0, description="driving up the street")


class SmokeOptions(Options):
    """Drifting smoke: opaque to the visible camera, thin to the infrared one."""

    density: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="0: none, 1: nothing is seen")
    start_s: Annotated[float, Field(ge=0)] = 0.0
    stop_s: Annotated[float, Field(ge=0)] | None = Field(None, description="null: it stays")
    ramp_s: Annotated[float, Field(gt=0)] = Field(1.0, description="time to come and to go")

    @model_validator(mode="after")
    def _stops_after_it_starts(self) -> Self:
        if self.stop_s is not None and self.stop_s <= self.start_s:
            raise ValueError(f"stop_s {self.stop_s} must be later than start_s {self.start_s}")
        return self


class SceneOptions(Options):
    """The street and what happens on it."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    light: Literal["day", "dusk", "night"] = "day"
    people: Annotated[int, Field(ge=0, le=40)] = 7
    cars: Annotated[int, Field(ge=0, le=12)] = Field(3, description="driving")
    parked: Annotated[int, Field(ge=0, le=12)] = Field(4, description="at the kerb")
    trees: bool = True
    wind: Annotated[float, Field(ge=0, le=5)] = Field(1.0, description="sway of the trees, 1: a breeze")
    bus_at_s: Annotated[float, Field(ge=0)] | None = Field(
        None, description="a bus drives by and hides half of the street; the time it is abreast"
    )
    smoke: SmokeOptions = SmokeOptions()
    motion: MotionOptions = MotionOptions()


class RigOptions(Options):
    """The two cameras, and how badly they are mounted.

    The visible camera is the reference. The infrared one has square pixels, its own field of view, and is
    turned, shifted and bent against it.
    """

    vis_width: Side = 640
    vis_height: Side = 480
    vis_fov_deg: Annotated[float, Field(ge=20, le=110)] = Field(62.0, description="horizontal")
    vis_noise: Annotated[float, Field(ge=0, le=30)] = Field(1.5, description="grey levels in mid tones")
    vis_blur_px: Annotated[float, Field(ge=0, le=5)] = 0.5
    exposure: Annotated[float, Field(gt=0, le=8)] = Field(1.0, description="gain of the visible camera")

    ir_width: Side = 320
    ir_height: Side = 240
    fov_ratio: Annotated[float, Field(ge=0.3, le=2)] = Field(
        0.95, description="width of the infrared view as a share of the visible one"
    )
    shift_px: tuple[float, float] = Field((6.0, -4.0), description="boresight error, in visible pixels")
    roll_deg: Annotated[float, Field(ge=-30, le=30)] = 0.8
    elastic_px: Annotated[float, Field(ge=0, le=20)] = Field(
        1.5, description="mean length of a smooth random bend, in visible pixels"
    )
    ir_distortion: Annotated[float, Field(ge=-0.3, le=0.3)] = Field(
        0.0, description="radial k1 on coordinates normalised by the focal length"
    )
    baseline_m: tuple[float, float] = Field(
        (0.08, 0.0), description="infrared lens to the right of, and below, the visible one: gives parallax"
    )
    drift_px_per_s: tuple[float, float] = Field(
        (0.0, 0.0), description="boresight creep, in visible pixels a second"
    )
    knock_at_s: Annotated[float, Field(ge=0)] | None = Field(
        None, description="time at which the infrared camera is knocked; null: never"
    )
    knock_px: tuple[float, float] = Field(
        (4.0, 0.0), description="what the knock adds to the boresight error"
    )

    ir_blur_px: Annotated[float, Field(ge=0, le=5)] = Field(0.5, description="optics, in infrared pixels")
    netd_mk: Annotated[float, Field(ge=0, le=1000)] = Field(60.0, description="temporal noise, millikelvin")
    fixed_pattern_mk: Annotated[float, Field(ge=0, le=1000)] = Field(
        50.0, description="what shutter correction leaves: pixels, columns and a slow shade"
    )
    film: Literal["heat", "luma"] = Field(
        "heat",
        description="luma: the infrared camera sees visible light, through its own geometry and sensor; "
        "the pair then has one modality, for measuring registration alone",
    )


class TimingOptions(Options):
    """When the cameras expose and what their clocks say.

    A device clock reads `true time * (1 + drift) + offset`; the visible clock is the true one.
    """

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    vis_fps: Annotated[float, Field(gt=0, le=240)] = 25.0
    ir_fps: Annotated[float, Field(gt=0, le=240)] = Field(25.0, description="unique frames a second")
    ir_phase_ms: Annotated[float, Field(ge=0)] = Field(
        0.0, description="first infrared exposure, after the first visible one"
    )
    offset_ms: Annotated[float, Field(ge=-10_000, le=10_000)] = Field(
        0.0, description="clock error; positive: the same event is stamped later in the visible"
    )
    ir_drift_ppm: Annotated[float, Field(ge=-50_000, le=50_000)] = Field(
        0.0, description="infrared clock fast by this much; a core that runs slow is a matter of ir_fps"
    )
    exposure_jitter_ms: Annotated[float, Field(ge=0)] = Field(
        0.0, description="sigma of the true capture time around its grid"
    )
    stamp_jitter_ms: Annotated[float, Field(ge=0)] = Field(
        0.0, description="sigma of the stamp around the true capture time"
    )
    vis_drop: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of frames lost")
    ir_drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ir_repeat: Annotated[int, Field(ge=1, le=9)] = Field(
        1, description="each infrared picture is delivered this often, as 27 Hz cores with 9 Hz content do"
    )
    ir_freeze_every_s: Annotated[float, Field(gt=0)] | None = Field(
        None, description="shutter events: the infrared repeats its last picture; null: none"
    )
    ir_freeze_s: Annotated[float, Field(gt=0)] = Field(0.4, description="how long a shutter event lasts")


class CodeOptions(Options):
    """The frame number burnt into each picture."""

    enabled: bool = True
    vis_corner: Corner = "bottom_left"
    ir_corner: Corner = "top_right"
