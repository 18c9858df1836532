"""The `live` registrar: learned matches and a fitted smooth field, in real time on a CPU.

Cold, the coarse stage finds the affine part and the broad bend over a wide search; the infrared is warped by
that and the fine stage finds the rest. Warm, the prior field takes the place of the coarse stage and holds
the fit as well.
Everything happens on a working picture, cold on a finer one (`live_geometry`); the field is evaluated at full
size from its coefficients.

On a CPU with a core to spare a second thread looks at the visible picture while the first one warps the
infrared and looks at that; only matching waits for both. What is searched beside later frames goes on there
as well.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from streamfuse.errors import DataError
from streamfuse.frame import Image8, Mask, Registration, Status
from streamfuse.nn.backend import Part, chosen, recorded_inputs
from streamfuse.nn.backend_names import Backend, BackendName
from streamfuse.nn.live_registration import LiveRegistration, Matches, Stage
from streamfuse.nn.models import load_model
from streamfuse.nn.precision import Precision, is_reduced, reduced_precision
from streamfuse.registration.fit import LEAST_RENEWED, evidence, holding, supported
from streamfuse.registration.live_geometry import Geometries, Geometry, interleaved
from streamfuse.registration.registrar import Search, check_pictures
from streamfuse.registration.working import normalise, sample, to_working
from streamfuse.registry import Options
from streamfuse.spans import span
from streamfuse.threads import SecondThread, done_at_once

StageName = Literal["coarse", "fine"]
Start = Literal["cold", "warm"]
MIN_SIDE = 32
"""Pixels: below this there are too few cells to fit a field to."""


class LiveOptions(Options):
    """Which weights, and how much is computed with them."""

    weights: Annotated[str, Field(description="bundled weights by name, or a weight file")] = (
        LiveRegistration.NAME
    )
    passes: Annotated[
        int,
        Field(ge=1, le=4, description="cold: times the fine stage runs, each on a better warp; warm: once"),
    ] = 2
    precision: Annotated[
        Precision,
        Field(
            description="of convolutions and correlation; auto: bfloat16 where the device has it in "
            "hardware, which moves the field by 0.02 pixel and halves the time"
        ),
    ] = "auto"


@dataclass(frozen=True, slots=True)
class Attempt:
    """Coefficients of a field on the warm working picture, how well it is known at each of its cells (h, w),
    the share of it that this frame decided, what it rests on, and trust in it, 0..1."""

    coefficients: Tensor
    support: Tensor
    renewed: float
    evidence: Tensor
    confidence: float
    warm: bool


class LiveRegistrar:
    """See the module. Pictures of any size from 32 x 32; about 400 x 304 of them is looked at.

    Args:
        network: use this one instead of loading `options.weights`.
    """

    Options: ClassVar[type[Options]] = LiveOptions

    def __init__(
        self, options: LiveOptions, *, device: str = "cpu", network: LiveRegistration | None = None
    ) -> None:
        if network is None:
            loaded = load_model(LiveRegistration.NAME, weights=options.weights, device=device)
            assert isinstance(loaded, LiveRegistration)
            network = loaded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.options = options
        self.device = device
        self.network = network.eval()
        self._beside = SecondThread("visible", device=device).submit
        self._stages: dict[StageName, Stage] = {"coarse": network.coarse, "fine": network.fine}
        self._penalties = {
            "coarse": network.coarse_penalty.detach().cpu(),
            "fine": network.fine_penalty.detach().cpu(),
        }
        self._geometries: Geometries | None = None
        self._eager = {f"cold {name}": part for name, part in network.encoders().items()}
        # The same modules as parts of their own: a backend makes each for one size of picture.
        self._eager |= {
            f"warm {name}": part for name, part in network.encoders().items() if name.startswith("fine")
        }
        self._parts: Mapping[str, Part] = self._eager
        self._prepared: dict[tuple[int, int], Mapping[str, Part]] = {}

    def prepare(self, shape: tuple[int, int], *, backend: Backend) -> BackendName:
        """See `PreparableRegistrar`. Noise is registered, so that all is loaded and allocated as well."""
        ir, vis = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
        working = self._at(shape).warm.working
        self._parts = self._eager
        with recorded_inputs(self._eager) as inputs:
            prior = self.register(ir, vis)
            self.register(ir, vis, prior=prior)

        def warm_pass(parts: Mapping[str, Part]) -> Tensor:
            self._parts = parts
            return self.attempt(ir, vis, prior=prior).coefficients

        name, self._parts = chosen(
            backend,
            self._eager,
            inputs,
            device=self.device,
            reduced=is_reduced(self.options.precision, self.device),
            call=warm_pass,
        )
        self._prepared[working] = self._parts
        return name

    def register(
        self, ir: Image8, vis: Image8, *, valid: Mask | None = None, prior: Registration | None = None
    ) -> Registration:
        return self.registration(self.attempt(ir, vis, valid=valid, prior=prior), ir.shape)

    def search(self, ir: Image8, vis: Image8, *, valid: Mask | None = None) -> Search:
        """See `PiecewiseRegistrar`: 2 pieces, 3 for each of `passes`, each half a warm pass long and done
        from one step to the next."""
        pieces = self._pieces(ir, vis, valid, done_at_once)
        attempt: Attempt | None = None
        while attempt is None:
            under_way = self._beside(lambda: next(pieces))
            yield None
            attempt = under_way.result()
        yield self.registration(attempt, ir.shape)

    def registration(self, attempt: Attempt, shape: tuple[int, ...]) -> Registration:
        """The field of an attempt for pictures of this shape."""
        with span("field"):
            flow = self._at(shape).warm.full_flow(attempt.coefficients)
        seen = attempt.renewed >= LEAST_RENEWED
        return Registration(
            status=Status.OK if seen else Status.OFF,
            reason="" if seen else "too little of the scene is seen",
            confidence=attempt.confidence,
            flow=flow,
            warm=attempt.warm,
            support=attempt.support.numpy(),
            evidence=tuple(attempt.evidence.tolist()),
        )

    def attempt(
        self, ir: Image8, vis: Image8, *, valid: Mask | None = None, prior: Registration | None = None
    ) -> Attempt:
        """As `register`, before the field is evaluated."""
        *_, found = self._pieces(ir, vis, valid, self._beside, prior)
        assert found is not None
        return found

    def _pieces(
        self,
        ir: Image8,
        vis: Image8,
        valid: Mask | None,
        beside: Callable[[Callable[[], Any]], Future[Any]],
        prior: Registration | None = None,
    ) -> Iterator[Attempt | None]:
        """All the work on a pair; None where another frame's work may come between, in the end what came of
        it. beside: has the visible picture looked at, in the order of the calls."""
        check_pictures(ir, vis)
        if min(vis.shape) < MIN_SIDE:
            raise DataError(
                f"the registrar 'live' needs a visible picture of at least {MIN_SIDE} x {MIN_SIDE}, got "
                f"{vis.shape[1]} x {vis.shape[0]}; 'none' takes any"
            )
        return self._passes(self._at(ir.shape), ir, vis, valid, beside, prior)

    @torch.inference_mode()
    def _passes(
        self,
        geometries: Geometries,
        ir: Image8,
        vis: Image8,
        valid: Mask | None,
        beside: Callable[[Callable[[], Any]], Future[Any]],
        prior: Registration | None,
    ) -> Iterator[Attempt | None]:
        start_is: Start = "cold" if prior is None else "warm"
        geometry = geometries.cold if prior is None else geometries.warm
        fixed = beside(lambda: normalise(to_working(vis, geometry.working)))
        infrared = to_working(ir, geometry.working)
        if valid is None or cv2.countNonZero(valid) == valid.size:
            seen = np.full(geometry.working, 255, np.uint8)
        else:
            seen = to_working(valid, geometry.working)
        known = None
        if prior is None:
            features = beside(lambda: self._encode("cold coarse vis", fixed.result()))
            moving = self._encode("cold coarse ir", normalise(infrared))
            yield None
            start = self._first_fit(geometry, self._match("coarse", moving, features.result(), seen))
        else:
            start, known = geometry.from_registration(prior), geometry.known(prior)
        features = beside(lambda: self._encode(f"{start_is} fine vis", fixed.result()))
        for _ in range(self.options.passes if prior is None else 1):
            yield None
            flow = geometry.working_flow(start)
            at = flow + geometry.pixels
            warped = np.asarray(sample(infrared, at), np.uint8)
            mask = sample(seen, at, border=cv2.BORDER_CONSTANT)
            moving = self._encode(f"{start_is} fine ir", normalise(warped))
            yield None
            matches = self._match("fine", moving, features.result(), mask)
            yield None
            precision = matches.precision.cpu()
            found = interleaved(matches.mean.cpu())
            there = sample(flow, geometry.cells + found)
            target = torch.from_numpy(found + there).permute(2, 0, 1)[None]
            held = None if known is None else (start, holding(known, precision))
            with span("fit"):
                fit = geometry.fine(target, precision, log_penalty=self._penalties["fine"], prior=held)
            start = fit.coefficients
        support = supported(fit, precision, known)
        rests_on = evidence(fit, precision * geometry.unit, support.information * geometry.unit)[0]
        trust = torch.sigmoid(self.network.confidence(rests_on.to(self.device)))
        coefficients, information = fit.coefficients, support.information
        if prior is None:
            coefficients = geometries.handover.coefficients(coefficients)
            information = geometries.handover.support(information)
        yield Attempt(
            coefficients=coefficients,
            support=information[0],
            renewed=float(support.renewed),
            evidence=rests_on,
            confidence=float(trust),
            warm=prior is not None,
        )

    def _at(self, shape: tuple[int, ...]) -> Geometries:
        if self._geometries is None or self._geometries.full != shape:
            self._geometries = Geometries((shape[0], shape[1]), self.network)
            self._parts = self._prepared.get(self._geometries.warm.working, self._eager)
        return self._geometries

    def _first_fit(self, geometry: Geometry, matches: Matches) -> Tensor:
        """Coefficients from the coarse stage."""
        mean, precision = matches.mean.cpu(), matches.precision.cpu()
        with span("fit"):
            fit = geometry.coarse(mean, precision, log_penalty=self._penalties["coarse"])
        return fit.coefficients

    @torch.inference_mode()
    def _encode(self, part: str, plane: npt.NDArray[np.float32]) -> Tensor:
        # A context of its own for each call: one that two threads are in mixes up what was before.
        with span("features"), reduced_precision(self.options.precision, self.device):
            return self._parts[part](self._tensor(plane))

    def _match(self, stage: StageName, ir: Tensor, vis: Tensor, seen: Mask) -> Matches:
        with span("match"), reduced_precision(self.options.precision, self.device):
            return self._stages[stage].match(ir, vis, self._mask(seen))

    def _tensor(self, plane: npt.NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(plane)[None, None].to(self.device)

    def _mask(self, seen: Mask) -> Tensor:
        return self._tensor(np.asarray(seen, np.float32) / np.float32(255))
