"""Names to classes: how a source, registrar, fuser or sink is found.

A built-in is one line in its folder's `__init__`; a third party adds an entry point to the group
`streamfuse.<what>s`, whose class keeps the protocol in `capture.source`, `registration.registrar`,
`fusion.fuser` or `sinks.sink`. Classes are imported only when asked for, which keeps `--help` fast.
"""

import difflib
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from inspect import signature
from typing import Any

from pydantic import BaseModel, ConfigDict

from streamfuse.errors import ConfigError

log = logging.getLogger(__name__)


class Options(BaseModel):
    """Base of every option model: unknown keys are errors, values are checked and finite, nothing changes
    later."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class Registry:
    """The known kinds of one component.

    Args:
        what: singular noun for messages and the entry point group ("source" -> "streamfuse.sources").
        builtin: kind -> "module:Class". Every class has a class attribute `Options`. They go before entry
            points of the same name.
        needs: methods that a class must have.
        made_with: keyword that it takes beside its options.
        options: what its `Options` must derive from.
    """

    def __init__(
        self,
        what: str,
        builtin: Mapping[str, str],
        *,
        needs: Sequence[str] = (),
        made_with: str = "",
        options: type[Options] = Options,
    ) -> None:
        self.what = what
        self._builtin = dict(builtin)
        self._needs = tuple(needs)
        self._made_with = made_with
        self._options = options

    @cached_property
    def _third_party(self) -> dict[str, str]:
        # Read once: it costs 7 ms, and what is installed meanwhile is seen by the next process.
        targets: dict[str, str] = {}
        for point in entry_points(group=f"streamfuse.{self.what}s"):
            taken = self._builtin.get(point.name) or targets.get(point.name)
            if taken not in (None, point.value):
                text = "the %s %r of %s is not used: that name is taken by %s; rename the entry point"
                log.warning(text, self.what, point.name, point.value, taken)
                continue
            targets[point.name] = point.value
        return targets

    def names(self) -> list[str]:
        """Every known kind, sorted."""
        return sorted(self._third_party.keys() | self._builtin.keys())

    def load(self, kind: str) -> Any:
        """Import and return the class of a kind.

        Raises:
            ConfigError: no such kind, naming the nearest; or what an entry point names cannot be imported or
                does not keep the protocol.
        """
        if target := self._third_party.get(kind):
            return self._load_third_party(kind, target)
        if target := self._builtin.get(kind):
            module, _, name = target.partition(":")
            return getattr(import_module(module), name)
        names = self.names()
        near = difflib.get_close_matches(kind, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"unknown {self.what} {kind!r}{hint} (known: {', '.join(names)})")

    def _load_third_party(self, kind: str, target: str) -> Any:
        where = f"{self.what} {kind!r} of the entry point {target}"
        module, _, name = target.partition(":")
        try:
            found = getattr(import_module(module), name)
        except Exception as error:  # foreign code may raise anything
            raise ConfigError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
        if not isinstance(found, type):
            raise ConfigError(f"{where} is no class but {found!r:.40}")
        options = getattr(found, "Options", None)
        if not (isinstance(options, type) and issubclass(options, self._options)):
            wanted = f"{self._options.__module__}.{self._options.__name__}"
            raise ConfigError(f"{where} has no class attribute Options that derives from {wanted}")
        missing = [method for method in self._needs if not callable(getattr(found, method, None))]
        if missing:
            raise ConfigError(f"{where} lacks {', '.join(f'{method}()' for method in missing)}")
        if self._made_with:
            try:
                signature(found).bind(None, **{self._made_with: None})
            except TypeError as error:
                call = f"{name}(options, {self._made_with}=...)"
                raise ConfigError(f"{where} cannot be made by {call}: {error}") from error
        return found
