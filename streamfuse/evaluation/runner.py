"""Evaluate sets of pictures or clips: read, judge in parallel, collect."""

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Self, get_args

from streamfuse.errors import ConfigError
from streamfuse.evaluation.judge import (
    TRIVIAL_FUSIONS,
    UNREGISTERED,
    Case,
    Plan,
    Scores,
    judge,
    make_plan,
)
from streamfuse.evaluation.reading import Shot, read_clip, read_shot
from streamfuse.evaluation.results import Evaluation, SetResult
from streamfuse.evaluation.samples import Sample, make_sample, spread, spread_indices
from streamfuse.evaluation.sets import VIS, EvaluationSet, Item, Material, Stream, find_material
from streamfuse.frame import Image8
from streamfuse.metrics.panel import Family, temporal_panel
from streamfuse.metrics.picture import Picture
from streamfuse.metrics.temporal import SteadinessMeter, visible_motion

FAMILIES: tuple[Family, ...] = get_args(Family)
EVERY = 10
"""Of a clip every tenth frame gets the picture metrics: neighbours differ little, a frame costs a second."""
SAMPLES = 6

Progress = Callable[[str, int, int | None], None]
"""Told the set, how many items of it are judged, and how many there are (None: not known yet)."""
Judged = tuple[str, Scores, Sample | None]
Task = Callable[[], Judged]


def silent(name: str, done: int, total: int | None) -> None:
    """Progress that nobody watches."""


def evaluate(
    sets: Mapping[str, EvaluationSet],
    *,
    families: Collection[Family] = FAMILIES,
    trivial: bool = True,
    frames: bool = False,
    common: bool = False,
    every: int = EVERY,
    samples: int = SAMPLES,
    jobs: int | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Judge every method of every set, and the trivial methods beside them.

    Args:
        sets: name -> what belongs to it.
        families: which metrics. `temporal` applies to clips; `registration` and `epe` where truth is known.
        trivial: add copy-visible, copy-ir, max and average.
        frames: the pictures of a folder are the frames of one clip.
        common: judge the stems that all streams of a set have; without it an unpaired stem is an error.
        every: of a clip, every n-th frame gets the picture metrics; the temporal ones take all frames.
        samples: so many items a set are kept as pictures.
        jobs: pictures judged at a time; None: one a core.

    Raises:
        DataError: files are missing, unpaired, of different size or unreadable.
        ConfigError: a method has the name of a trivial one.
    """
    materials = {}
    for name, one in sets.items():
        for method in (*one.fused, *one.registered, *one.flow):
            if method in (*TRIVIAL_FUSIONS, UNREGISTERED):
                raise ConfigError(f"{method!r} is the name of a trivial method; call yours something else")
        materials[name] = find_material(one, frames=frames, common=common)
    results = []
    with Judges(jobs) as judges:
        for name, material in materials.items():
            plan = make_plan(material.streams, unregistered=_is_unregistered(sets[name]), trivial=trivial)
            run = _Run(name, material, plan, families, every, samples, judges, progress)
            results.append(run.pictures() if material.kind == "pictures" else run.clips())
    return Evaluation(tuple(results))


def _is_unregistered(one: EvaluationSet) -> bool:
    if one.ir_truth is not None:
        return one.ir.resolve() != one.ir_truth.resolve()
    return one.flow_truth is not None


def judge_shot(
    name: str, shot: Shot, plan: Plan, families: Collection[Family], *, keep: bool = False
) -> Judged:
    """Score one shot, and make a sample of it when it is to be kept."""
    case = Case(shot, plan)
    return name, judge(case, families), make_sample(name, case) if keep else None


class Judges:
    """Judges shots in threads, a few ahead of the results at most: decoded frames are large."""

    def __init__(self, jobs: int | None = None) -> None:
        jobs = jobs or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(jobs, thread_name_prefix="streamfuse-eval")
        self._ahead = 2 * jobs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def collect(
        self,
        tasks: Iterable[Task],
        result: SetResult,
        *,
        total: int | None = None,
        progress: Progress = silent,
    ) -> list[Sample]:
        """Run all tasks, put their scores into `result` in order, and return the samples."""
        ahead: deque[Future[Judged]] = deque()
        samples: list[Sample] = []

        def take() -> None:
            name, scores, sample = ahead.popleft().result()
            result.items.append(name)
            result.add(name, scores)
            samples.extend([sample] if sample is not None else [])
            progress(result.name, len(result.items), total)

        for task in tasks:
            ahead.append(self._pool.submit(task))
            if len(ahead) > self._ahead:
                take()
        while ahead:
            take()
        return samples


class _Run:
    """One set being judged."""

    def __init__(
        self,
        name: str,
        material: Material,
        plan: Plan,
        families: Collection[Family],
        every: int,
        samples: int,
        judges: Judges,
        progress: Progress,
    ) -> None:
        self._material = material
        self._plan = plan
        self._families = families
        self._every = every
        self._samples = samples
        self._judges = judges
        self._progress = progress
        methods = dict.fromkeys((*plan.fused, *plan.registered, *plan.flows))
        self._result = SetResult(name, material.kind, tuple(methods))

    def pictures(self) -> SetResult:
        """Judge independent pictures."""
        items = self._material.items
        shown = set(spread_indices(len(items), self._samples))

        def task(item: Item, keep: bool) -> Task:
            return lambda: judge_shot(item.name, read_shot(item), self._plan, self._families, keep=keep)

        tasks = (task(item, index in shown) for index, item in enumerate(items))
        samples = self._judges.collect(tasks, self._result, total=len(items), progress=self._progress)
        self._result.samples = tuple(samples)
        return self._result

    def clips(self) -> SetResult:
        """Judge clips: some frames as pictures, all of them for steadiness."""
        kept: list[Sample] = []
        for item in self._material.items:
            samples = self._judges.collect(self._clip_tasks(item), self._result, progress=self._progress)
            kept += spread(samples, self._samples)
        self._result.samples = spread(kept, self._samples)
        return self._result

    def _clip_tasks(self, clip: Item) -> Iterator[Task]:
        steadiness = _ClipSteadiness(self._plan) if "temporal" in self._families else None
        for number, shot in enumerate(read_clip(clip)):
            if steadiness is not None:
                steadiness.add(Case(shot, self._plan))
            if number % self._every == 0:
                name, keep = f"{clip.name}/{shot.name}", self._samples > 0
                yield partial(judge_shot, name, shot, self._plan, self._families, keep=keep)
        if steadiness is not None:
            self._result.add(clip.name, steadiness.scores())


class _ClipSteadiness:
    """Steadiness of every row of one clip. Rows fused from one infrared stream share a reference."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._meters: dict[Stream, SteadinessMeter] = {
            stream: SteadinessMeter() for stream in plan.inputs.values()
        }
        self._previous: Picture | None = None

    def add(self, case: Case) -> None:
        visible = case.grey[VIS]
        motion = visible_motion(self._previous, visible) if self._previous is not None else None
        for stream, meter in self._meters.items():
            fused: dict[str, Image8] = {
                row: case.fused(row).pixels for row, source in self._plan.inputs.items() if source == stream
            }
            meter.add(case.grey[stream].pixels, visible.pixels, fused, motion=motion)
        self._previous = visible

    def scores(self) -> Scores:
        return {
            row: {"temporal": temporal_panel(steadiness)}
            for meter in self._meters.values()
            for row, steadiness in meter.result().items()
            if steadiness.frames > 1
        }
