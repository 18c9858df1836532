"""Builds the chain from a configuration, owns its threads, and shuts it down in order."""

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from streamfuse.calibration.calibration import RigCalibration
from streamfuse.calibration.sanity import looks_swapped
from streamfuse.capture import SOURCES
from streamfuse.capture.media_time import Pace
from streamfuse.capture.options import SourceOptions
from streamfuse.capture.reader import FrameReader
from streamfuse.capture.thread import CaptureThread
from streamfuse.clock import NS_PER_MS, Clock, RealClock
from streamfuse.config import Component, Config, config_tree, parse_config, section
from streamfuse.errors import ConfigError, SinkError
from streamfuse.frame import STREAMS, DropCause, FusedFrame, SourceInfo, Stream
from streamfuse.ladder import Ladder
from streamfuse.memory import keep_freed_memory
from streamfuse.pairing.matcher import Matcher
from streamfuse.pairing.wait_budget import WaitBudget
from streamfuse.pipeline.core import FusionCore
from streamfuse.pipeline.live import LiveRunner, decide_live
from streamfuse.pipeline.offline import run_offline
from streamfuse.pipeline.offset import LiveOffset, OffsetInUse, described, measure_recording
from streamfuse.pipeline.outputs import PUMP_MS, Outputs
from streamfuse.pipeline.read_ahead import ReadAhead
from streamfuse.pipeline.statistics import Report, Statistics
from streamfuse.threads import use_threads
from streamfuse.worker import make_worker

if TYPE_CHECKING:
    from streamfuse.device.share import DeviceShare

log = logging.getLogger(__name__)

OUTPUT_SLOTS = 4
"""Live frames that may wait for the code iterating over the pipeline; older ones are dropped, counted."""


class Pipeline:
    """Two sources in, fused frames out, to the sinks and to whoever iterates.

    ```python
    with Pipeline.from_config("configs/live-rig.yaml") as pipeline:
        for frame in pipeline:
            print(frame)
    ```

    Iterating drives the run; `run()` iterates for you; leaving the `with` block ends it. Sinks that own a
    window are served on the thread that iterates, all others on threads of their own. A run with sinks ends
    when all of them have failed, see `failed_sinks`. A pipeline runs once.

    Args:
        share: of the rigs of this process, see `Rigs`; None: this is the only one.
    """

    def __init__(
        self, config: Config, *, clock: Clock | None = None, share: "DeviceShare | None" = None
    ) -> None:
        self._config = config
        self._clock = clock or RealClock()
        self.statistics = Statistics()
        self.infos: dict[Stream, SourceInfo] = {}
        self._pace = Pace(self._clock) if config.pipeline.mode == "live" else None
        self._readers: dict[Stream, FrameReader] = {
            "ir": self._reader("ir", config.ir),
            "vis": self._reader("vis", config.vis),
        }
        self.live = decide_live(
            config.pipeline.mode, {stream: reader.live for stream, reader in self._readers.items()}
        )
        self._calibration = None if config.calibration is None else RigCalibration.load(config.calibration)
        self._worker = make_worker(
            config.registration,
            config.fusion,
            calibration=self._calibration,
            motion=config.pairing.motion,
            options=config.worker,
            budget_ns=self._budget_ns if self.live else None,
            share=share,
            clock=self._clock,
        )
        self._outputs = Outputs(
            config.sinks,
            live=self.live,
            queue=config.pipeline.sink_queue,
            clock=self._clock,
            statistics=self.statistics,
        )
        self._offset: OffsetInUse | None = None
        self._swap_checked = False
        self._stop = threading.Event()
        self._frames: weakref.ref[Generator[FusedFrame, None, None]] | None = None

    @classmethod
    def from_config(
        cls,
        config: Config | Mapping[str, Any] | Path | str,
        *,
        ir: Iterable[Any] | Callable[[], Any] | None = None,
        vis: Iterable[Any] | Callable[[], Any] | None = None,
        sinks: Iterable[Callable[[FusedFrame], object]] = (),
        clock: Clock | None = None,
    ) -> Self:
        """Build a pipeline.

        Args:
            config: a YAML file, the same as a mapping, or a validated `Config`.
            ir, vis: any iterable or callable giving pictures: the configured sources' `frames`, see
                `capture.python.PythonOptions`. Colour is RGB; a callable gives None at the end. In the place
                of a configured camera they keep what all sources share, such as `rotate`.
            sinks: callables that take each fused frame, beside the configured sinks.

        Raises:
            ConfigError: a mistake in the configuration. SourceError, SinkError, WeightsError: as they say.
        """
        if not isinstance(sinks, Iterable):
            raise ConfigError(f"sinks: must be a list of callables, got {sinks!r:.60}")
        calls = [{"kind": "python", "call": sink} for sink in sinks]
        if isinstance(config, Config):
            if ir is not None or vis is not None or calls:
                raise ConfigError("ir, vis and sinks go with a file or a mapping, not with a finished Config")
            return cls(config, clock=clock)
        tree, origin = config_tree(config)
        given = {stream: frames for stream, frames in (("ir", ir), ("vis", vis)) if frames is not None}
        if given:
            tree["sources"] = section(tree, "sources", origin=f"{origin}: ")
            for stream, frames in given.items():
                options = section(tree["sources"], stream, origin=f"{origin}: sources.")
                if options.get("kind", "python") != "python":  # a camera stood there, with options of its own
                    options = {key: options[key] for key in SourceOptions.model_fields if key in options}
                tree["sources"][stream] = {**options, "kind": "python", "frames": frames}
        if calls:
            configured = tree.get("sinks") or []
            if not isinstance(configured, list | tuple):
                raise ConfigError(f"{origin}: sinks: must be a list, each item with a 'kind'")
            tree["sinks"] = [*configured, *calls]
        return cls(parse_config(tree, origin=origin), clock=clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        frames = None if self._frames is None else self._frames()
        if frames is not None:
            with suppress(ValueError):  # another thread iterates, and comes to the end itself
                frames.close()

    def stop(self) -> None:
        """Ask the run to end: what is under way is finished and written. Any thread may call it."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """True once `stop` was called."""
        return self._stop.is_set()

    @property
    def has_window(self) -> bool:
        """Some sink needs the main thread."""
        return self._outputs.has_window

    @property
    def failed_sinks(self) -> dict[str, SinkError]:
        """The sinks that ended early, and why; what a callable raised is the error's `__cause__`."""
        return self._outputs.failed

    def report(self) -> Report:
        """What was counted so far."""
        return self.statistics.report()

    def run(self) -> Report:
        """Run to the end of the sources or until `stop`, then return the report."""
        for _ in self:
            pass
        return self.report()

    def __iter__(self) -> Iterator[FusedFrame]:
        if self._frames is not None:
            raise RuntimeError("a Pipeline runs once; make another one")
        frames = self._drive()
        # Not kept: a loop that is left without a `with` block lets go of the run, which ends it.
        self._frames = weakref.ref(frames)
        return frames

    def _drive(self) -> Generator[FusedFrame, None, None]:
        restore_threads = use_threads(self._config.worker.threads)
        keep_freed_memory()
        try:
            self._open()
            yield from self._run_live() if self.live else self._run_offline()
        finally:
            self._outputs.close()
            restore_threads()

    def _reader(self, stream: Stream, component: Component) -> FrameReader:
        source = SOURCES.load(component.kind)(component.options, clock=self._clock)
        return FrameReader(
            source,
            stream=stream,
            options=component.options,
            kind=component.kind,
            clock=self._clock,
            pace=self._pace,
        )

    def _open(self) -> None:
        try:
            if not self.live:
                self._offset = self._recorded_offset()
            for stream, reader in self._readers.items():
                self.infos[stream] = reader.open()
            driver = "vis" if self._config.pairing.driver == "auto" else self._config.pairing.driver
            self._prepare()
            self._outputs.start(fps=self.infos[driver].fps)
        except BaseException:
            self._close_readers()
            raise

    def _prepare(self) -> None:
        """Have the worker ready before the first frame, where it is known what comes and worth it."""
        rig, infos = self._calibration, [self.infos[stream] for stream in STREAMS]
        ir_size, vis_size = (
            [(info.width, info.height) for info in infos] if rig is None else (rig.ir_size, rig.vis_size)
        )
        by_name = self._config.worker.backend not in ("auto", "eager")
        if all(ir_size + vis_size) and (by_name or any(info.frame_count != 1 for info in infos)):
            backend = self._worker.prepare(ir_size=ir_size, vis_size=vis_size)
            self.statistics.tell_backend(backend)

    def _close_readers(self) -> None:
        for reader in self._readers.values():
            reader.close()

    def _deliver(self, frame: FusedFrame) -> None:
        self._outputs.put(frame)
        self._stop_without_sinks()

    def _show(self, frame: FusedFrame) -> None:
        if not self._swap_checked:
            self._warn_if_swapped()
        self._outputs.show(frame)
        self._stop_without_sinks()

    def _stop_without_sinks(self) -> None:
        if self._outputs.all_failed:
            self._stop.set()

    def _pump(self) -> None:
        if not self._outputs.pump():
            self._stop.set()

    def _core(self, matcher: Matcher, offset: OffsetInUse | None) -> FusionCore:
        options, ladder = self._config.pipeline, None
        if self.live and options.ladder:
            ladder = Ladder(budget_ns=self._budget_ns, reuse_frames=options.reuse_frames)
        return FusionCore(
            matcher,
            self._worker,
            live=self.live,
            budget_ns=self._budget_ns,
            clock=self._clock,
            statistics=self.statistics,
            offset=offset,
            ladder=ladder,
            sink_lag_ns=lambda: self._outputs.lag_ns,
        )

    def _matcher(self) -> Matcher:
        return Matcher(self._config.pairing, live=self.live, default_driver="vis")

    @property
    def _budget_ns(self) -> int:
        return round(self._config.pipeline.latency_budget_ms * NS_PER_MS)

    @property
    def _auto_offset(self) -> bool:
        return self._config.pairing.offset_ms == "auto"

    def _recorded_offset(self) -> OffsetInUse | None:
        """The offset of the two recordings, read once before the run, when asked for."""
        if not self._auto_offset:
            return None
        recorded = measure_recording(self._config, clock=self._clock)
        overall = recorded.measurement.overall
        self.statistics.tell_offset(**described(overall))
        if overall.offset_s is None:
            text = f"time offset {overall.status}: {overall.reason}; none is used"
            log.warning(text)
            self.statistics.note(text)
        return recorded

    def _run_offline(self) -> Iterator[FusedFrame]:
        core = self._core(self._matcher(), self._offset)
        # Pictures that a caller's own code makes are made on the caller's thread, when they are needed.
        ahead = {
            stream: ReadAhead(reader)
            for stream, reader in self._readers.items()
            if getattr(self._config, stream).kind != "python"
        }
        try:
            for frame in run_offline(core, {**self._readers, **ahead}):
                self._deliver(frame)
                self._show(frame)
                self._pump()
                yield frame
                if self._stop.is_set():
                    break
        finally:
            core.finish()
            for thread in ahead.values():
                thread.close()
            self._close_readers()

    def _run_live(self) -> Iterator[FusedFrame]:
        slots: deque[FusedFrame] = deque()
        arrived = threading.Condition()
        matcher = self._matcher()
        wait = WaitBudget(self._budget_ns)
        matcher.wait_budget_ns = wait.wait_ns
        offset: LiveOffset | None = None
        if self._auto_offset:
            offset = LiveOffset(
                self._calibration,
                tell=lambda estimate: self.statistics.tell_offset(**described(estimate)),
            )

        def deliver(frame: FusedFrame) -> None:
            wait.observe(frame)
            matcher.wait_budget_ns = wait.wait_ns
            if offset is not None:
                offset.learn_geometry(frame)
            self._deliver(frame)
            with arrived:
                if len(slots) >= OUTPUT_SLOTS:
                    slots.popleft()
                    self.statistics.sink_drop("iterator", DropCause.SINK_FULL)
                slots.append(frame)
                arrived.notify()

        runner: LiveRunner
        captures = {
            stream: CaptureThread(
                reader,
                options=getattr(self._config, stream).options.reconnect,
                capacity=self._config.pipeline.ring,
                clock=self._clock,
                notify=lambda: runner.wake(),
                tell=self.statistics.note,
            )
            for stream, reader in self._readers.items()
        }
        runner = LiveRunner(
            self._core(matcher, offset),
            captures,
            deliver,
            stop_asked=self._stop.is_set,
            clock=self._clock,
        )
        if offset is not None:
            offset.start()
        runner.start()
        try:
            while not self._stop.is_set():
                with arrived:
                    arrived.wait_for(lambda: slots, timeout=PUMP_MS / 1000)
                    frame = slots.popleft() if slots else None
                if frame is not None:
                    self._show(frame)
                    yield frame
                elif not runner.running:
                    break
                self._pump()
        finally:
            if not runner.stop():
                text = "the fusing thread did not end and was left behind; its last frames are not counted"
                log.warning(text)
                self.statistics.note(text)
            if offset is not None:
                offset.stop()
        yield from slots
        if runner.error is not None:
            raise runner.error

    def _warn_if_swapped(self) -> None:
        ir, vis = self._readers["ir"].first_picture, self._readers["vis"].first_picture
        if ir is None or vis is None:
            return
        self._swap_checked = True
        if ir.dtype == vis.dtype == np.uint8 and looks_swapped(ir, vis):  # type: ignore[arg-type]
            text = "infrared and visible look swapped: the 'ir' source looks like a colour camera's picture"
            log.warning(text)
            self.statistics.note(text)
