"""Training configurations: YAML files as typed models."""

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from streamfuse.config import describe_validation_error
from streamfuse.errors import ConfigError
from streamfuse.registry import Options
from streamfuse.yaml_text import read_yaml

Model = TypeVar("Model", bound=Options)


def read_training(path: Path, model: type[Model]) -> Model:
    """A configuration file as `model`. Raises ConfigError with one line for each mistake."""
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must hold sections such as 'loop:', got {data!r:.40}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        mistakes = describe_validation_error(error, model, "")
        raise ConfigError("\n".join(f"{path}: {mistake.lstrip('.')}" for mistake in mistakes)) from error
