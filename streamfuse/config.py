"""The YAML file that describes a run, as typed models.

Sections: `sources.ir`, `sources.vis` (a `kind` and that kind's options), `calibration`, `pairing`,
`registration` and `fusion` (a `model` and its options), `worker`, `pipeline`, and `sinks`, a list (a
`kind` and its options). The options of a kind live with the class they configure; this module finds
them through the registries, so a third party's kind is validated like a built-in. Relative paths mean
the working directory.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError

from streamfuse.capture import SOURCES
from streamfuse.errors import ConfigError
from streamfuse.fusion import FUSERS
from streamfuse.nn.backend_names import Backend
from streamfuse.outputs import place
from streamfuse.pairing.options import PairingOptions
from streamfuse.registration import REGISTRARS
from streamfuse.registration.options import TemporalOptions
from streamfuse.registry import Options, Registry
from streamfuse.sinks import SINKS
from streamfuse.yaml_text import parse_yaml, read_yaml

DEFAULT_REGISTRAR = "live"
DEFAULT_FUSER = "people"


class WorkerOptions(TemporalOptions):
    """Where registration and fusion run, and the state that registration keeps."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = Field(
        "auto", description="auto: the first CUDA device when there is one, else the CPU"
    )
    threads: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None,
        description="on the CPU, inside register and fuse; null: the cores but one, which reads and encodes, "
        "at most 4",
    )
    backend: Backend = Field(
        "auto",
        description="on the CPU, what the registration network's encoders are computed by; auto: eager "
        "PyTorch or, where that is installed, measured to be faster at the start and the same bit for bit, "
        "openvino; compile: torch.compile, up to a minute to start",
    )


class PipelineOptions(Options):
    """How the run is driven."""

    mode: Literal["auto", "live", "offline"] = Field(
        "auto", description="auto: live when both sources are live; offline never drops a frame"
    )
    latency_budget_ms: Annotated[float, Field(gt=0)] = Field(
        250.0,
        description="live: from capture to the last sink; a pair that would be later is dropped when a newer "
        "one waits",
    )
    ladder: bool = Field(
        True,
        description="live: do less for each frame when the budget would be broken, down to the visible "
        "picture alone, and more again later; offline every frame gets all the work",
    )
    reuse_frames: Annotated[int, Field(ge=1, le=30)] = Field(
        4, description="ladder: frames that reuse a field before it is refined again"
    )
    sink_queue: Annotated[int, Field(ge=1, le=1024)] = Field(
        8, description="frames that may wait for each sink"
    )
    ring: Annotated[int, Field(ge=2, le=1024)] = Field(
        16, description="live: frames that may wait between each camera and the pairer"
    )


@dataclass(frozen=True, slots=True)
class Component:
    """A kind and its validated options."""

    kind: str
    options: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole run, validated."""

    ir: Component
    vis: Component
    registration: Component
    fusion: Component
    calibration: Path | None = None
    pairing: PairingOptions = field(default_factory=PairingOptions)
    worker: WorkerOptions = field(default_factory=WorkerOptions)
    pipeline: PipelineOptions = field(default_factory=PipelineOptions)
    sinks: tuple[Component, ...] = ()


_PLAIN_SECTIONS: dict[str, type[Options]] = {
    "pairing": PairingOptions,
    "worker": WorkerOptions,
    "pipeline": PipelineOptions,
}
_SECTIONS = ("sources", "calibration", "pairing", "registration", "fusion", "worker", "pipeline", "sinks")


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read and validate a YAML file.

    Args:
        path: the file.
        overrides: `a.b=value` each, applied before validation; values are YAML, list items go by number.

    Raises:
        ConfigError: one line for each mistake, naming file, key, value and what would be right.
    """
    data, origin = config_tree(path)
    for override in overrides:
        apply_override(data, override)
    return parse_config(data, origin=origin)


def resolve_config(config: Config | Mapping[str, Any] | Path | str) -> Config:
    """A validated configuration from whatever stands for one: a YAML file, the same as a mapping, or itself.

    Raises:
        ConfigError: it is none of these, or as `load_config`.
    """
    if isinstance(config, Config):
        return config
    tree, origin = config_tree(config)
    return parse_config(tree, origin=origin)


def config_tree(config: Mapping[str, Any] | Path | str) -> tuple[dict[str, Any], str]:
    """A configuration before it is validated, a copy, and what to call it in messages. Raises ConfigError."""
    if isinstance(config, Path | str):
        data, origin = read_yaml(Path(config)), str(config)
    else:
        data, origin = config, "configuration"
    if not isinstance(data, Mapping):
        raise ConfigError(f"{origin}: must hold sections such as 'sources:' and 'sinks:', got {data!r:.40}")
    return dict(data), origin


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one value of a configuration tree in place: `registration.model=ecc`, `sinks.0.path=a.mkv`."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override}: must read a.b=value")
    try:
        value = parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"--set {override}: the value is {error}") from error
    *parents, last = key.split(".")
    node: Any = data
    for name in parents:
        node = _child(node, name, override)
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"--set {override}: {'.'.join(parents)} holds {node!r:.40}, not a section")


def _child(node: Any, name: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, name, override)]
    if isinstance(node, dict):
        if node.get(name) is None:
            node[name] = {}
        return node[name]
    raise ConfigError(f"--set {override}: {name!r} would be inside a plain value")


def _index(node: list[Any], name: str, override: str) -> int:
    if not name.isdigit() or int(name) >= len(node):
        raise ConfigError(f"--set {override}: {name!r} is not one of the items 0..{len(node) - 1}")
    return int(name)


def section(tree: Mapping[str, Any], key: str, *, origin: str = "") -> dict[str, Any]:
    """A copy of a section of a configuration tree, empty when absent. Raises ConfigError when it is none."""
    value = tree.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"{origin}{key}: must be a section, got {value!r:.40}")
    return dict(value or {})


def parse_config(data: Mapping[str, Any], *, origin: str = "configuration") -> Config:
    """Validate a configuration tree. Raises ConfigError listing every mistake, each led by `origin`."""
    errors: list[str] = []
    for key in data:
        if key not in _SECTIONS:
            errors.append(f"{key}: unknown section{_did_you_mean(str(key), _SECTIONS)}")
    parts: dict[str, Any] = {}
    sources = data.get("sources")
    if not isinstance(sources, Mapping):
        errors.append("sources: missing; it must hold 'ir' and 'vis', each with a 'kind'")
    else:
        for stream in sources:
            if stream not in ("ir", "vis"):
                errors.append(f"sources.{stream}: unknown stream{_did_you_mean(str(stream), ('ir', 'vis'))}")
        for stream in ("ir", "vis"):
            parts[stream] = _component(SOURCES, sources.get(stream), f"sources.{stream}", "kind", errors)
    parts["registration"] = _component(
        REGISTRARS, data.get("registration"), "registration", "model", errors, DEFAULT_REGISTRAR
    )
    parts["fusion"] = _component(FUSERS, data.get("fusion"), "fusion", "model", errors, DEFAULT_FUSER)
    for section, model in _PLAIN_SECTIONS.items():
        parts[section] = _options(model, data.get(section), section, errors)
    calibration = data.get("calibration")
    if calibration is not None and not isinstance(calibration, str | Path):
        errors.append(f"calibration: must be the path of a calibration file, got {calibration!r:.40}")
    parts["calibration"] = None if calibration is None else Path(str(calibration))
    sinks = data.get("sinks") or []
    if not isinstance(sinks, Sequence) or isinstance(sinks, str):
        errors.append("sinks: must be a list, each item with a 'kind'")
    else:
        parts["sinks"] = tuple(
            _component(SINKS, sink, f"sinks.{i}", "kind", errors) for i, sink in enumerate(sinks)
        )
    if not errors:
        errors.extend(_collisions(parts))
    if errors:
        raise ConfigError("\n".join(f"{origin}: {error}" for error in errors))
    return Config(**parts)


def _collisions(parts: Mapping[str, Any]) -> Iterator[str]:
    """Sinks in the place of a source, whose recording they would destroy, or of one another."""
    components = {f"sources.{stream}": parts[stream] for stream in ("ir", "vis")}
    components |= {f"sinks.{i}": sink for i, sink in enumerate(parts["sinks"])}
    taken: dict[tuple[int, int] | Path, str] = {}
    for key, component in components.items():
        path = getattr(component.options, "path", None)
        if isinstance(path, Path):
            other = taken.setdefault(place(path), key)
            if other != key and key.startswith("sinks"):
                loss = "would be lost" if other.startswith("sources") else "can hold one of them only"
                yield f"{key}.path: {path} is the path of {other} too and {loss}; give it another name"


def _component(
    registry: Registry, data: Any, key: str, selector: str, errors: list[str], default: str | None = None
) -> Component | None:
    if data is None and default is not None:
        data = {}
    if isinstance(data, Component):
        return data
    if not isinstance(data, Mapping):
        known = ", ".join(registry.names())
        got = "it is missing" if data is None else f"got {data!r:.40}"
        errors.append(f"{key}: must be a section with a {selector!r} (one of {known}); {got}")
        return None
    kind = data.get(selector, default)
    if not isinstance(kind, str):
        errors.append(f"{key}.{selector}: missing, one of {', '.join(registry.names())}")
        return None
    try:
        component_class = registry.load(kind)
    except ConfigError as error:
        errors.append(f"{key}.{selector}: {error}")
        return None
    rest = {name: value for name, value in data.items() if name != selector}
    options = _options(component_class.Options, rest, key, errors, selector)
    return None if options is None else Component(kind, options)


def _options(model: type[Options], data: Any, key: str, errors: list[str], *selectors: str) -> Options | None:
    try:
        return model.model_validate({} if data is None else data)
    except ValidationError as error:
        errors.extend(describe_validation_error(error, model, key, selectors))
        return None


def describe_validation_error(
    error: ValidationError, model: type[Options], prefix: str, selectors: Sequence[str] = ()
) -> Iterator[str]:
    """One line for each mistake pydantic found: full key, what is wrong, the value, near names.

    selectors: keys beside those of the model, such as the `kind` that chose it.
    """
    for item in error.errors():
        location = [
            str(part) for part in item["loc"] if not str(part).startswith(("function-", "constrained-"))
        ]
        key = ".".join([prefix, *location])
        if item["type"] == "extra_forbidden":
            names = _field_names(model, location[:-1]) + ([] if location[:-1] else list(selectors))
            yield f"{key}: unknown option{_did_you_mean(location[-1], names)} (known: {', '.join(names)})"
        elif item["type"] == "missing":
            yield f"{key}: missing"
        elif item["type"] == "value_error" and isinstance(item["input"], Mapping):
            yield f"{key}: {item['msg'].removeprefix('Value error, ')}"
        else:
            yield f"{key}: {item['msg'].removeprefix('Value error, ')}, got {item['input']!r:.60}"


def _field_names(model: type[Options], location: Sequence[str]) -> list[str]:
    for name in location:
        known = model.model_fields.get(name)
        if known is None:
            break
        candidates = [known.annotation, *get_args(known.annotation)]
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, Options)]
        if not nested:
            break
        model = nested[0]
    return sorted(model.model_fields)


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def dump_config(config: Config) -> dict[str, Any]:
    """The full effective configuration as plain values: what `load_config` would read back."""

    def dump(component: Component, selector: str) -> dict[str, Any]:
        return {selector: component.kind, **component.options.model_dump(mode="json")}

    return {
        "sources": {"ir": dump(config.ir, "kind"), "vis": dump(config.vis, "kind")},
        "calibration": None if config.calibration is None else str(config.calibration),
        "pairing": config.pairing.model_dump(mode="json"),
        "registration": dump(config.registration, "model"),
        "fusion": dump(config.fusion, "model"),
        "worker": config.worker.model_dump(mode="json"),
        "pipeline": config.pipeline.model_dump(mode="json"),
        "sinks": [dump(sink, "kind") for sink in config.sinks],
    }


def config_schema() -> dict[str, Any]:
    """JSON Schema of the configuration file, with every installed kind."""
    definitions: dict[str, Any] = {}

    def one_of(registry: Registry, selector: str) -> dict[str, Any]:
        choices = []
        for kind in registry.names():
            schema = registry.load(kind).Options.model_json_schema(ref_template="#/$defs/{model}")
            definitions.update(schema.pop("$defs", {}))
            schema["properties"] = {selector: {"const": kind}, **schema.get("properties", {})}
            schema["required"] = [selector, *schema.get("required", [])]
            choices.append(schema)
        return {"oneOf": choices}

    source = one_of(SOURCES, "kind")
    properties: dict[str, Any] = {
        "sources": {
            "type": "object",
            "properties": {"ir": source, "vis": source},
            "required": ["ir", "vis"],
            "additionalProperties": False,
        },
        "calibration": {"type": ["string", "null"]},
        "registration": one_of(REGISTRARS, "model"),
        "fusion": one_of(FUSERS, "model"),
        "sinks": {"type": "array", "items": one_of(SINKS, "kind")},
    }
    for section, model in _PLAIN_SECTIONS.items():
        schema = model.model_json_schema(ref_template="#/$defs/{model}")
        definitions.update(schema.pop("$defs", {}))
        properties[section] = schema
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "streamfuse configuration",
        "type": "object",
        "properties": properties,
        "required": ["sources"],
        "additionalProperties": False,
        "$defs": definitions,
    }
