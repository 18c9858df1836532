"""Register and fuse one pair after the other, with as much memory of the past as is safe.

The rig calibration brings the infrared into visible geometry, the registrar finds the residual, the *raw*
infrared picture is warped once through both, and through the motion since it was taken where that is known.
The fuser works on luma and the visible colour is kept. Outside the overlap the result is the visible picture.

What is remembered from frame to frame, and what is used when a field is not to be trusted, is decided in
`registration.temporal`.
"""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import cv2
import numpy as np

from streamfuse.calibration.calibration import RigCalibration
from streamfuse.clock import Clock, RealClock
from streamfuse.config import Component, WorkerOptions
from streamfuse.errors import ConfigError, DataError
from streamfuse.frame import Frame, FramePair, FusedFrame, Image8, Mask, Registration, Rung, Status
from streamfuse.fusion import FUSERS
from streamfuse.fusion.colour import luma, replace_luma
from streamfuse.fusion.fuser import Fuser
from streamfuse.nn.backend_names import Backend, BackendName, check_backend
from streamfuse.pairing.motion import Compensation, MotionCompensator
from streamfuse.pairing.options import MotionMode
from streamfuse.registration import REGISTRARS
from streamfuse.registration.registrar import Registrar, search
from streamfuse.registration.temporal import TemporalRegistration, identity
from streamfuse.spans import span, timed
from streamfuse.warp import warp_infrared, warp_moved

if TYPE_CHECKING:
    from streamfuse.device.share import DeviceShare


@runtime_checkable
class JointModel(Protocol):
    """Registrar and fuser in one, encoding each picture once."""

    def register_and_fuse(
        self, ir: Image8, vis: Image8, *, valid: Mask | None = None, prior: Registration | None = None
    ) -> tuple[Registration, Image8]: ...


@runtime_checkable
class PreparableRegistrar(Protocol):
    """A registrar with a network that backends can compute, and that takes long to get going."""

    def prepare(self, shape: tuple[int, int], *, backend: Backend) -> BackendName:
        """Do beforehand what only the first pictures of a size (rows, columns) need, choice of the backend
        included. Pictures of another size are computed eagerly.

        Returns:
            The backend in use.

        Raises:
            ConfigError: a backend asked for by name cannot be used here.
        """
        ...


class FrameWorker(Protocol):
    """What turns pairs into fused frames, one at a time or a few under way at once. Made by `make_worker`."""

    def prepare(self, *, ir_size: tuple[int, int], vis_size: tuple[int, int]) -> BackendName | None:
        """Get ready for pictures of these sizes (width, height); else the first pair takes as much longer.

        Returns:
            The backend that networks are computed by; None when there is nothing to choose.
        """
        ...

    def submit(
        self, pair: FramePair, *, seq: int, dropped: dict[str, int], rung: Rung, rung_reason: str
    ) -> list[FusedFrame]:
        """Start on a pair; see `Worker.process`. Returns what is finished, in the order of submission."""
        ...

    def drain(self) -> list[FusedFrame]:
        """Finish all that is under way."""
        ...


def make_worker(
    registration: Component,
    fusion: Component,
    *,
    calibration: RigCalibration | None = None,
    motion: MotionMode = "off",
    options: WorkerOptions | None = None,
    budget_ns: int | None = None,
    share: "DeviceShare | None" = None,
    clock: Clock | None = None,
) -> FrameWorker:
    """The worker for a configuration; arguments as of `Worker` and `DeviceWorker`.

    On a CUDA device, registrars and fusers that can work there from end to end do. Others go the way of the
    CPU, with their networks on the device.
    """
    options = options or WorkerOptions()
    device = resolve_device(options.device)
    if device != "cpu":
        from streamfuse.device.build import lives_on_device
        from streamfuse.device.worker import DeviceWorker

        check_backend(options.backend, device=device)
        if lives_on_device(registration, fusion):
            return DeviceWorker(
                registration,
                fusion,
                device=device,
                calibration=calibration,
                motion=motion,
                options=options,
                budget_ns=budget_ns,
                share=share,
                clock=clock,
            )
    return Worker(registration, fusion, calibration=calibration, motion=motion, options=options, clock=clock)


def resolve_device(name: str) -> str:
    """`auto`, `cpu`, `cuda` or `cuda:n` as a device that exists. Raises ConfigError."""
    if name == "cpu":
        return name
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    index = int(name.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        found = f"{torch.cuda.device_count()} CUDA devices found"
        raise ConfigError(f"worker.device: {name!r} is not there ({found}); use auto or cpu")
    return name


class Worker:
    """Turns pairs into fused frames. One thread uses it.

    Args:
        registration, fusion: which registrar and fuser, with their validated options. The same model for
            both is built once, and encodes each pair once when it can.
        calibration: the rig's geometry; None: plain resize of the infrared to the visible size.
        motion: how infrared is brought to the visible time. Pairs that stand alone are never moved, nor is
            anything on the rungs that save time.
    """

    def __init__(
        self,
        registration: Component,
        fusion: Component,
        *,
        calibration: RigCalibration | None = None,
        motion: MotionMode = "off",
        options: WorkerOptions | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._options = options or WorkerOptions()
        self._clock = clock or RealClock()
        self._calibration = calibration
        self._plain_resize: RigCalibration | None = None
        # One object for all frames: consumers tell a change of calibration by identity.
        self._extra = {} if calibration is None else {"calibration": calibration.model_dump(mode="json")}
        self.device = resolve_device(self._options.device)
        self._registration_kind, self._fusion_kind = registration.kind, fusion.kind
        self._registrar: Registrar = REGISTRARS.load(registration.kind)(
            registration.options, device=self.device
        )
        check_backend(self._options.backend, device=self.device)
        if self._options.backend not in ("auto", "eager") and not isinstance(
            self._registrar, PreparableRegistrar
        ):
            raise ConfigError(
                f"worker.backend: {self._options.backend} computes the network of the registrar 'live'; "
                f"{registration.kind!r} has none that it can: use auto"
            )
        self._fuser: Fuser
        self._joint: JointModel | None = None
        if registration.kind == fusion.kind and isinstance(self._registrar, JointModel):
            self._joint = self._registrar
            self._fuser = self._registrar  # type: ignore[assignment]
        else:
            self._fuser = FUSERS.load(fusion.kind)(fusion.options, device=self.device)
        self._temporal = TemporalRegistration(
            self._options, calibrated=calibration is not None, smooth=self._joint is None
        )
        self._motion: MotionCompensator | None = None
        if motion != "off" and self._options.temporal:
            self._motion = MotionCompensator(motion)
        self._moved: Compensation | None = None
        self._latencies: dict[str, int] = {}

    def reset(self) -> None:
        """Forget everything learnt from earlier pairs."""
        self._temporal.reset()
        self._fuser.reset()
        if self._motion is not None:
            self._motion.reset()

    def prepare(self, *, ir_size: tuple[int, int], vis_size: tuple[int, int]) -> BackendName | None:
        """See `FrameWorker`. The size of the infrared makes no difference."""
        if not isinstance(self._registrar, PreparableRegistrar):
            return None
        with span("prepare"):
            return self._registrar.prepare((vis_size[1], vis_size[0]), backend=self._options.backend)

    def submit(
        self, pair: FramePair, *, seq: int, dropped: dict[str, int], rung: Rung, rung_reason: str
    ) -> list[FusedFrame]:
        """See `FrameWorker`: every pair is finished at once."""
        return [self.process(pair, seq=seq, dropped=dropped, rung=rung, rung_reason=rung_reason)]

    def drain(self) -> list[FusedFrame]:
        """See `FrameWorker`: nothing is ever under way."""
        return []

    def process(
        self,
        pair: FramePair,
        *,
        seq: int = 0,
        dropped: dict[str, int] | None = None,
        rung: Rung = Rung.FULL,
        rung_reason: str = "",
    ) -> FusedFrame:
        """Register and fuse one pair. The result has the visible picture's size.

        rung: how much work it gets. rung_reason: why not all, for whoever takes the frame, in `extra`.
        """
        self._latencies = {}
        self._moved = None
        vis = pair.vis.image
        with timed("register_and_fuse", self._latencies, self._clock, seq):
            image, registered = vis, np.zeros(vis.shape[:2], np.uint8)
            valid = registered
            if pair.ir is None:
                registration = identity(Status.OFF, pair.reason or "no infrared frame")
            elif rung is Rung.PASS_THROUGH:
                registration = self._temporal.unregistered(rung)
            else:
                image, registered, valid, registration = self._fuse(pair, pair.ir, rung)
        return FusedFrame(
            image=image,
            seq=seq,
            t_capture=pair.t_capture,
            pair=pair,
            registered_ir=registered,
            valid=valid,
            registration=registration,
            rung=rung,
            latencies_ns=self._latencies,
            dropped=dropped or {},
            extra=self._about(rung_reason),
        )

    def _about(self, rung_reason: str) -> dict[str, Any]:
        about: dict[str, Any] = {}
        if rung_reason:
            about["rung_reason"] = rung_reason
        if self._moved is not None:
            about["motion"] = self._moved.describe()
        return self._extra | about if about else self._extra

    def _timed(self, stage: str) -> AbstractContextManager[None]:
        return timed(stage, self._latencies, self._clock)

    def _fuse(self, pair: FramePair, ir: Frame, rung: Rung) -> tuple[Image8, Image8, Mask, Registration]:
        """The fused picture, the registered infrared, where that is valid, and the field used."""
        with span("luma"):
            y = luma(pair.vis.image)
        epochs = (ir.epoch, pair.vis.epoch)
        if self._temporal.look(ir.image, y, t_ns=pair.t_capture, epochs=epochs) is not None:
            self._fuser.reset()
            if self._motion is not None:
                self._motion.reset()
        calibration = self._rig(ir.image, y)
        fused_y: Image8 | None = None
        if rung in (Rung.FULL, Rung.REFINE):
            registration, fused_y = self._register(ir, y, calibration, pair.t_capture, rung)
        else:
            registration = self._temporal.unregistered(rung)
        if self._motion is not None and rung in (Rung.FULL, Rung.REFINE):
            with self._timed("motion"):
                self._moved = self._motion.compensate(
                    pair, y, registration, lambda image: calibration.bring_infrared(image)[0]
                )
        shape = (y.shape[0], y.shape[1])
        with self._timed("warp"):
            if self._moved is None:
                registered, valid = warp_infrared(ir.image, registration, calibration, shape)
            else:
                registered, valid = warp_moved(self._moved, registration, calibration, shape)
                fused_y = None
        if registration.status is Status.OFF:
            return pair.vis.image, registered, valid, registration
        with self._timed("fuse"):
            if fused_y is None:
                fused_y = self._fuser.fuse(registered, y, valid=valid)
                _check_luma(fused_y, y, self._fusion_kind)
            if not valid.all():
                fused_y = np.asarray(cv2.copyTo(fused_y, valid, y.copy()), np.uint8)
        with self._timed("colour"):
            image = replace_luma(pair.vis.image, fused_y, old=y)
        return image, registered, valid, registration

    def _register(
        self, ir: Frame, y: Image8, calibration: RigCalibration, t_ns: int, rung: Rung
    ) -> tuple[Registration, Image8 | None]:
        """The field to use, and the fused luma when a joint model made it with that field."""
        with self._timed("calibrate"):
            ir_in_vis, ir_valid = calibration.bring_infrared(ir.image)
        fused: tuple[Registration, Image8] | None = None

        def run(prior: Registration | None) -> Registration:
            nonlocal fused
            if self._joint is None:
                found = self._registrar.register(ir_in_vis, y, valid=ir_valid, prior=prior)
                _check_registration(found, y, self._registration_kind)
                return found
            fused = self._joint.register_and_fuse(ir_in_vis, y, valid=ir_valid, prior=prior)
            return fused[0]

        with self._timed("register"):
            registration = self._temporal.register(
                ir_in_vis,
                y,
                run,
                lambda: search(self._registrar, ir_in_vis, y, valid=ir_valid),
                t_ns=t_ns,
                valid=ir_valid,
                rung=rung,
            )
        used = fused is not None and registration.status is Status.OK and registration.flow is fused[0].flow
        return registration, fused[1] if fused is not None and used else None

    def _rig(self, ir: Image8, y: Image8) -> RigCalibration:
        """The rig's calibration, or the plain resize while there is none."""
        if self._calibration is not None:
            self._calibration.check_visible(y.shape)
            return self._calibration
        ir_size, vis_size = (ir.shape[1], ir.shape[0]), (y.shape[1], y.shape[0])
        known = self._plain_resize
        if known is None or (known.ir_size, known.vis_size) != (ir_size, vis_size):
            known = self._plain_resize = RigCalibration.identity(ir_size=ir_size, vis_size=vis_size)
        return known


def _check_registration(found: object, y: Image8, kind: str) -> None:
    """Registrars may come from anywhere. Raises DataError."""
    if not isinstance(found, Registration):
        raise DataError(f"registrar {kind!r} gave {type(found).__name__}; must be a Registration")
    if found.flow is not None and found.flow.shape[:2] != y.shape:
        raise DataError(
            f"registrar {kind!r} gave a flow for {found.flow.shape[:2]}; must be for the picture, {y.shape}"
        )


def _check_luma(fused: object, y: Image8, kind: str) -> None:
    """Fusers may come from anywhere. Raises DataError."""
    if not (isinstance(fused, np.ndarray) and fused.dtype == np.uint8 and fused.shape == y.shape):
        got = f"{fused.dtype} {fused.shape}" if isinstance(fused, np.ndarray) else type(fused).__name__
        raise DataError(f"fuser {kind!r} gave {got}; must be uint8 {y.shape}")
