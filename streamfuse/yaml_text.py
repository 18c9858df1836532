"""YAML as people write it: any mistake is one line with its place, and a key given twice is one."""

from pathlib import Path
from typing import Any

import yaml

from streamfuse.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Plain values only."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"{key.value!r} is given twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Raises ConfigError saying what is wrong and where in the text."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        raise ConfigError(f"not valid YAML: {error.problem}{where}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-99-99
        raise ConfigError(f"not valid YAML: {' '.join(str(error).split())}") from error


def read_yaml(path: Path) -> Any:
    """The value of a YAML or JSON file. Raises ConfigError naming it."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8 (byte {error.start})") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
