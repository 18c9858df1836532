"""One word on a command line, turned into a kind of source and its options."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from streamfuse.capture import SOURCES
from streamfuse.capture.options import SourceOptions
from streamfuse.config import apply_override, describe_validation_error
from streamfuse.errors import ConfigError, SourceError

FORMS = (
    "a video file, a folder of pictures, a URL (rtsp://, http://, udp://, ...), /dev/videoN or v4l2:DEVICE, "
    "or synthetic:[key=value,...]"
)


def open_source(spec: str) -> tuple[str, SourceOptions]:
    """What a word means: `SOURCES.load(kind)(options, clock=clock)` makes the source.

    Forms: `clip.mkv` (file), `folder/` (images), `rtsp://host/path` and other URLs (network), `/dev/video0`
    or `v4l2:/dev/v4l/by-path/...` (v4l2), `synthetic:` or `synthetic:stream=ir,scene.light=night`.

    Raises:
        SourceError: there is nothing of that name.
        ConfigError: a key or value after `synthetic:` is wrong.
    """
    if "://" in spec:
        return _make("network", spec, url=spec)
    head, colon, rest = spec.partition(":")
    if colon and head in _PREFIXES:
        return _PREFIXES[head](spec, rest)
    if spec.startswith("/dev/"):
        return _make("v4l2", spec, device=spec)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _make("images", spec, path=path)
    if not path.exists() and not path.suffix:
        raise SourceError(f"{spec}: no such file or folder; a source is {FORMS}")
    return _make("file", spec, path=path)


def _v4l2(spec: str, device: str) -> tuple[str, SourceOptions]:
    return _make("v4l2", spec, device=device)


def _synthetic(spec: str, rest: str) -> tuple[str, SourceOptions]:
    options: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        if "=" not in item:
            raise ConfigError(f"{spec}: {item!r} must read key=value")
        apply_override(options, item)
    return _make("synthetic", spec, **options)


_PREFIXES = {"v4l2": _v4l2, "synthetic": _synthetic}


def _make(kind: str, spec: str, **options: Any) -> tuple[str, SourceOptions]:
    model: type[SourceOptions] = SOURCES.load(kind).Options
    try:
        return kind, model.model_validate(options)
    except ValidationError as error:
        raise ConfigError("; ".join(describe_validation_error(error, model, spec))) from error
