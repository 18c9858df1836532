"""`--profile`: one trace of all threads, and the durations that frames carry are the spans it shows."""

import json
from collections import defaultdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from streamfuse.cli import main
from streamfuse.clock import VirtualClock
from streamfuse.errors import ConfigError, SinkError
from streamfuse.spans import Trace, span, timed


def events(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def by_thread(path: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Spans by name of the thread and of the span."""
    found = events(path)
    threads = {event["tid"]: event["args"]["name"] for event in found if event["name"] == "thread_name"}
    spans: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for event in found:
        if event["ph"] == "X":
            spans[threads[event["tid"]]][event["name"]].append(event)
    return spans


def test_a_profiled_run_shows_every_stage_on_its_thread(tmp_path: Path) -> None:
    clips = [files("streamfuse") / "samples" / f"street-{name}.mkv" for name in ("ir", "vis")]
    trace, log = tmp_path / "trace.json", tmp_path / "log.jsonl"
    args = [
        "fuse",
        *map(str, clips),
        "-o",
        str(tmp_path / "out.mkv"),
        "--set",
        "worker.device=cpu",
        "--set",
        "registration.model=blocks",
        "--end",
        "0.2",
    ]
    assert main([*args, "--profile", str(trace), "--frame-log", str(log)]) == 0

    spans = by_thread(trace)
    for stream in ("ir", "vis"):
        assert {"read", "decode", "to_rgb", "condition"} <= spans[f"streamfuse-read-{stream}"].keys()
    fusing = spans["MainThread"]
    assert {"pair", "calibrate", "register", "maps", "correlate", "fit", "warp", "colour"} <= fusing.keys()
    assert {"to_yuv", "encode", "write"} <= spans["streamfuse-sink-file"].keys()
    whole = spans["streamfuse-sink-file"]["sink.file"]
    assert [event["args"]["frame"] for event in whole] == list(range(len(fusing["register"])))
    assert len(whole) >= 4

    logged = [json.loads(line)["latencies_ns"] for line in log.read_text().splitlines()]
    for stage in ("calibrate", "register", "warp", "fuse", "colour", "register_and_fuse"):
        shown = [event["dur"] for event in fusing[stage]]
        assert shown == pytest.approx([line[stage] / 1000 for line in logged])
    assert all(0 < event["tdur"] <= event["dur"] + 1000 for event in fusing["register_and_fuse"])
    for inner_name in ("register", "fuse"):
        for outer, inner in zip(fusing["register_and_fuse"], fusing[inner_name], strict=True):
            assert (
                outer["ts"] <= inner["ts"] < inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"] + 1e-3
            )


def test_without_a_trace_a_span_is_always_the_same_object() -> None:
    assert span("decode") is span("encode", 3)


def test_durations_are_kept_without_a_trace() -> None:
    clock, durations = VirtualClock(), dict[str, int]()
    with timed("warp", durations, clock):
        clock.advance_ns(70)
    assert durations == {"warp": 70}


def test_a_trace_cut_off_holds_what_was_written(tmp_path: Path) -> None:
    path, clock = tmp_path / "trace.json", VirtualClock()
    with Trace(path, clock=clock):
        for _ in range(2500):
            with span("step"):
                clock.advance_ns(1000)
        cut = path.read_text()
    assert cut.count('"step"') >= 900
    assert len([event for event in events(path) if event["name"] == "step"]) == 2500


def test_mistakes_are_named(tmp_path: Path) -> None:
    nowhere = Trace(tmp_path / "no" / "trace.json")
    with pytest.raises(SinkError, match=r"no/trace\.json: the trace cannot be written"):
        nowhere.__enter__()
    second = Trace(tmp_path / "b.json")
    with Trace(tmp_path / "a.json"), pytest.raises(ConfigError, match=r"recorded already, to .*a\.json"):
        second.__enter__()
    assert not (tmp_path / "b.json").exists()
