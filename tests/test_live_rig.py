"""A whole live rig for a minute: a 9 Hz thermal core beside a 30 Hz camera, judged by the renderer's truth.

Run by hand: python -m pytest -m soak tests/test_live_rig.py -s
"""

import gc
import os
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from streamfuse.clock import NS_PER_MS, NS_PER_S, RealClock
from streamfuse.frame import FusedFrame, RawFrame, Stream
from streamfuse.pipeline import Pipeline
from streamfuse.synth.code import burn_code, read_code
from streamfuse.synth.film import Film
from streamfuse.synth.options import CodeOptions, RigOptions, SceneOptions, TimingOptions
from streamfuse.synth.schedule import TIME_BASE, Schedule

DURATION_S = float(os.environ.get("STREAMFUSE_SOAK_S", "60"))
TIMING = TimingOptions(
    vis_fps=30.0,
    ir_fps=8.7,
    ir_phase_ms=13.0,
    ir_drift_ppm=400.0,
    exposure_jitter_ms=2.0,
    stamp_jitter_ms=2.0,
)
RIG = RigOptions(vis_width=320, vis_height=240, ir_width=160, ir_height=120)
DELAY_MS = {"ir": 50.0, "vis": 25.0}
DELAY_JITTER_MS = 3.0
PAINTED = 24
"""Pictures rendered before the run and shown in turn, each time with the number of the delivery burnt in."""
LEAD_NS = 4 * NS_PER_S
"""Until the world begins: the pipeline is built and both cameras wait for it, no backlog to catch up with."""


def corner(stream: Stream) -> str:
    return "top_right" if stream == "ir" else "bottom_left"


def paint(stream: Stream) -> list[np.ndarray]:
    film = Film(
        stream,
        scene=SceneOptions(people=3, cars=0, parked=1),
        rig=RIG,
        timing=TIMING,
        code=CodeOptions(enabled=False),
        start_s=0.0,
    )
    captures = map(film.schedule.capture, range(PAINTED))
    return [film.grey(c) if stream == "ir" else film.picture(c) for c in captures]


def camera(stream: Stream, painted: list[np.ndarray], start_ns: int) -> Iterator[RawFrame]:
    """Pictures at the times and with the stamps of the schedule, as a driver would hand them over."""
    clock = RealClock()
    rng = np.random.default_rng(1)
    for capture in Schedule(TIMING, stream).deliveries(DURATION_S):
        image = painted[capture.number % PAINTED].copy()
        burn_code(image, capture.number, corner=corner(stream))
        delay_ms = DELAY_MS[stream] + abs(rng.standard_normal()) * DELAY_JITTER_MS
        clock.sleep_ns(start_ns + round(capture.t_sent * NS_PER_S + delay_ms * NS_PER_MS) - clock.now_ns())
        yield RawFrame(image=image, t_arrival=clock.now_ns(), pts=capture.pts, time_base=TIME_BASE)


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("driver", ["ir", "vis"])
def test_thermal_core_beside_a_camera(driver: str) -> None:
    infrared, visible = (Schedule(TIMING, stream) for stream in ("ir", "vis"))
    true_dt_ms: list[float] = []
    memory: list[int] = []
    process = psutil.Process()

    def judge(fused: FusedFrame) -> None:
        if fused.seq % 30 == 0:
            gc.collect()
            memory.append(process.memory_info().rss)
        if fused.pair.ir is None or fused.pair.held:
            return
        ir, vis = (read_code(f.image, corner=corner(f.stream)) for f in (fused.pair.ir, fused.pair.vis))
        if ir is not None and vis is not None:
            true_dt_ms.append(abs(infrared.t_true(ir) - visible.t_true(vis)) * 1000)

    pictures = {stream: paint(stream) for stream in DELAY_MS}
    start_ns = RealClock().now_ns() + LEAD_NS
    pipeline = Pipeline.from_config(
        {
            "sources": {
                stream: {"kind": "python", "live": True, "latency_ms": DELAY_MS[stream]}
                for stream in DELAY_MS
            },
            "pairing": {"driver": driver},
            "registration": {"model": "blocks"},
            "fusion": {"model": "max"},
        },
        ir=camera("ir", pictures["ir"], start_ns),
        vis=camera("vis", pictures["vis"], start_ns),
        sinks=[judge],
    )
    report = pipeline.run()
    mean_dt = sum(true_dt_ms) / len(true_dt_ms)
    paired = report.frames_used["ir"] / report.frames_in["ir"]
    third = len(memory) // 3
    growth = (memory[-1] - memory[third]) / 2**20
    true_dt = f"true |dt| {mean_dt:.1f} ms over {len(true_dt_ms)} pairs"
    counts = f"{report.frames_out} out of ir {report.frames_in['ir']}, vis {report.frames_in['vis']}"
    print(
        f"\n{driver}-driven: {counts}; ir used {paired:.1%}; {true_dt}; held {report.held}; "
        f"dropped {report.dropped}; memory growth {growth:.1f} MiB"
    )
    assert report.unaccounted() == {"ir": 0, "vis": 0}
    assert len(true_dt_ms) > 0.8 * report.frames_used["ir"]
    assert growth < 20
    if driver == "ir":
        assert mean_dt <= 9.5
        assert paired >= 0.97
    else:
        assert report.frames_out + sum(report.dropped["vis"].values()) == report.frames_in["vis"]
        assert sum(report.dropped["vis"].values()) <= 0.01 * report.frames_in["vis"]
