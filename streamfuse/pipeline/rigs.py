"""Several rigs in one process: a pipeline each, and what computes between them.

Each rig has cameras, state, budget, sinks and a thread of its own; one that ends or fails leaves the others
alone. On a CUDA device they share networks, and frames of rigs that are alike go through it together where
each is back in time (`device.batching`). On the CPU they share the process, no more.

Trade-off. A window lives on the main thread, and so does the rig that has one: only one may.
"""

import logging
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamfuse.clock import Clock, RealClock
from streamfuse.config import Config, resolve_config, section
from streamfuse.errors import ConfigError, StreamfuseError
from streamfuse.pipeline.pipeline import Pipeline
from streamfuse.worker import resolve_device

if TYPE_CHECKING:
    from streamfuse.device.share import DeviceShare

log = logging.getLogger(__name__)


class Rigs:
    """Pipelines that run side by side, once.

    Args:
        rigs: by the name of the rig: YAML files, the same as mappings, or validated `Config`s.

    Raises:
        ConfigError: two rigs write the same file, or have a window. Others: as `Pipeline`, led by the name.
    """

    def __init__(
        self, rigs: Mapping[str, Config | Mapping[str, Any] | Path | str], *, clock: Clock | None = None
    ) -> None:
        configs = {name: _resolved(name, config) for name, config in section({"rigs": rigs}, "rigs").items()}
        _check_files(configs)
        self._clock = clock or RealClock()
        self._share = self._shared_device(configs)
        self.pipelines: dict[str, Pipeline] = {}
        for name, config in configs.items():
            try:
                self.pipelines[name] = Pipeline(config, clock=self._clock, share=self._share)
            except StreamfuseError as error:
                raise type(error)(f"{name}: {error}") from error
        self.errors: dict[str, Exception] = {}
        """Why a rig ended early."""
        windows = [name for name, pipeline in self.pipelines.items() if pipeline.has_window]
        if len(windows) > 1:
            raise ConfigError(
                f"{' and '.join(windows)} have a sink with a window; only one rig of a process may have one"
            )
        self._on_main = windows[0] if windows else None

    def stop(self) -> None:
        """Ask all to end; see `Pipeline.stop`."""
        for pipeline in self.pipelines.values():
            pipeline.stop()

    @property
    def failed(self) -> bool:
        """Some rig ended early, or some sink of one."""
        return bool(self.errors) or any(pipeline.failed_sinks for pipeline in self.pipelines.values())

    @property
    def batches(self) -> dict[int, int]:
        """How often how many frames went through a CUDA device at once; empty without one."""
        return {} if self._share is None else dict(sorted(self._share.batches.items()))

    def run(self) -> None:
        """Run all to their ends, on threads of their own; called on the main thread."""
        threads = [
            threading.Thread(target=self._drive, args=(name,), name=f"streamfuse-rig-{name}", daemon=True)
            for name in self.pipelines
            if name != self._on_main
        ]
        for thread in threads:
            thread.start()
        if self._on_main is not None:
            self._drive(self._on_main)
        for thread in threads:
            thread.join()

    def _drive(self, name: str) -> None:
        try:
            self.pipelines[name].run()
        except Exception as error:
            self.errors[name] = error
            log.warning("rig %s ended: %s", name, error, exc_info=not isinstance(error, StreamfuseError))

    def _shared_device(self, configs: Mapping[str, Config]) -> "DeviceShare | None":
        if all(resolve_device(config.worker.device) == "cpu" for config in configs.values()):
            return None
        from streamfuse.device.share import DeviceShare

        return DeviceShare(len(configs), clock=self._clock)


def _resolved(name: str, config: Config | Mapping[str, Any] | Path | str) -> Config:
    try:
        return resolve_config(config)
    except ConfigError as error:
        raise ConfigError("\n".join(f"{name}: {line}" for line in str(error).splitlines())) from error


def _check_files(configs: Mapping[str, Config]) -> None:
    """Two writers of one file would destroy each other's."""
    taken: dict[Path, str] = {}
    for name, config in configs.items():
        for key, path in _written(config):
            other = taken.setdefault(path.absolute(), name)
            if other != name:
                raise ConfigError(f"{name}: {key}: {path} is written by {other} already; give each its own")


def _written(config: Config) -> Iterator[tuple[str, Path]]:
    for i, sink in enumerate(config.sinks):
        path = getattr(sink.options, "path", None)
        if isinstance(path, str | Path):
            yield f"sinks.{i}.path", Path(path)
