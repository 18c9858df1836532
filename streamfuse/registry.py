"""Names to classes: how a source, registrar, fuser or sink is found.

A built-in is one line in its folder's `__init__`; a third party adds an entry point to the group
`streamfuse.<what>s`. Classes are imported only when asked for, which keeps `--help` fast.
"""

import difflib
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from pydantic import BaseModel, ConfigDict

from streamfuse.errors import ConfigError


class Options(BaseModel):
    """Base of every option model: unknown keys are errors, values are checked and finite, nothing changes
    later."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Registry:
    """The known kinds of one component.

    Args:
        what: singular noun for messages and the entry point group ("source" -> "streamfuse.sources").
        builtin: kind -> "module:Class". Every class has a class attribute `Options`.
    """

    def __init__(self, what: str, builtin: Mapping[str, str]) -> None:
        self.what = what
        self._builtin = dict(builtin)

    def _targets(self) -> dict[str, str]:
        third_party = {p.name: p.value for p in entry_points(group=f"streamfuse.{self.what}s")}
        return third_party | self._builtin

    def names(self) -> list[str]:
        """Every known kind, sorted."""
        return sorted(self._targets())

    def load(self, kind: str) -> Any:
        """Import and return the class of a kind. Raises ConfigError naming the nearest known kind."""
        targets = self._targets()
        if kind not in targets:
            near = difflib.get_close_matches(kind, targets, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            known = ", ".join(sorted(targets))
            raise ConfigError(f"unknown {self.what} {kind!r}{hint} (known: {known})")
        module, _, name = targets[kind].partition(":")
        return getattr(import_module(module), name)
