"""Infrared in colour."""

import numpy as np
import pytest
from factories import fused_frame

from streamfuse.errors import ConfigError
from streamfuse.sinks.colormap import COLORMAPS, apply_colormap
from streamfuse.sinks.views import render

RAMP = np.tile(np.arange(256, dtype=np.uint8), (2, 1))


@pytest.mark.parametrize("name", COLORMAPS)
def test_cold_and_hot_are_told_apart(name: str) -> None:
    colours = apply_colormap(RAMP, name)  # type: ignore[arg-type]
    assert (colours.shape, colours.dtype) == ((2, 256, 3), np.uint8)
    assert np.abs(colours[0, 0].astype(int) - colours[0, 255]).sum() > 100


def test_channels_are_rgb() -> None:
    red, _, blue = apply_colormap(RAMP, "hot")[0, 100].tolist()
    assert red > 200
    assert blue < 50
    assert apply_colormap(RAMP, "white_hot")[0, 200].tolist() == [200, 200, 200]
    assert apply_colormap(RAMP, "black_hot")[0, 200].tolist() == [55, 55, 55]


def test_an_unknown_map_is_named() -> None:
    with pytest.raises(ConfigError, match="'viridis': must be one of white_hot, black_hot"):
        apply_colormap(RAMP, "viridis")  # type: ignore[arg-type]


def test_the_overlay_is_drawn_in_the_colours_asked_for() -> None:
    frame = fused_frame()
    plain, bright = (render(frame, "overlay", colormap=name) for name in ("white_hot", "turbo"))  # type: ignore[arg-type]
    uncovered = frame.valid == 0
    assert (plain != bright).any()
    np.testing.assert_array_equal(plain[uncovered], bright[uncovered])
