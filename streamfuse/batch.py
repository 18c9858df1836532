"""Many clips or pictures, one after the other or side by side, resumable.

A finished output stands under its own name; one under way is called `partial.<name>` and is renamed when
complete. So whatever exists is whole, a killed batch goes on where it was, and no bookkeeping file can
disagree with what lies on disk.
"""

import multiprocessing
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamfuse.errors import ConfigError, DataError, StreamfuseError
from streamfuse.inputs import Inputs, Job
from streamfuse.outputs import place

if TYPE_CHECKING:
    from streamfuse.frame import FusedFrame

PARTIAL = "partial."


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One output to be made. `settings`: the configuration tree without sources and sinks."""

    job: Job
    output: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    start_s: float | None = None
    end_s: float | None = None
    pictures: bool = False

    @property
    def partial(self) -> Path:
        return self.output.with_name(PARTIAL + self.output.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a task; `error` is empty when it was done."""

    name: str
    frames: int = 0
    fps: float = 0.0
    error: str = ""


def parse_shard(text: str) -> tuple[int, int]:
    """`i/n` with 1 <= i <= n. Raises ConfigError."""
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise ConfigError(f"--shard {text}: must read i/n with 1 <= i <= n, such as 2/4")
    return int(index), int(count)


def plan(
    inputs: Inputs,
    out: Path,
    settings: Mapping[str, Any],
    *,
    container: str = "mkv",
    shard: tuple[int, int] = (1, 1),
    overwrite: bool = False,
    start_s: float | None = None,
    end_s: float | None = None,
) -> tuple[list[Task], int]:
    """The tasks of this shard that are not done yet, and how many are.

    Raises:
        ConfigError: the outputs would go among the inputs, where they pass for them.
    """
    index, count = shard
    for job in inputs.jobs:
        for spec in (job.ir, job.vis):
            if place(Path(spec).absolute().parent) == place(out):
                raise ConfigError(f"{out}: is the folder of the input {spec}; give the output another folder")
    suffix = "png" if inputs.pictures else container
    tasks = [
        Task(
            job=job,
            output=out / f"{job.name}.{suffix}",
            settings=settings,
            start_s=start_s,
            end_s=end_s,
            pictures=inputs.pictures,
        )
        for job in inputs.jobs[index - 1 :: count]
    ]
    todo = [task for task in tasks if overwrite or not task.output.exists()]
    return todo, len(tasks) - len(todo)


def clip_config(
    job: Job, settings: Mapping[str, Any], *, start_s: float | None = None, end_s: float | None = None
) -> dict[str, Any]:
    """A configuration tree for one pair of clips, its sinks those of the settings, which win.

    Raises:
        ConfigError: the settings' sources or sinks are not sections. SourceError: an input is not there.
    """
    from streamfuse.capture.spec import open_source
    from streamfuse.config import section

    tree: dict[str, Any] = deepcopy(dict(settings))
    span = {name: value for name, value in (("start_s", start_s), ("end_s", end_s)) if value is not None}
    sources, sinks = section(tree, "sources"), tree.get("sinks") or []
    if not isinstance(sinks, list):
        raise ConfigError(f"sinks: must be a list, each item with a 'kind', got {sinks!r:.40}")
    for stream, spec in (("ir", job.ir), ("vis", job.vis)):
        kind, options = open_source(spec)
        found = {"kind": kind, **options.model_dump(exclude_unset=True), **span}
        sources[stream] = {**found, **section(sources, stream, origin="sources.")}
    tree["sources"], tree["sinks"] = sources, sinks
    return tree


def run_task(task: Task) -> Outcome:
    """Make one output. A mistake or a broken input is an outcome, not an exception."""
    try:
        return _fuse_picture(task) if task.pictures else _fuse_clip(task)
    except StreamfuseError as error:
        return Outcome(name=task.job.name, error=str(error))


def _fuse_clip(task: Task) -> Outcome:
    from streamfuse.pipeline import Pipeline

    tree = clip_config(task.job, task.settings, start_s=task.start_s, end_s=task.end_s)
    tree["sinks"].append({"kind": "file", "path": str(task.partial)})
    pipeline = Pipeline.from_config(tree)
    report = pipeline.run()
    for error in pipeline.failed_sinks.values():
        raise error
    if report.frames_out == 0:
        task.partial.unlink(missing_ok=True)
        return Outcome(name=task.job.name, error="no frame could be fused")
    task.partial.replace(task.output)
    return Outcome(name=task.job.name, frames=report.frames_out, fps=report.fps)


def _fuse_picture(task: Task) -> Outcome:
    from streamfuse.pictures import write_picture

    write_picture(task.output, fuse_pictures(task.job, task.settings).image)
    return Outcome(name=task.job.name, frames=1)


def fuse_pictures(job: Job, settings: Mapping[str, Any]) -> "FusedFrame":
    """Register and fuse two picture files.

    Raises:
        SourceError: one cannot be read. DataError: one is of a type that cannot be fused. ConfigError.
    """
    from streamfuse.api import fuse_pair
    from streamfuse.pictures import read_picture

    ir, vis = read_picture(job.ir), read_picture(job.vis)
    try:
        return fuse_pair(ir, vis, settings=settings)
    except DataError as error:
        raise DataError(f"{job.ir} with {job.vis}: {error}") from error


def run_batch(tasks: Sequence[Task], *, jobs: int = 1) -> Generator[Outcome]:
    """Run all tasks, `jobs` at a time in processes of their own; outcomes as they come.

    Where the caller goes away before the end, or is interrupted, no task is begun any more, and those under
    way end unfinished.
    """
    if jobs == 1:
        for task in tasks:
            yield run_task(task)
        return
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(jobs, mp_context=context)
    try:
        futures = {pool.submit(run_task, task): task for task in tasks}
        for future in as_completed(futures):
            try:
                outcome = future.result()
            except Exception as error:  # noqa: BLE001 - a worker process that died is one failed clip
                name = futures[future].job.name
                outcome = Outcome(name=name, error=f"{type(error).__name__}: {error}")
            yield outcome
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            if process not in others:  # the caller's own
                process.terminate()
        raise
    finally:
        pool.shutdown()
