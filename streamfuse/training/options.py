"""Training configurations: YAML files as typed models."""

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ValidationError

from streamfuse.config import describe_validation_error
from streamfuse.errors import ConfigError
from streamfuse.registry import Options

Model = TypeVar("Model", bound=Options)


def read_training(path: Path, model: type[Model]) -> Model:
    """A configuration file as `model`. Raises ConfigError with one line for each mistake."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    try:
        return model.model_validate(data)
    except ValidationError as error:
        mistakes = describe_validation_error(error, model, "")
        raise ConfigError("\n".join(f"{path}: {mistake.lstrip('.')}" for mistake in mistakes)) from error
