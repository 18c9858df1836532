"""Registrars and fusers by themselves, against the plain network and the classical methods.

What is timed is what a run calls: `register` and `fuse` on 8-bit pictures, transfers and all. A network in
float32 is the baseline of the same network in less.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np

from streamfuse.bench.timing import take_turns
from streamfuse.clock import Clock
from streamfuse.config import Component
from streamfuse.flow import to_flow
from streamfuse.frame import Frame, FramePair, Image8, Registration
from streamfuse.fusion import FUSERS
from streamfuse.nn.backend_names import MEASURED_BY_AUTO, BackendName, check_backend, is_installed
from streamfuse.registration import REGISTRARS
from streamfuse.registration.registrar import Registrar
from streamfuse.registry import Options
from streamfuse.threads import use_threads
from streamfuse.worker import PreparableRegistrar

DEFAULT_MODELS = ("live", "blocks", "ecc", "dis", "people", "laplacian")
DEFAULT_SIZES = ((320, 240), (640, 480), (1280, 960))
BASELINE = "float32"
PRECISIONS = (BASELINE, "bfloat16")
DIS = "dis"
"""OpenCV's dense inverse search flow, on the pictures as they are: what a home-made rig would use."""
STREAM_FRAMES = 32
"""Frames in one call of a whole worker: its copies hide behind its work only in a stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One way to compute one thing at one size.

    mode: `cold` or `warm` registration, or `fuse`; on a CUDA device also `32 frames` through the whole device
    worker, transfers and all, with this registrar and the fuser of that name, or `max`. backend: empty where
    there is nothing to choose. ms: see `Timing.summary`. difference: of the result from that of eager
    float32, mean; pixels for registrars, grey levels for fusers and frames; None: nothing to compare with.
    speed_up: of the median against that one.
    """

    model: str
    mode: str
    precision: str
    backend: str
    width: int
    height: int
    ms: dict[str, float]
    difference: float | None = None
    speed_up: float | None = None

    @property
    def label(self) -> str:
        backend = "" if self.backend in ("", "eager") else f" {self.backend}"
        return f"{self.model} {self.mode} {self.precision}{backend} {self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class _Case:
    model: str
    mode: str
    precision: str
    call: Callable[[], Any]
    backend: str = ""


def bench_models(
    pictures: tuple[Image8, Image8],
    *,
    models: Sequence[str] = DEFAULT_MODELS,
    sizes: Sequence[tuple[int, int]] = DEFAULT_SIZES,
    repeats: int = 25,
    threads: int | None = None,
    device: str = "cpu",
    weights: str | None = None,
    backends: Sequence[BackendName] | None = None,
    clock: Clock,
) -> list[ModelRow]:
    """Time models at several sizes, all of one size in turns.

    Args:
        pictures: infrared and visible luma, uint8 (H, W), of one scene; they are brought to each size.
        models: kinds of registrars and fusers (both, where a name is of both), or `dis`.
        sizes: (width, height).
        weights: of the networks that come without.
        backends: of the networks that can be computed by several; None: `eager` and those that are installed,
            without `compile`.

    Raises:
        ConfigError: an unknown model, or a backend that cannot be used.
        WeightsError: a network without weights.
    """
    if backends is None:
        backends = ["eager", *(name for name in MEASURED_BY_AUTO if device == "cpu" and is_installed(name))]
    for backend in backends:
        check_backend(backend, device=device)
    rows: list[ModelRow] = []
    for width, height in sizes:
        ir, vis = (np.asarray(cv2.resize(picture, (width, height)), np.uint8) for picture in pictures)
        restore = use_threads(threads)
        try:
            cases = [case for model in models for case in _cases(model, ir, vis, device, weights, backends)]
            results = [case.call() for case in cases]
            calls = {str(i): case.call for i, case in enumerate(cases)}
            timings = take_turns(calls, repeats=repeats, clock=clock)
        finally:
            restore()
        ms = [timings[str(i)].summary() for i in range(len(cases))]
        baselines = {
            (c.model, c.mode): i
            for i, c in enumerate(cases)
            if c.precision == BASELINE and c.backend in ("", "eager")
        }
        for i, case in enumerate(cases):
            base = baselines.get((case.model, case.mode))
            rows.append(
                ModelRow(
                    model=case.model,
                    mode=case.mode,
                    precision=case.precision,
                    backend=case.backend,
                    width=width,
                    height=height,
                    ms=ms[i],
                    difference=None if base is None else _difference(results[i], results[base]),
                    speed_up=None if base is None else round(ms[base]["p50"] / ms[i]["p50"], 2),
                )
            )
    return rows


def _cases(
    model: str, ir: Image8, vis: Image8, device: str, weights: str | None, backends: Sequence[BackendName]
) -> Iterator[_Case]:
    if model == DIS:
        flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        yield _Case(DIS, "cold", "8 bit", partial(flow.calc, vis, ir, None))
        return
    fuses = model in FUSERS.names()
    if not fuses or model in REGISTRARS.names():
        for precision, backend, made in _registrars(model, ir.shape, device, weights, backends):
            cold: Registration = made.register(ir, vis)
            yield _Case(model, "cold", precision, partial(made.register, ir, vis), backend)
            yield _Case(model, "warm", precision, partial(made.register, ir, vis, prior=cold), backend)
    if fuses:
        for precision, made in _variants(FUSERS.load(model), device, weights):
            yield _Case(model, "fuse", precision, partial(made.fuse, ir, vis))
    if device != "cpu" and model in REGISTRARS.names():
        yield from _stream_cases(model, ir, vis, device, weights)


def _stream_cases(model: str, ir: Image8, vis: Image8, device: str, weights: str | None) -> Iterator[_Case]:
    """A stream of one pair through the device worker, where the registrar can live there."""
    from streamfuse.device.build import lives_on_device
    from streamfuse.device.worker import DeviceWorker

    kind = model if model in FUSERS.names() else "max"
    fuser = FUSERS.load(kind).Options
    fusion = Component(kind, fuser(**_own(fuser, weights)))
    stamps: dict[str, Any] = {"seq": 0, "t_capture": 0, "t_arrival": 0}
    frames = {"ir": Frame(stream="ir", image=ir, **stamps), "vis": Frame(stream="vis", image=vis, **stamps)}
    pair = FramePair(ir=frames["ir"], vis=frames["vis"], driver="vis")
    for precision in PRECISIONS:
        options = REGISTRARS.load(model).Options
        if "precision" not in options.model_fields:
            return
        registration = Component(model, options(precision=precision, **_own(options, weights)))
        if not lives_on_device(registration, fusion):
            return
        worker = DeviceWorker(registration, fusion, device=device)

        def stream(worker: DeviceWorker = worker) -> Image8:
            done = [frame for seq in range(STREAM_FRAMES) for frame in worker.submit(pair, seq=seq)]
            return [*done, *worker.drain()][-1].image

        yield _Case(model, f"{STREAM_FRAMES} frames", precision, stream)


def _registrars(
    model: str, shape: tuple[int, ...], device: str, weights: str | None, backends: Sequence[BackendName]
) -> Iterator[tuple[str, str, Registrar]]:
    """A registrar in each precision and by each backend it knows."""
    cls = REGISTRARS.load(model)
    for precision, made in _variants(cls, device, weights):
        if not isinstance(made, PreparableRegistrar):
            yield precision, "", made
            continue
        for backend in backends:
            (made,) = (other for name, other in _variants(cls, device, weights) if name == precision)
            made.prepare((shape[0], shape[1]), backend=backend)
            yield precision, backend, made


def _variants(cls: Any, device: str, weights: str | None) -> Iterator[tuple[str, Any]]:
    """A component in each precision it knows."""
    own = _own(cls.Options, weights)
    if "precision" not in cls.Options.model_fields:
        yield "8 bit", cls(cls.Options(**own), device=device)
        return
    for precision in PRECISIONS:
        yield precision, cls(cls.Options(precision=precision, **own), device=device)


def _own(options: type[Options], weights: str | None) -> dict[str, str]:
    """The weights as an option, where a network needs to be given some."""
    known = options.model_fields.get("weights")
    return {} if weights is None or known is None or known.default is not None else {"weights": weights}


def _difference(one: Any, other: Any) -> float:
    if isinstance(one, Registration):
        shape = one.flow.shape[:2] if one.flow is not None else (1, 1)
        apart = np.linalg.norm(to_flow(one, shape) - to_flow(other, shape), axis=-1)
    else:
        apart = cv2.absdiff(one, other)
    return round(float(apart.mean()), 4)
