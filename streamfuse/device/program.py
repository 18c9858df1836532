"""A frame each of some rigs as one tensor program: camera pictures in, finished pictures out.

The same chain as `worker.Worker`: rig calibration, registration, choice of the field, one bicubic warp of the
raw infrared, fusion of luma, exact colour. What the CPU decides between two steps is decided here by the
tensors themselves: the field found is used where its confidence suffices, else the last good one while it is
young enough, else none. So a pass has no branch, waits for nobody and can be recorded; the host learns what
was decided from the numbers that come back with the picture. What is remembered of a rig lies in a row of its
own (`memory`): a program takes the rows of the rigs whose frames it gets, whichever they are.

Which pass to run is the host's choice (`Pass`), made before it knows what the newest frames have found.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from streamfuse.device.estimator import DeviceFuser, Estimator, Found
from streamfuse.device.filter import WITHHELD, FieldFilter, FilterState
from streamfuse.device.layout import Field, Layout
from streamfuse.device.memory import Rows, spread
from streamfuse.device.mepma import MepmaEstimator
from streamfuse.device.picture import luma, replace_luma
from streamfuse.device.pixels import whole
from streamfuse.device.rig import Place, Rigs
from streamfuse.frame import Status
from streamfuse.registration.temporal import SAME_FIELD

STATUSES = tuple(Status)
"""The place of a status is its number on the device."""
NOW, FORGET = 0, 1
"""Places in the input `when`: capture time in ns, and whether the past is to be forgotten."""
STATUS, CONFIDENCE, WARM, NEEDED, VERDICT = range(5)
"""Places in the output `verdict`: the last are the confidence that was needed and that of the filter."""


class Pass(StrEnum):
    """What is done for a frame.

    COLD searches. WARM refines the held field, or none. AGAIN does both: the warm field counts if it can be
    used, else the one trusted more. KEY does both, too: the search overrules if it differs from the held
    field and is trusted more. REUSE takes the held field, CALIBRATION none.
    """

    COLD = "cold"
    WARM = "warm"
    AGAIN = "again"
    KEY = "key"
    REUSE = "reuse"
    CALIBRATION = "calibration"


class Work(NamedTuple):
    """A pass, and whether the infrared is moved in time. What stands still goes without the latter's cost,
    which is small for a fuser of its own and that of encoding once more for a joint one."""

    which: Pass
    moved: bool = False

    def __str__(self) -> str:
        return f"{self.which}, moved" if self.moved else str(self.which)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When a field is used.

    min_confidence: from here on. regain_confidence: after one that was not used, from here on. hold_ns: how
    long the last good one stands in and is a start. smooth: fields are filtered over time. calibrated: there
    is a rig calibration to fall back on; else the visible picture alone.
    """

    min_confidence: float
    regain_confidence: float
    hold_ns: int
    smooth: bool
    calibrated: bool


@dataclass(slots=True)
class Held(Rows):
    """Of each rig the last good field, and when it was found; all but the code are (B,)."""

    code: Tensor
    confidence: Tensor
    known: Tensor
    trusting: Tensor
    found_ns: Tensor

    @classmethod
    def nothing(cls, count: int, code_shape: tuple[int, ...], *, device: torch.device) -> "Held":
        """No field yet."""
        return cls(
            torch.zeros(count, *code_shape, device=device),
            torch.zeros(count, device=device),
            torch.zeros(count, dtype=torch.bool, device=device),
            torch.ones(count, dtype=torch.bool, device=device),
            torch.zeros(count, dtype=torch.int64, device=device),
        )


class Program:
    """The chain for rigs of one geometry and one registrar and fuser.

    Args:
        estimator: None: no registration, the calibration is all there is.
        fuser: None: the estimator fuses as well.
        parts: infrared frames that a moved picture may be mixed from; 0: none is ever moved.

    inputs, outputs: what `run` reads and writes for each frame, by name; `rig` is the row of `rigs` that the
    frame is of. Where the infrared is moved: `motion`, a field for each part as `pairing.motion.Part` has it,
    and with two parts the `other` infrared picture and its `share` of the result.
    """

    def __init__(
        self,
        rigs: Rigs,
        estimator: Estimator | None,
        fuser: DeviceFuser[Any] | None,
        *,
        rules: Rules,
        device: torch.device,
        parts: int = 0,
    ) -> None:
        self.rigs = rigs
        self._estimator, self._fuser, self._rules, self._parts = estimator, fuser, rules, parts
        (height, width), code_shape = rigs.shape, (1,) if estimator is None else estimator.code_shape
        self._nothing = Held.nothing(rigs.count, code_shape, device=device)
        self._fresh = FilterState.fresh(rigs.count, device=device)
        self._unseen: Rows = Rows() if fuser is None else fuser.fresh(rigs.count)
        self._everyone = everyone = torch.arange(rigs.count, device=device)
        self._held, self._filtered = self._nothing.at(everyone), self._fresh.at(everyone)
        self._fused = self._unseen.at(everyone)
        self._filter = FieldFilter(rigs.shape, device=device)
        self._smooth = rules.smooth and fuser is not None
        self._no_flow = torch.zeros(1, 2, height, width, device=device)
        fields = {
            "rig": Field(torch.int64, (1,)),
            "ir": Field(torch.uint8, rigs.ir_shape),
            "vis": Field(torch.uint8, (height, width, 3)),
            "when": Field(torch.int64, (2,)),
        }
        if parts > 0:
            fields["motion"] = Field(torch.float32, (parts, *rigs.motion_shape, 2))
        if parts > 1:
            fields |= {"other": fields["ir"], "share": Field(torch.float32, (1,))}
        self.inputs = Layout(**fields)
        self.outputs = Layout(
            image=Field(torch.uint8, (height, width, 3)),
            registered=Field(torch.uint8, (height, width)),
            valid=Field(torch.uint8, (height, width)),
            flow=Field(torch.float32, (height, width, 2)),
            verdict=Field(torch.float32, (5,)),
        )

    @property
    def passes(self) -> tuple[Pass, ...]:
        """Those that can be run."""
        if self._estimator is None:
            return (Pass.CALIBRATION,)
        if not self._estimator.warms:
            return (Pass.COLD, Pass.REUSE, Pass.CALIBRATION)
        return tuple(Pass)

    @property
    def works(self) -> tuple[Work, ...]:
        """All there is to be recorded."""
        still = tuple(Work(which) for which in self.passes)
        return still if self._parts == 0 else still + tuple(Work(which, moved=True) for which in self.passes)

    def reset(self) -> None:
        """Forget all held fields, and what the fuser remembers."""
        self._held.put(self._everyone, self._nothing)
        self._filtered.put(self._everyone, self._fresh)
        self._fused.put(self._everyone, self._unseen)

    def run(self, work: Work, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """A frame each of B rigs. Tensors as laid out in `inputs` and `outputs`, B rows, on the device."""
        which, rows, when = work.which, inputs["rig"][:, 0], inputs["when"]
        place, held, filtered = self.rigs.at(rows), self._held.at(rows), self._filtered.at(rows)
        rgb = inputs["vis"].int()
        y = luma(rgb)[:, None].float()
        prepared = self.rigs.prepared(inputs["ir"][:, None].float())
        # What is moved is fused as a picture: features have no place to be moved to.
        joint = self._fuser is None and not work.moved
        ended = self._forget_the_old(held, when)
        scene, found, warm = self._register(which, prepared, y, place, held, see=joint)
        status, *numbers = self._decide(which, found, warm, when, held, filtered)
        self._held.put(rows, held)
        self._filtered.put(rows, filtered)
        used, off = status <= STATUSES.index(Status.HELD), status == STATUSES.index(Status.OFF)
        flow = self._no_flow.expand(len(rgb), -1, -1, -1)
        if self._estimator is not None and which is not Pass.CALIBRATION:
            flow = self._estimator.flow(held.code) * spread(used, y)
        if work.moved:
            registered, valid = self._moved(prepared, inputs, flow, place, spread(~off, y))
        else:
            registered, valid = self.rigs.warp(prepared, flow, place)
        if self._fuser is not None:
            before = self._unseen.at(rows).where(ended, self._fused.at(rows))
            past = replace(before)
            fused = self._fuser(registered, y, valid, past)
            # What was not shown is not remembered.
            self._fused.put(rows, before.where(off, past))
        else:
            assert isinstance(self._estimator, MepmaEstimator)
            if joint:
                fused = self._estimator.fuse(scene, flow, found, status == STATUSES.index(Status.OK))
            else:
                fused = self._estimator.fuse_alone(registered, y, valid)
        fused = torch.where(valid & spread(~off, y), fused.float().round().clamp(0, 255), y)
        outputs["image"].copy_(replace_luma(rgb, fused[:, 0].int()))
        outputs["registered"].copy_(registered[:, 0])
        outputs["valid"].copy_(valid[:, 0] * 255)
        outputs["flow"].copy_(flow.permute(0, 2, 3, 1))
        confidence, needed, verdict = numbers
        told = [status.float(), confidence, warm.float(), needed, verdict]
        outputs["verdict"].copy_(torch.stack(told, dim=1))

    def _moved(
        self, prepared: Tensor, inputs: Mapping[str, Tensor], flow: Tensor, place: Place, where: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The infrared at the visible time, and where it holds; moved only `where`, bool (B, 1, 1, 1)."""
        motions = [self.rigs.motion(inputs["motion"][:, i]) * where for i in range(self._parts)]
        registered, valid = self.rigs.warp(prepared, flow, place, motions[0])
        if self._parts == 1:
            return registered, valid
        other = self.rigs.prepared(inputs["other"][:, None].float())
        second, second_valid = self.rigs.warp(other, flow, place, motions[1])
        share = spread(inputs["share"], where) * where
        return whole((1 - share) * registered + share * second), valid & second_valid

    def _forget_the_old(self, held: Held, when: Tensor) -> Tensor:
        """Of which rigs the past has ended, bool (B,)."""
        too_old = (when[:, NOW] - held.found_ns).abs() > self._rules.hold_ns
        lost = (when[:, FORGET] != 0) | (held.known & too_old)
        held.known, held.trusting = held.known & ~lost, held.trusting | lost
        return lost

    def _register(
        self, which: Pass, prepared: Tensor, y: Tensor, place: Place, held: Held, *, see: bool
    ) -> tuple[Any, Found | None, Tensor]:
        """What was seen (always with `see`), what was found, and whether from the held field."""
        estimator = self._estimator
        cold_only = torch.zeros_like(held.known)
        estimates = which not in (Pass.REUSE, Pass.CALIBRATION)
        if estimator is None or not (estimates or see):
            return None, None, cold_only
        ir, seen = self.rigs.bring(prepared, place)
        scene = estimator.look(ir, y, seen)
        if not estimates:
            return scene, None, cold_only
        if which is Pass.COLD:
            return scene, estimator.cold(scene), cold_only
        # Without a held field its code is zero and weighs nothing: the calibration is refined.
        known = held.known.float()
        warm = estimator.warm(scene, held.code * spread(known, held.code), held.confidence * known)
        if which is Pass.WARM:
            return scene, warm, held.known
        cold = estimator.cold(scene)
        prefer_warm = (warm.confidence >= cold.confidence) | ~cold.usable
        if which is Pass.AGAIN:
            prefer_warm = prefer_warm | (warm.confidence >= self._needed(held))
        else:
            apart = self._filter.distance(estimator.flow(cold.code), estimator.flow(held.code))
            overrules = (cold.confidence > warm.confidence) & (apart > SAME_FIELD)
            sound = warm.confidence >= self._needed(held)
            prefer_warm = (sound & ~overrules) | ~cold.usable | (cold.confidence < self._needed(held))
        take_warm = held.known & warm.usable & prefer_warm
        code = torch.where(spread(take_warm, cold.code), warm.code, cold.code)
        rest = (torch.where(take_warm, w, c) for w, c in zip(warm[1:3], cold[1:3], strict=True))
        return scene, Found(code, *rest), take_warm

    def _needed(self, held: Held) -> Tensor:
        """The confidence from which a field is used now, (B,)."""
        rules = self._rules
        return torch.where(
            held.trusting,
            torch.full_like(held.confidence, rules.min_confidence),
            torch.full_like(held.confidence, rules.regain_confidence),
        )

    def _decide(
        self,
        which: Pass,
        found: Found | None,
        warm: Tensor,
        when: Tensor,
        held: Held,
        filtered: FilterState,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The number of the status, the confidence, the one needed, the filter's verdict; (B,) each.

        The code to use is the held one then.
        """
        needed = self._needed(held)
        calibrated = self._rules.calibrated or self._estimator is None
        without = torch.full_like(
            held.found_ns, STATUSES.index(Status.CALIBRATION if calibrated else Status.OFF)
        )
        instead = torch.where(held.known, torch.full_like(without, STATUSES.index(Status.HELD)), without)
        nothing = torch.zeros_like(held.confidence)
        if which is Pass.CALIBRATION:
            sure = torch.ones_like(nothing) if self._estimator is None else nothing
            return without, sure, needed, nothing
        if found is None:
            return instead, held.confidence * held.known, needed, nothing
        good = found.usable & (found.confidence >= needed)
        code, follows, verdict = found.code, good, nothing
        if self._smooth:
            assert self._estimator is not None
            code, verdict = self._filter.update(
                filtered,
                held.code,
                found,
                known=held.known,
                good=good,
                # A search of a key frame that is taken overrules the field in use.
                sure=~warm if which is Pass.KEY else torch.zeros_like(warm),
                flow_of=self._estimator.flow,
            )
            follows = good & (verdict != WITHHELD)
        held.trusting = good
        held.code = torch.where(spread(follows, code), code, held.code)
        held.confidence = torch.where(follows, found.confidence, held.confidence)
        held.found_ns = torch.where(good, when[:, NOW], held.found_ns)
        held.known = held.known | good
        status = torch.where(follows, torch.full_like(instead, STATUSES.index(Status.OK)), instead)
        return status, torch.nan_to_num(found.confidence), needed, verdict
