"""Kinds that an installed package adds: one of each at work, and every mistake named for what it is."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import streamfuse

PACKAGE = """
from fractions import Fraction
import numpy as np
from streamfuse.capture.options import SourceOptions
from streamfuse.frame import RawFrame, Registration, SourceInfo, Status
from streamfuse.registry import Options

GREY = np.full((48, 64), 90, np.uint8)

class Camera:
    class Options(SourceOptions):
        count: int = 4
    live = False
    def __init__(self, options, *, clock):
        self.left, self.clock = options.count, clock
    def open(self):
        return SourceInfo(width=64, height=48, fps=10)
    def read(self):
        self.left -= 1
        return RawFrame(image=GREY, t_arrival=self.clock.now_ns()) if self.left >= 0 else None
    def close(self):
        pass

class FewOptions(Camera):
    Options = Options
class NeverLive(Camera):
    live = None
class OpensToNothing(Camera):
    def open(self):
        pass
class ReadsArrays(Camera):
    def read(self):
        return GREY

class Shift:
    class Options(Options):
        dx: float = 2.0
    def __init__(self, options, *, device):
        self.dx = options.dx
    def register(self, ir, vis, *, valid=None, prior=None):
        matrix = np.array([[1, 0, self.dx], [0, 1, 0], [0, 0, 1]])
        return Registration(status=Status.OK, confidence=0.9, matrix=matrix)

class Pair(Shift):
    def register(self, ir, vis, *, valid=None, prior=None):
        return self.dx, 0.0
class Small(Shift):
    def register(self, ir, vis, *, valid=None, prior=None):
        return Registration(status=Status.OK, confidence=0.9, flow=np.zeros((24, 32, 2), np.float32))

class Infrared:
    Options = Options
    def __init__(self, options, *, device):
        pass
    def fuse(self, ir, vis, *, valid=None):
        return ir
    def reset(self):
        pass

class NoOptions(Infrared):
    Options = None
class NoReset:
    Options = Options
    def __init__(self, options, *, device):
        pass
    fuse = Infrared.fuse
class OtherCall(Infrared):
    def __init__(self, options):
        pass
class Floats(Infrared):
    def fuse(self, ir, vis, *, valid=None):
        return ir / 2
def function():
    pass

class Tally:
    Options = Options
    seen = []
    def __init__(self, options, *, clock):
        pass
    def open(self):
        pass
    def write(self, frame):
        self.seen.append(frame.seq)
    def close(self):
        pass
"""
ENTRY_POINTS = """
[streamfuse.sources]
camera = thermo_kit:Camera
few-options = thermo_kit:FewOptions
never-live = thermo_kit:NeverLive
opens-to-nothing = thermo_kit:OpensToNothing
reads-arrays = thermo_kit:ReadsArrays
[streamfuse.registrars]
shift = thermo_kit:Shift
pair = thermo_kit:Pair
small = thermo_kit:Small
[streamfuse.fusers]
infrared = thermo_kit:Infrared
max = thermo_kit:Infrared
no-module = thermo_kat:Infrared
no-class = thermo_kit:Thermo
no-options = thermo_kit:NoOptions
no-reset = thermo_kit:NoReset
other-call = thermo_kit:OtherCall
function = thermo_kit:function
floats = thermo_kit:Floats
[streamfuse.sinks]
tally = thermo_kit:Tally
"""
SCRIPT = """
import json, sys
import numpy as np
from streamfuse.pipeline import Pipeline

told = {}
for name, change in json.loads(sys.argv[1]).items():
    vis = [np.zeros((48, 64, 3), np.uint8)] * 4
    tree = {
        "sources": {"ir": {"kind": "camera"}, "vis": {"kind": "python", "frames": vis, "fps": 25}},
        "registration": {"model": "shift", "dx": 3},
        "fusion": {"model": "infrared"},
        "sinks": [{"kind": "tally"}],
    }
    for section, value in change.items():
        tree[section] = tree[section] | value
    try:
        frames = list(Pipeline.from_config(tree))
        told[name] = [[f.registration.matrix[0, 2], int(f.image[24, 32, 0])] for f in frames]
    except Exception as error:
        told[name] = f"{type(error).__name__}: {error}"
import thermo_kit
print(json.dumps(told | {"seen by the sink": thermo_kit.Tally.seen[:4]}))
"""
OPTIONS = "has no class attribute Options that derives from streamfuse"
MISTAKES = [
    (
        "sources",
        "few-options",
        f"ConfigError.*sources.ir.kind: .*'few-options'.*{OPTIONS}.*SourceOptions",
    ),
    ("sources", "never-live", "ConfigError: sources.ir: .*'never-live' does not say whether it is live"),
    ("sources", "opens-to-nothing", "SourceError: ir: open() gave NoneType; must be a SourceInfo"),
    ("sources", "reads-arrays", "SourceError: ir: read() gave ndarray; must be a RawFrame"),
    ("registration", "pair", "DataError: registrar 'pair' gave tuple; must be a Registration"),
    ("registration", "small", "DataError: registrar 'small' gave a flow for (24, 32); .* (48, 64)"),
    ("fusion", "no-module", "ConfigError.*fusion.model: .*'no-module'.*No module named 'thermo_kat'"),
    ("fusion", "no-class", "ConfigError.*'no-class'.*has no attribute 'Thermo'"),
    ("fusion", "no-options", f"ConfigError.*fuser 'no-options' .*{OPTIONS}.registry.Options"),
    (
        "fusion",
        "no-reset",
        "ConfigError.*'no-reset' of the entry point thermo_kit:NoReset lacks reset()",
    ),
    ("fusion", "other-call", "ConfigError.*'other-call'.*cannot be made by OtherCall(options, device=...)"),
    ("fusion", "function", "ConfigError.*'function'.* is no class but <function"),
    ("fusion", "floats", "DataError: fuser 'floats' gave float64 (48, 64); must be uint8 (48, 64)"),
]


def change(section: str, kind: str) -> dict[str, object]:
    return {section: {"ir": {"kind": kind}} if section == "sources" else {"model": kind}}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What runs with the kinds of an installed package said, in a process of their own."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "thermo_kit.py").write_text(PACKAGE)
    about = folder / "thermo_kit-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Name: thermo-kit\nVersion: 1\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    changes = {"good": {}, "taken": change("fusion", "max")}
    changes |= {kind: change(section, kind) for section, kind, _ in MISTAKES}
    search = os.pathsep.join([str(folder), str(Path(streamfuse.__file__).parents[1])])
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            SCRIPT,
            json.dumps({"good": {}, "taken": {"fusion": {"model": "max"}}} | changes),
        ],
        env=os.environ | {"PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout) | {"log": run.stderr}


def test_a_package_of_four_kinds_runs(told: dict[str, object]) -> None:
    assert told["good"] == [[3, 90]] * 4
    assert told["seen by the sink"] == [0, 1, 2, 3]


def test_a_name_that_is_taken_stays_with_the_package_itself(told: dict[str, str]) -> None:
    assert "the fuser 'max' of thermo_kit:Infrared is not used: that name is taken by" in told["log"]


@pytest.mark.parametrize(("section", "kind", "says"), MISTAKES, ids=[kind for _, kind, _ in MISTAKES])
def test_a_mistake_is_named(section: str, kind: str, says: str, told: dict[str, str]) -> None:
    pattern = re.escape(says).replace(r"\.\*", ".*")
    assert re.search(pattern, told[kind]), told[kind]
