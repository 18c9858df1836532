"""All scores of one picture: every method, and the trivial ones that a method must beat."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np

from streamfuse.evaluation.reading import Shot
from streamfuse.evaluation.sets import FLOW_TRUTH, IR, IR_TRUTH, VIS, Stream
from streamfuse.frame import Image8
from streamfuse.metrics.panel import Family, FusionFamily, epe_panel, fusion_panel, registration_panel
from streamfuse.metrics.picture import Picture, grey_from_rgb
from streamfuse.metrics.registration import endpoint_error, picture_endpoint_error
from streamfuse.sampling import positions_of, pull_map

UNREGISTERED = "unregistered"
COPY_VISIBLE, COPY_INFRARED, MAXIMUM, AVERAGE = "copy-visible", "copy-ir", "max", "average"
TRIVIAL_FUSIONS = (COPY_VISIBLE, COPY_INFRARED, MAXIMUM, AVERAGE)

Scores = dict[str, dict[Family, dict[str, float]]]
"""method -> family -> metric -> value."""


def trivial_fusion(name: str, ir: Image8, vis: Image8) -> Image8:
    """A fusion without any thought, by its name in `TRIVIAL_FUSIONS`. All pictures uint8 (H, W)."""
    if name == COPY_VISIBLE:
        return vis
    if name == COPY_INFRARED:
        return ir
    if name == MAXIMUM:
        return np.maximum(ir, vis)
    return np.asarray(cv2.addWeighted(ir, 0.5, vis, 0.5, 0.0), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which rows a table of these streams has, derived once a set.

    fused: row -> stream of fused pictures. inputs: row -> infrared stream that went into its fusion.
    trivial: row -> trivial fusion. registered, flows: row -> stream.
    unregistered: the infrared as it came differs from the truth and is scored as a registration.
    """

    fused: Mapping[str, Stream]
    inputs: Mapping[str, Stream]
    trivial: Mapping[str, str]
    registered: Mapping[str, Stream]
    flows: Mapping[str, Stream]
    unregistered: bool

    @property
    def fusion_rows(self) -> tuple[str, ...]:
        return (*self.fused, *self.trivial)


def make_plan(
    streams: Iterable[Stream], *, unregistered: bool, trivial: bool = True, infrared: Stream | None = None
) -> Plan:
    """Name the rows.

    Args:
        streams: what there is of each shot.
        unregistered: see `Plan`.
        trivial: add the trivial fusions. They take the registered infrared where there is one; where
            several methods registered, each of theirs: `max (NAME)`.
        infrared: the one infrared stream that went into all fusions, when it is known.
    """
    by_role: dict[str, dict[str, Stream]] = {"fused": {}, "registered": {}, "flow": {}}
    for stream in streams:
        if stream.role in by_role:
            by_role[stream.role][stream.method] = stream
    fused, registered = by_role["fused"], by_role["registered"]
    rows: dict[str, str] = {}
    inputs = {name: infrared or registered.get(name, IR) for name in fused}
    if trivial:
        rows[COPY_VISIBLE] = COPY_VISIBLE
        sources = {"": infrared} if infrared else registered or {"": IR}
        inputs[COPY_VISIBLE] = next(iter(sources.values()))
        for method, source in sources.items():
            for name in TRIVIAL_FUSIONS[1:]:
                row = name if len(sources) == 1 else f"{name} ({method})"
                rows[row], inputs[row] = name, source
    return Plan(fused, inputs, rows, registered, by_role["flow"], unregistered)


@dataclass(slots=True)
class Case:
    """One shot under judgement: every picture grey once, shared by all rows."""

    shot: Shot
    plan: Plan
    grey: dict[Stream, Picture] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for stream, image in self.shot.images.items():
            self.grey[stream] = Picture(grey_from_rgb(image))

    @property
    def truth(self) -> Picture | None:
        """The infrared as a perfect registration leaves it: shipped, or pulled by the known field."""
        if IR_TRUTH in self.grey:
            return self.grey[IR_TRUTH]
        if FLOW_TRUTH not in self.shot.flows:
            return None
        made = Picture(pull_map(self.grey[IR].pixels, positions_of(self.shot.flows[FLOW_TRUTH]))[0])
        self.grey[IR_TRUTH] = made
        return made

    @property
    def reference(self) -> Picture:
        """The infrared that fused pictures are judged against."""
        return self.truth or self.grey[IR]

    def fused(self, row: str) -> Picture:
        if row in self.plan.fused:
            return self.grey[self.plan.fused[row]]
        source = self.plan.inputs[row]
        visible = self.grey[VIS].pixels
        fused = trivial_fusion(self.plan.trivial[row], self.grey[source].pixels, visible)
        valid = self.shot.valid.get(source)
        return Picture(fused if valid is None else np.where(valid > 0, fused, visible))


def judge(case: Case, families: Collection[Family]) -> Scores:
    """The scores of every row in the picture families asked for."""
    scores: Scores = {}
    plan = case.plan
    fusion: list[FusionFamily] = [name for name in ("fusion", "film") if name in families]
    if fusion:
        for row in plan.fusion_rows:
            panel = fusion_panel(case.reference, case.grey[VIS], case.fused(row), families=fusion)
            scores[row] = {family: panel[family] for family in fusion}
    truth = case.truth
    if truth is None:
        return scores
    candidates = {name: case.grey[stream] for name, stream in plan.registered.items()}
    if plan.unregistered:
        candidates[UNREGISTERED] = case.grey[IR]
    for name, picture in candidates.items():
        if "registration" in families:
            scores.setdefault(name, {})["registration"] = registration_panel(truth, picture)
        if "epe" in families and name not in plan.flows and not _field_known(case, name):
            known = case.shot.known if IR_TRUTH not in case.shot.images else None
            error = picture_endpoint_error(truth, picture, known=known)
            scores.setdefault(name, {})["epe"] = epe_panel(error)
    if "epe" in families and FLOW_TRUTH in case.shot.flows:
        _judge_fields(case, scores)
    return scores


def _field_known(case: Case, name: str) -> bool:
    return name == UNREGISTERED and FLOW_TRUTH in case.shot.flows


def _judge_fields(case: Case, scores: Scores) -> None:
    flows = case.shot.flows
    true = flows[FLOW_TRUTH]
    found = {name: flows[stream] for name, stream in case.plan.flows.items()}
    if case.plan.unregistered:
        found[UNREGISTERED] = np.zeros_like(true)
    for name, flow in found.items():
        error = endpoint_error(flow, true, judged=case.shot.known)
        scores.setdefault(name, {})["epe"] = epe_panel(error)
