"""16-bit counts to a view that does not flicker."""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamfuse.capture.agc import BLIND_SHARE, SMALLEST_SPAN, Agc
from streamfuse.capture.options import AgcOptions

HEIGHT, WIDTH = 120, 160
Counts = npt.NDArray[np.uint16]


def scene(
    rng: np.random.Generator, *, hot_share: float = 0.0, hot: int = 38_000, base: int = 30_000
) -> Counts:
    """A warm wall with sensor noise; a hot object covers the left `hot_share` of the view."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    counts = base + 400 * np.sin(x / 25) + 2.5 * y + rng.normal(0, 15, (HEIGHT, WIDTH))
    columns = round(WIDTH * hot_share)
    counts[:, :columns] = hot + rng.normal(0, 15, (HEIGHT, columns))
    return counts.astype(np.uint16)


def agc(**options: Any) -> Agc:
    return Agc(AgcOptions(**options))


def slide_in(control: Agc, rng: np.random.Generator, *, fps: int, hot: int) -> npt.NDArray[np.float64]:
    """Mean of the view and of the background on the right: a second of calm, a second in which a hot object
    slides into a tenth of the view, two seconds after."""
    means = []
    for i in range(4 * fps):
        share = 0.1 * min(1, max(0, (i - fps) / fps))
        view = control.apply(scene(rng, hot_share=share, hot=hot))
        means.append((view.mean(), view[:, WIDTH // 4 :].mean()))
    return np.array(means)


@pytest.mark.parametrize("mode", ["percentile", "plateau"])
@pytest.mark.parametrize("fps", [25, 30])
@pytest.mark.parametrize("hot", [31_500, 38_000, 60_000])
def test_a_hot_object_that_enters_moves_the_picture_by_one_grey_level_a_frame_at_most(
    mode: str, fps: int, hot: int, rng: np.random.Generator
) -> None:
    means = slide_in(agc(mode=mode), rng, fps=fps, hot=hot)
    moved = np.abs(np.diff(means, axis=0)).max(axis=0)
    assert moved[0] <= 1, "mean luma"
    assert moved[1] <= 1, "the background's grey"
    assert means[fps, 1] - means[-1, 1] > (20 if mode == "percentile" else 5), "the gain did follow"


@pytest.mark.parametrize("mode", ["percentile", "plateau"])
@pytest.mark.parametrize("hot", [20_000, 31_500, 60_000])
def test_what_appears_at_once_does_not_flash(mode: str, hot: int, rng: np.random.Generator) -> None:
    control = agc(mode=mode)
    views = [control.apply(scene(rng, hot_share=0.1 if i >= 10 else 0, hot=hot)) for i in range(150)]
    assert max(abs(a.mean() - b.mean()) for a, b in pairwise(views)) <= 1
    contrast = views[-1][:, : WIDTH // 10].mean() - views[-1][:, WIDTH // 4 :].mean()
    assert contrast * np.sign(hot - 30_000) > 60


@pytest.mark.parametrize("max_step", [0.25, 4.0])
def test_max_step_is_the_limit(max_step: float, rng: np.random.Generator) -> None:
    means = slide_in(agc(max_step=max_step), rng, fps=30, hot=38_000)
    moved = np.abs(np.diff(means, axis=0)).max(axis=0)
    assert moved[0] <= max_step
    assert moved[1] > max_step * 0.7, "the background follows as fast as it may"


def test_the_view_settles_on_its_new_scene(rng: np.random.Generator) -> None:
    control, fresh = agc(), agc()
    for _ in range(10):
        control.apply(scene(rng))
    warmer = scene(rng, base=30_300)
    for _ in range(200):
        view = control.apply(warmer)
    assert np.abs(view.astype(int) - fresh.apply(warmer)).max() <= 1


def test_percentiles_are_the_ends_of_the_view(rng: np.random.Generator) -> None:
    ramp = np.arange(20_000, 20_000 + HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    view = agc(low_percentile=10, high_percentile=80).apply(ramp)
    assert np.mean(view == 0) == pytest.approx(0.10, abs=0.01)
    assert np.mean(view == 255) == pytest.approx(0.20, abs=0.01)
    control = agc(low_percentile=10, high_percentile=80)
    assert control.limits is None
    control.apply(ramp)
    assert control.limits == pytest.approx((20_000 + 0.1 * ramp.size, 20_000 + 0.8 * ramp.size), abs=60)
    middle = int(view.ravel()[HEIGHT * WIDTH * 45 // 100])
    assert middle == pytest.approx(127, abs=2)
    assert agc(low_percentile=0, high_percentile=100).apply(ramp).ravel()[[0, -1]].tolist() == [0, 255]


@pytest.mark.parametrize("mode", ["percentile", "plateau"])
def test_hotter_is_never_darker(mode: str, rng: np.random.Generator) -> None:
    control = agc(mode=mode)
    for share in (0, 0.05, 0.1, 0.1):
        counts = scene(rng, hot_share=share)
        view = control.apply(counts)
        order = np.argsort(counts, axis=None, kind="stable")
        assert (np.diff(view.ravel()[order].astype(int)) >= 0).all()


def test_plateau_leaves_details_to_both_of_two_distant_temperatures(rng: np.random.Generator) -> None:
    # A person in front of a cold sky: linear stretching spends all greys on the gap between them.
    counts = scene(rng, base=20_000)
    counts[:, WIDTH // 2 :] = scene(rng, base=40_000)[:, WIDTH // 2 :]
    detail = {}
    for mode in ("percentile", "plateau"):
        view = agc(mode=mode).apply(counts)
        detail[mode] = min(np.ptp(view[:, : WIDTH // 2]), np.ptp(view[:, WIDTH // 2 :]))
    assert detail["plateau"] > 3 * detail["percentile"]


@pytest.mark.parametrize("mode", ["percentile", "plateau"])
@pytest.mark.parametrize("level", [0, 30_000, 65_535])
def test_a_flat_scene_is_grey_and_calm(mode: str, level: int, rng: np.random.Generator) -> None:
    control = agc(mode=mode)
    views = []
    for _ in range(20):
        noise = np.rint(rng.normal(0, 3, (HEIGHT, WIDTH))).astype(int)
        views.append(control.apply(np.clip(level + noise, 0, 65_535).astype(np.uint16)))
    assert max(view.std() for view in views) < 255 * 3 / SMALLEST_SPAN * 1.5, "noise is not stretched to fill"
    assert max(abs(a.mean() - b.mean()) for a, b in pairwise(views)) < 1


def test_a_frame_of_one_value_gives_one_grey() -> None:
    view = agc().apply(np.full((HEIGHT, WIDTH), 12_345, np.uint16))
    assert view.shape == (HEIGHT, WIDTH)
    assert view.dtype == np.uint8
    assert np.ptp(view) == 0
    assert 100 < view[0, 0] < 155


def test_a_dead_pixel_does_not_hold_the_gain(rng: np.random.Generator) -> None:
    control = agc()
    for i in range(60):
        counts = scene(rng, hot_share=0.1 if i else 0)
        counts[5, 5], counts[6, 6] = 0, 65_535
        view = control.apply(counts)
    assert view[:, WIDTH // 4 :].mean() < 90, "followed"


def test_a_shutter_that_opens_is_seen_at_once(rng: np.random.Generator) -> None:
    control = agc()
    closed = (25_000 + rng.normal(0, 3, (HEIGHT, WIDTH))).astype(np.uint16)
    for _ in range(10):
        control.apply(closed)
    view = control.apply(scene(rng))
    assert np.mean((view == 0) | (view == 255)) < 0.05 < BLIND_SHARE


def test_after_a_reset_the_next_frame_is_shown_by_its_own_curve(rng: np.random.Generator) -> None:
    control = agc()
    control.apply(scene(rng, base=30_000))
    other = scene(rng, base=30_400)
    control.reset()
    np.testing.assert_array_equal(control.apply(other), agc().apply(other))


@given(
    st.sampled_from(["percentile", "plateau"]),
    st.lists(st.tuples(st.integers(0, 65_535), st.integers(0, 3000)), min_size=2, max_size=8),
    st.floats(0.1, 8),
)
@example("percentile", [(0, 23), (0, 52)], 0.5)  # half of the counts are clipped, and black by any curve
@settings(max_examples=40, deadline=None)
def test_whatever_the_scenes_the_mean_moves_by_the_scene_or_by_the_step(
    mode: str, scenes: list[tuple[int, int]], max_step: float
) -> None:
    # Each scene is shown twice: the second time nothing but the gain can move the picture. Where it has only
    # a few levels, all may be rounded the same way.
    rng = np.random.default_rng(5)
    control = agc(mode=mode, max_step=max_step)
    for level, spread in scenes:
        counts = np.clip(level + rng.normal(0, 1 + spread, (32, 32)), 0, 65_535).astype(np.uint16)
        first = control.apply(counts)
        second = control.apply(counts)
        assert abs(float(second.mean()) - float(first.mean())) <= max_step + 1
        assert np.abs(second.astype(int) - first).mean() <= max_step + 1
