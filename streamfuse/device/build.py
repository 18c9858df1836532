"""Which registrars and fusers live on a device, and how a program is made of them."""

from typing import Any

import torch

from streamfuse.calibration.calibration import RigCalibration
from streamfuse.config import Component
from streamfuse.device.estimator import DeviceFuser, Estimator, Stateless
from streamfuse.device.laplacian import LaplacianFuser
from streamfuse.device.live import LiveEstimator, LiveFuser, PeopleFuser, maximum
from streamfuse.device.mepma import MepmaEstimator
from streamfuse.device.program import Program, Rules
from streamfuse.device.rig import Rigs
from streamfuse.nn.live_fusion import LiveFusion
from streamfuse.nn.live_registration import LiveRegistration
from streamfuse.nn.mepma import MEPMA
from streamfuse.nn.models import load_model
from streamfuse.nn.network import Network
from streamfuse.registration.mepma import DTYPES

REGISTRAR_NETWORKS: dict[str, type[Network] | None] = {"live": LiveRegistration, "mepma": MEPMA, "none": None}
FUSER_NETWORKS: dict[str, type[Network] | None] = {
    "people": LiveFusion,
    "live": LiveFusion,
    "mepma": MEPMA,
    "laplacian": None,
    "max": None,
}


def lives_on_device(registration: Component, fusion: Component) -> bool:
    """Whether both have a way there."""
    return registration.kind in REGISTRAR_NETWORKS and fusion.kind in FUSER_NETWORKS


class Parts:
    """The networks of a registrar and a fuser on a device, from which programs for any sizes are made.

    Args:
        registration, fusion: kinds that `lives_on_device` knows.

    Raises:
        WeightsError: a network has no usable weights.
    """

    def __init__(self, registration: Component, fusion: Component, *, device: torch.device) -> None:
        self._registration, self._fusion = registration, fusion
        self._device = device
        self._registrar = self._load(REGISTRAR_NETWORKS[registration.kind], registration)
        joint = registration.kind == fusion.kind == "mepma"
        self._fuser = self._registrar if joint else self._load(FUSER_NETWORKS[fusion.kind], fusion)
        self._joint = joint

    def _load(self, network: type[Network] | None, component: Component) -> Network | None:
        if network is None:
            return None
        options: Any = component.options
        loaded = load_model(network.NAME, weights=options.weights, device=str(self._device))
        return loaded.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    @property
    def registers(self) -> bool:
        """Whether there is a registrar."""
        return self._registrar is not None

    def program(self, calibration: RigCalibration, rules: Rules, *, parts: int = 0, rigs: int = 1) -> Program:
        """The program for rigs of the calibration's geometry; parts: as of `Program`."""
        places = Rigs(calibration, count=rigs, device=self._device)
        estimator = self._estimator(places.shape)
        fuser = None if self._joint else self._device_fuser(places.shape)
        return Program(places, estimator, fuser, rules=rules, device=self._device, parts=parts)

    def _estimator(self, shape: tuple[int, int]) -> Estimator | None:
        options: Any = self._registration.options
        if isinstance(self._registrar, LiveRegistration):
            return LiveEstimator(
                self._registrar,
                shape,
                passes=options.passes,
                precision=options.precision,
                device=self._device,
            )
        if isinstance(self._registrar, MEPMA):
            return self._mepma(self._registrar, shape, options)
        return None

    def _device_fuser(self, shape: tuple[int, int]) -> DeviceFuser[Any]:
        if isinstance(self._fuser, MEPMA):
            return Stateless(self._mepma(self._fuser, shape, self._fusion.options).fuse_alone)
        if isinstance(self._fuser, LiveFusion):
            made = PeopleFuser if self._fusion.kind == "people" else LiveFuser
            return made(self._fuser, shape, device=self._device)
        if self._fusion.kind == "max":
            return Stateless(maximum)
        return Stateless(LaplacianFuser(shape, self._fusion.options, device=self._device))

    def _mepma(self, network: MEPMA, shape: tuple[int, int], options: Any) -> MepmaEstimator:
        return MepmaEstimator(network, shape, dtype=DTYPES[options.precision], device=self._device)
