"""How the parts of a network are computed: by PyTorch as they are, compiled, or by OpenVINO.

A part is a module of convolutions with tensors of fixed shapes in and out. What lies between the parts
(warps, correlation, fits) stays where it is. A backend computes what `eager` computes, up to rounding.

Source of the way around OpenVINO's `convert_model`: that one imports seconds' worth of tools, which may send
usage statistics; the front end it calls needs neither.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from streamfuse.clock import NS_PER_MS, Clock
from streamfuse.errors import ConfigError
from streamfuse.nn.backend_names import MEASURED_BY_AUTO, Backend, BackendName, is_installed

log = logging.getLogger(__name__)

Part = Callable[..., Any]
"""Tensors in, a tensor or a tuple of them out."""
TURNS = 12
"""Calls of each candidate of which the fastest counts, for other programs only add to a call: half a second
of the registration network."""
CAUSE = 300
"""Characters of what a backend says when it fails."""
WORTH_IT = 0.97
"""Of the time of `eager`: what saves less is not worth another library."""


@contextmanager
def recorded_inputs(parts: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Tensor, ...]]]:
    """What each part was last called with, by name, while the context lasts."""
    inputs: dict[str, tuple[Tensor, ...]] = {}

    def record(name: str, _: nn.Module, tensors: tuple[Tensor, ...]) -> None:
        inputs[name] = tensors

    hooks = [part.register_forward_pre_hook(partial(record, name)) for name, part in parts.items()]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


def chosen(
    backend: Backend,
    parts: Mapping[str, nn.Module],
    inputs: Mapping[str, tuple[Tensor, ...]],
    *,
    device: str,
    reduced: bool,
    call: Callable[[Mapping[str, Part]], object],
    clock: Clock,
) -> tuple[BackendName, Mapping[str, Part]]:
    """The backend to use, and the parts as it computes them.

    Args:
        backend: `auto`: the fastest of what is installed.
        parts: by name. inputs: what each is called with; other shapes are not computed.
        reduced: convolutions in bfloat16.
        call: a typical pass with the parts it is given: it is called to warm up, and timed.

    Raises:
        ConfigError: a backend asked for by name cannot compute them here.
    """
    tried: dict[BackendName, Mapping[str, Part]] = {}
    if backend == "auto":
        tried["eager"] = parts
        for name in MEASURED_BY_AUTO:
            if device == "cpu" and is_installed(name):
                try:
                    tried[name] = built(name, parts, inputs, reduced=reduced)
                except ConfigError as error:
                    log.warning("%s; eager is used", error)
    else:
        tried[backend] = built(backend, parts, inputs, reduced=reduced)
    for candidate in tried.values():
        call(candidate)
    if len(tried) > 1:
        name = fastest({name: partial(call, candidate) for name, candidate in tried.items()}, clock=clock)
    else:
        (name,) = tried
    return name, tried[name]


def built(
    backend: BackendName,
    parts: Mapping[str, nn.Module],
    inputs: Mapping[str, tuple[Tensor, ...]],
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


def fastest(calls: Mapping[BackendName, Callable[[], object]], *, clock: Clock) -> BackendName:
    """Which call takes least, of several in turns; `eager`, which must be among them, in doubt."""
    took: dict[BackendName, list[int]] = {name: [] for name in calls}
    for _ in range(TURNS):
        for name, call in calls.items():
            started = clock.now_ns()
            call()
            took[name].append(clock.now_ns() - started)
    least = {name: min(times) for name, times in took.items()}
    best = min(least, key=lambda name: least[name])
    if least[best] > WORTH_IT * least["eager"]:
        best = "eager"
    each = ", ".join(f"{name} {took_ns / NS_PER_MS:.1f} ms" for name, took_ns in least.items())
    log.info("worker.backend: %s is used (a warm pass: %s)", best, each)
    return best


def _compiled(part: nn.Module, inputs: tuple[Tensor, ...], *, reduced: bool) -> Part:
    compiled: Part = torch.compile(part, dynamic=False)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=reduced):
        compiled(*inputs)
    return compiled


def _by_openvino(part: nn.Module, inputs: tuple[Tensor, ...], *, reduced: bool) -> Part:
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    from torch.jit._trace import TracerWarning

    inputs = tuple(tensor.detach().float().clone() for tensor in inputs)
    with torch.no_grad(), warnings.catch_warnings():
        # Python numbers in the trace depend on the shapes alone, and those are fixed.
        warnings.simplefilter("ignore", TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)  # of tracing; torch.export takes longer
        traced = torch.jit.trace(part, inputs, check_trace=False)  # type: ignore[no-untyped-call]
    front_end = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced, example_input=inputs)  # asked until all is converted
    model = front_end.convert(front_end.load(decoder))
    for node, tensor in zip(model.inputs, inputs, strict=True):
        node.get_node().set_partial_shape(openvino.PartialShape(list(tensor.shape)))
    model.validate_nodes_and_infer_types()
    compiled = openvino.Core().compile_model(
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
    request, shapes = compiled.create_infer_request(), [tuple(out.shape) for out in compiled.outputs]

    def run(*tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = tuple(torch.empty(shape) for shape in shapes)
        for i, tensor in enumerate(tensors):
            array = tensor.float().contiguous().numpy()
            request.set_input_tensor(i, openvino.Tensor(array, shared_memory=True))
        for i, tensor in enumerate(found):
            request.set_output_tensor(i, openvino.Tensor(tensor.numpy(), shared_memory=True))
        request.infer()
        return found if len(found) > 1 else found[0]

    return run
