"""The doctor tells the truth about this machine and about machines that are worse off."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamfuse import doctor
from streamfuse.cli import doctor as command
from streamfuse.doctor import Finding, Verdict, examine, library_advice


def run_doctor(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["doctor", *arguments])
    return int(args.run(args))


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def test_this_machine_can_do_the_main_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_doctor("--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {line["what"]: line for line in lines}
    assert not [line for line in lines if line["verdict"] == "broken"]
    assert found["fuse a pair"]["detail"].startswith("128x96, status ")
    assert found["write a clip"]["detail"] == "10 frames written, 10 read back"
    assert found["write h264"]["detail"] == "libx264"
    assert found["zeromq"]["verdict"] == "ok"
    assert found["opencv-python"]["detail"][0].isdigit()
    for line in lines:
        assert line["verdict"] == "ok" or line["detail"]


@pytest.mark.parametrize(
    ("display", "wayland", "detail"),
    [
        (None, None, "DISPLAY is not set"),
        (None, "wayland-0", "start Xwayland"),
        (":4711", None, "X server :4711 does not answer"),
    ],
)
def test_a_missing_display_is_a_limit_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, display: str | None, wayland: str | None, detail: str
) -> None:
    for name, value in (("DISPLAY", display), ("WAYLAND_DISPLAY", wayland)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    (finding,) = doctor._display()
    assert finding.verdict is Verdict.LIMITED
    assert detail in finding.detail
    assert "files and topics work" in finding.advice


def test_missing_system_libraries_are_named_with_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.import_module

    def without_gl(name: str) -> Any:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
        return real(name)

    monkeypatch.setattr(doctor, "import_module", without_gl)
    finding = by_name(list(doctor._versions()))["import cv2"]
    assert finding.verdict is Verdict.BROKEN
    assert "apt-get install libgl1" in finding.advice


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("libgthread-2.0.so.0: cannot open shared object file: No such file", "apt-get install libglib2.0-0"),
        ("libfoo-1.2.so.7: cannot open shared object file", "the system package that has libfoo-1.2.so.7"),
        ("No module named 'cv2'", ""),
    ],
)
def test_library_advice(message: str, advice: str) -> None:
    assert advice in library_advice(message)
    assert bool(library_advice(message)) == bool(advice)


def test_a_missing_package_is_named_with_its_requirement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda _: ["no-such-package>=2", 'pytest>=8; extra == "test"'])
    findings = by_name(list(doctor._versions()))
    assert findings["no-such-package"].advice == 'pip install "no-such-package>=2"'
    assert "pytest" not in findings


def test_a_card_without_a_driver_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Path, "exists", lambda self: str(self) == "/dev/nvidiactl")
    monkeypatch.setattr(torch.version, "cuda", None)
    (finding,) = doctor._accelerator()
    assert "install PyTorch with CUDA" in finding.advice
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    (finding,) = doctor._accelerator()
    assert "--gpus all" in finding.advice


def test_a_check_that_breaks_does_not_end_the_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def _fuse() -> Iterator[Finding]:
        raise ImportError("libGL.so.1: cannot open shared object file")
        yield

    def _fine() -> Iterator[Finding]:
        yield Finding(area="outputs", what="zeromq", verdict=Verdict.OK, detail="fine")

    monkeypatch.setattr(doctor, "CHECKS", (("fuse", _fuse), ("outputs", _fine)))
    first, second = examine()
    assert (first.what, first.verdict) == ("fuse", Verdict.BROKEN)
    assert second.verdict is Verdict.OK
    assert run_doctor() == 1
    out = capsys.readouterr().out
    assert "!!  fuse" in out
    assert "apt-get install libgl1" in out
    assert "does not work: fuse" in out


def test_limits_alone_are_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def _limited() -> Iterator[Finding]:
        yield Finding(area="outputs", what="screen", verdict=Verdict.LIMITED, detail="none", advice="ssh -X")

    monkeypatch.setattr(doctor, "CHECKS", (("outputs", _limited),))
    assert run_doctor() == 0
    out = capsys.readouterr().out
    assert "--  screen" in out
    assert "ssh -X" in out
    assert out.endswith("streamfuse works here\n")
