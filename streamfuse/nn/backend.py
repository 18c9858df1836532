"""How the parts of a network are computed: by PyTorch as they are, compiled, or by OpenVINO.

A part is a module of convolutions with one tensor of a fixed shape in and one out. What lies between the
parts (warps, correlation, fits) stays where it is. A backend computes what `eager` computes, up to rounding;
`auto`, which goes by the clock, takes only one that rounds alike, so that runs repeat.

Source of the way around OpenVINO's `convert_model`: that one imports seconds' worth of tools, which may send
usage statistics; the front end it calls needs neither.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from streamfuse.clock import NS_PER_MS, process_cpu_ns
from streamfuse.errors import ConfigError
from streamfuse.nn.backend_names import MEASURED_BY_AUTO, Backend, BackendName, is_installed

log = logging.getLogger(__name__)

Part = Callable[[Tensor], Tensor]
TURNS = 12
"""Calls of each candidate of which the fastest counts, for whatever disturbs one only adds to it: a second of
the registration network."""
CAUSE = 300
"""Characters of what a backend says when it fails."""
WORTH_IT = 0.97
"""Of the time of `eager`: what saves less is not worth another library."""


@contextmanager
def recorded_inputs(parts: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """What each part was last called with, by name, while the context lasts."""
    inputs: dict[str, Tensor] = {}

    def record(name: str, _: nn.Module, tensors: tuple[Tensor]) -> None:
        (inputs[name],) = tensors

    hooks = [part.register_forward_pre_hook(partial(record, name)) for name, part in parts.items()]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


def chosen(
    backend: Backend,
    parts: Mapping[str, nn.Module],
    inputs: Mapping[str, Tensor],
    *,
    device: str,
    reduced: bool,
    call: Callable[[Mapping[str, Part]], Tensor],
) -> tuple[BackendName, Mapping[str, Part]]:
    """The backend to use, and the parts as it computes them.

    Args:
        backend: `auto`: the fastest of what is installed and gives the same, bit for bit; in bfloat16 nothing
            else than `eager` does.
        parts: by name. inputs: what each is called with; other shapes are not computed.
        reduced: convolutions in bfloat16.
        call: what a typical pass finds with the parts it is given: called to warm up, to compare, and timed.

    Raises:
        ConfigError: a backend asked for by name cannot compute them here.
    """
    if backend != "auto":
        named = built(backend, parts, inputs, reduced=reduced)
        call(named)
        return backend, named
    tried: dict[BackendName, Mapping[str, Part]] = {"eager": parts}
    expected = call(parts)
    for name in MEASURED_BY_AUTO if device == "cpu" and not reduced else ():
        if not is_installed(name):
            continue
        try:
            made = built(name, parts, inputs, reduced=False)
        except ConfigError as error:
            log.warning("%s; eager is used", error)
            continue
        if torch.equal(call(made), expected):
            tried[name] = made
        else:
            log.info("worker.backend: %s rounds in another way here; eager is used", name)
    if len(tried) == 1:
        return "eager", parts
    best = fastest({name: partial(call, made) for name, made in tried.items()})
    return best, tried[best]


def built(
    backend: BackendName,
    parts: Mapping[str, nn.Module],
    inputs: Mapping[str, Tensor],
    *,
    reduced: bool,
) -> Mapping[str, Part]:
    """The parts as a backend computes them; arguments and errors as of `chosen`."""
    if backend == "eager":
        return parts
    build = _compiled if backend == "compile" else _by_openvino
    try:
        return {name: build(part, inputs[name], reduced=reduced) for name, part in parts.items()}
    except RuntimeError as error:
        cause = " ".join(str(error).split())[:CAUSE]
        needs = " It needs a C++ compiler, such as g++." if backend == "compile" else ""
        raise ConfigError(
            f"worker.backend: {backend} cannot compute this network here: {cause}.{needs} eager can"
        ) from error


def fastest(
    calls: Mapping[BackendName, Callable[[], object]], *, now_ns: Callable[[], int] = process_cpu_ns
) -> BackendName:
    """Which call takes least, of several in turns; `eager`, which must be among them, in doubt.

    now_ns: processor time, which other programs on the same cores disturb less than that on the wall.
    """
    took: dict[BackendName, list[int]] = {name: [] for name in calls}
    for _ in range(TURNS):
        for name, call in calls.items():
            started = now_ns()
            call()
            took[name].append(now_ns() - started)
    least = {name: min(times) for name, times in took.items()}
    best = min(least, key=lambda name: least[name])
    if least[best] > WORTH_IT * least["eager"]:
        best = "eager"
    each = ", ".join(f"{name} {took_ns / NS_PER_MS:.1f}" for name, took_ns in least.items())
    log.info("worker.backend: %s is used (processor ms of a pass: %s)", best, each)
    return best


def _compiled(part: nn.Module, image: Tensor, *, reduced: bool) -> Part:
    compiled: Part = torch.compile(part, dynamic=False)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=reduced):
        compiled(image)
    return compiled


class _ChannelsLast(nn.Module):
    """(B, C, H, W) of a part as (B, H, W, C): the memory layout that the convolutions after it want."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.part(image)
        return features.permute(0, 2, 3, 1)


@lru_cache
def _openvino_core() -> Any:
    """One for the whole process. Each has a stack for signal handlers of its own and goes back to that of the
    one before when it ends; were that gone by then, the next signal, such as Ctrl-C, would crash the process.
    """
    import openvino

    return openvino.Core()


def _by_openvino(part: nn.Module, image: Tensor, *, reduced: bool) -> Part:
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    from torch.jit._trace import TracerWarning

    image = image.detach().clone()
    with torch.no_grad(), warnings.catch_warnings():
        # Python numbers in the trace depend on the shapes alone, and those are fixed.
        warnings.simplefilter("ignore", TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)  # of tracing; torch.export takes longer
        traced = torch.jit.trace(_ChannelsLast(part), image, check_trace=False)  # type: ignore[no-untyped-call]
    front_end = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced, example_input=image)  # asked until all is converted
    model = front_end.convert(front_end.load(decoder))
    model.inputs[0].get_node().set_partial_shape(openvino.PartialShape(list(image.shape)))
    model.validate_nodes_and_infer_types()
    compiled = _openvino_core().compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "bf16" if reduced else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            # Threads bound to a core wait for whatever else runs there.
            "ENABLE_CPU_PINNING": False,
        },
    )
    request, shape = compiled.create_infer_request(), tuple(compiled.outputs[0].shape)

    def run(tensor: Tensor) -> Tensor:
        found = torch.empty(shape)
        request.set_input_tensor(openvino.Tensor(tensor.contiguous().numpy(), shared_memory=True))
        request.set_output_tensor(openvino.Tensor(found.numpy(), shared_memory=True))
        request.infer()
        return found.permute(0, 3, 1, 2)

    return run
