"""Registrars and fusers judged directly, without writing pictures first: what training validates with.

All fusers get the same registered infrared, so that a table of them compares fusion alone. Fields are used
as they are found, whatever their confidence: what the pipeline would do about it is another question.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from streamfuse.calibration.calibration import RigCalibration
from streamfuse.config import describe_validation_error
from streamfuse.errors import ConfigError, DataError
from streamfuse.evaluation.judge import TRIVIAL_FUSIONS, UNREGISTERED, make_plan
from streamfuse.evaluation.reading import Shot, read_shot
from streamfuse.evaluation.results import Evaluation, SetResult
from streamfuse.evaluation.runner import FAMILIES, Judges, Progress, Task, judge_shot, silent
from streamfuse.evaluation.samples import spread_indices
from streamfuse.evaluation.sets import (
    FLOW_TRUTH,
    IR,
    IR_TRUTH,
    VIS,
    EvaluationSet,
    Stream,
    find_material,
)
from streamfuse.flow import to_flow
from streamfuse.frame import Flow, Image8, Mask, Registration
from streamfuse.fusion import FUSERS
from streamfuse.fusion.colour import luma, replace_luma
from streamfuse.fusion.fuser import Fuser
from streamfuse.metrics.panel import Family
from streamfuse.metrics.picture import grey_from_rgb
from streamfuse.registration import REGISTRARS
from streamfuse.registration.registrar import Registrar
from streamfuse.registry import Registry
from streamfuse.warp import warp_infrared

TRUTH = "truth"
"""Fuse the true infrared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two pictures and what is known about them.

    ir: uint8 (H, W) as it came. vis: uint8 (H, W) or RGB (H, W, 3), of the same size.
    ir_truth: uint8 (H, W), the infrared as a perfect registration leaves it.
    flow_truth: the pull field such a registration finds, float32 (H, W, 2), (dx, dy) in pixels; `known`
    says where it is known, bool (H, W); None: everywhere.
    registered, fused: what other methods, by name, have made of the pair.
    """

    name: str
    ir: Image8
    vis: Image8
    ir_truth: Image8 | None = None
    flow_truth: Flow | None = None
    known: npt.NDArray[np.bool_] | None = None
    registered: Mapping[str, Image8] = field(default_factory=dict)
    fused: Mapping[str, Image8] = field(default_factory=dict)


def read_pairs(given: EvaluationSet) -> list[Pair]:
    """The pairs of a set of picture folders. Raises DataError."""
    material = find_material(given)
    if material.kind != "pictures":
        raise DataError(f"vis: {given.vis} holds clips; models are run on folders of pictures")
    return [_pair(read_shot(item)) for item in material.items]


def _pair(shot: Shot) -> Pair:
    def of(role: str) -> dict[str, Image8]:
        return {stream.method: image for stream, image in shot.images.items() if stream.role == role}

    return Pair(
        name=shot.name,
        ir=grey_from_rgb(shot.images[IR]),
        vis=shot.images[VIS],
        ir_truth=shot.images.get(IR_TRUTH),
        flow_truth=shot.flows.get(FLOW_TRUTH),
        known=shot.known,
        registered=of("registered"),
        fused=of("fused"),
    )


def make_registrar(kind: str, *, device: str = "cpu", **options: Any) -> Registrar:
    """A registrar by its kind. Raises ConfigError on unknown kinds and wrong options."""
    made: Registrar = _make(REGISTRARS, kind, device, options)
    return made


def make_fuser(kind: str, *, device: str = "cpu", **options: Any) -> Fuser:
    """A fuser by its kind. Raises ConfigError on unknown kinds and wrong options."""
    made: Fuser = _make(FUSERS, kind, device, options)
    return made


def _make(registry: Registry, kind: str, device: str, options: Mapping[str, Any]) -> Any:
    component = registry.load(kind)
    try:
        validated = component.Options.model_validate(options)
    except ValidationError as error:
        mistakes = describe_validation_error(error, component.Options, kind)
        raise ConfigError("; ".join(mistakes)) from error
    return component(validated, device=device)


def evaluate_models(
    pairs: Sequence[Pair],
    *,
    registrars: Mapping[str, Registrar] | None = None,
    fusers: Mapping[str, Fuser] | None = None,
    infrared: str = UNREGISTERED,
    families: Collection[Family] = FAMILIES,
    trivial: bool = True,
    name: str = "pairs",
    samples: int = 0,
    jobs: int | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Register and fuse every pair by every model, cold, and judge the results.

    Args:
        pairs: all with the same kinds of truth.
        registrars, fusers: row name -> model (see `make_registrar`, `make_fuser`).
        infrared: what all fusers and trivial fusions get: the name of a registrar, "truth", or
            "unregistered".
        families: which metrics; `registration` and `epe` need `ir_truth` or `flow_truth`.
        trivial: add the trivial fusions.
        name: of the set in the reports.
        samples: so many pairs are kept as pictures.
        jobs: pairs judged at a time; None: one a core. The models run one pair at a time.

    Raises:
        DataError: pictures differ in size, pairs in what is known of them, or `infrared` is not there.
        ConfigError: a row has the name of a trivial one.
    """
    registrars, fusers = registrars or {}, fusers or {}
    if not pairs:
        raise DataError("there are no pairs to evaluate on")
    for row in (*registrars, *fusers):
        if row in pairs[0].registered or row in pairs[0].fused:
            raise ConfigError(f"{row!r} is the name of a model and of given pictures; rename one")
        if row in (*TRIVIAL_FUSIONS, UNREGISTERED, TRUTH):
            raise ConfigError(f"{row!r} is the name of a trivial method; call yours something else")
    source = _source(infrared, registrars, pairs[0])
    first = _streams(pairs[0], registrars, fusers)
    for pair in pairs:
        if _streams(pair, registrars, fusers) != first:
            raise DataError(f"{pair.name}: has other kinds of truth than {pairs[0].name}")
    unregistered = pairs[0].ir_truth is not None or pairs[0].flow_truth is not None
    wants_fusion = bool({"fusion", "film"} & set(families))
    plan = make_plan(first, unregistered=unregistered, trivial=trivial and wants_fusion, infrared=source)
    shown = set(spread_indices(len(pairs), samples))
    rows = dict.fromkeys((*registrars, *pairs[0].registered, *fusers, *pairs[0].fused))
    result = SetResult(name, "pictures", tuple(rows))

    def tasks() -> Iterator[Task]:
        for index, pair in enumerate(pairs):
            shot = _shot(pair, registrars, fusers, source)
            yield partial(judge_shot, pair.name, shot, plan, families, keep=index in shown)

    with Judges(jobs) as judges:
        kept = judges.collect(tasks(), result, total=len(pairs), progress=progress)
    result.samples = tuple(kept)
    return Evaluation((result,))


def _source(infrared: str, registrars: Mapping[str, Registrar], pair: Pair) -> Stream:
    if infrared in registrars:
        return Stream("registered", infrared)
    if infrared == UNREGISTERED:
        return IR
    if infrared == TRUTH and pair.ir_truth is not None:
        return IR_TRUTH
    known = ", ".join((*registrars, UNREGISTERED, *([TRUTH] if pair.ir_truth is not None else [])))
    raise DataError(f"infrared to fuse: {infrared!r} is not there; there is {known}")


def _streams(pair: Pair, registrars: Iterable[str], fusers: Iterable[str]) -> list[Stream]:
    streams = [IR, VIS, *(Stream("registered", row) for row in (*registrars, *pair.registered))]
    streams += [Stream("fused", row) for row in (*fusers, *pair.fused)]
    if pair.ir_truth is not None:
        streams.append(IR_TRUTH)
    if pair.flow_truth is not None:
        streams += [FLOW_TRUTH, *(Stream("flow", row) for row in registrars)]
    return streams


def _shot(
    pair: Pair, registrars: Mapping[str, Registrar], fusers: Mapping[str, Fuser], source: Stream
) -> Shot:
    shape = (pair.vis.shape[0], pair.vis.shape[1])
    for what, array in (("ir", pair.ir), ("ir_truth", pair.ir_truth), ("flow_truth", pair.flow_truth)):
        if array is not None and array.shape[:2] != shape:
            raise DataError(f"{pair.name}: {what} is {array.shape[:2]}, vis is {shape}")
    y = luma(pair.vis)
    images: dict[Stream, Image8] = {IR: pair.ir, VIS: pair.vis}
    images |= {Stream("registered", row): image for row, image in pair.registered.items()}
    images |= {Stream("fused", row): image for row, image in pair.fused.items()}
    flows: dict[Stream, Flow] = {}
    valid: dict[Stream, Mask] = {}
    if pair.ir_truth is not None:
        images[IR_TRUTH] = pair.ir_truth
    if pair.flow_truth is not None:
        flows[FLOW_TRUTH] = pair.flow_truth
    geometry = RigCalibration.identity(ir_size=shape[::-1], vis_size=shape[::-1])
    for row, registrar in registrars.items():
        found: Registration = registrar.register(pair.ir, y)
        registered = Stream("registered", row)
        images[registered], valid[registered] = warp_infrared(pair.ir, found, geometry, shape)
        if pair.flow_truth is not None:
            flows[Stream("flow", row)] = to_flow(found, shape)
    for row, fuser in fusers.items():
        fuser.reset()
        mask = valid.get(source)
        fused = fuser.fuse(images[source], y, valid=mask)
        if mask is not None:
            fused = np.where(mask > 0, fused, y)
        images[Stream("fused", row)] = replace_luma(pair.vis, fused)
    known = pair.known
    if pair.flow_truth is not None and known is None:
        known = np.ones(shape, dtype=bool)
    return Shot(pair.name, images, flows, known, valid)
