"""Several rigs on one device: who goes with whom, and that nobody can tell from the pictures."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from device_rigs import CALIBRATIONS, VIS_SIZE, Clip, film, in_turns, pairs, thinned_pairs
from device_streams import Events, pretend_cuda

from streamfuse.calibration.calibration import RigCalibration
from streamfuse.clock import NS_PER_MS, VirtualClock
from streamfuse.config import Component, WorkerOptions
from streamfuse.device.batching import Batching, Waiting
from streamfuse.device.chain import Chain
from streamfuse.device.layout import Field, Layout
from streamfuse.device.program import Pass, Work
from streamfuse.device.share import DeviceShare
from streamfuse.device.worker import DeviceWorker
from streamfuse.frame import FusedFrame
from streamfuse.fusion import FUSERS
from streamfuse.registration import REGISTRARS

MS = NS_PER_MS
WARM, COLD = Work(Pass.WARM), Work(Pass.COLD)
LIVE = Component("live", REGISTRARS.load("live").Options(precision="float32"))
NONE = Component("none", REGISTRARS.load("none").Options())
MAX = Component("max", FUSERS.load("max").Options())
LAPLACIAN = Component("laplacian", FUSERS.load("laplacian").Options())


# -- policy ----------------------------------------------------------------------------------------


def costs(work: Work, size: int) -> int:
    """A batch of four takes twice as long as one frame."""
    return {1: 10, 2: 14, 4: 20}[size] * MS


def at(rig: int, latest_ms: float, work: Work = WARM) -> Waiting:
    return Waiting(rig, work, round(latest_ms * MS))


@pytest.mark.parametrize(
    ("waiting", "chosen"),
    [
        ([at(0, 100)], [0]),
        ([at(0, 100), at(1, 90)], [1, 0]),
        ([at(0, 100), at(1, 90), at(2, 80)], [2, 1]),
        ([at(rig, 100) for rig in range(5)], [0, 1, 2, 3]),
        ([at(0, 100), at(0, 50), at(1, 90)], [2, 0]),  # a rig's frames in their order, one a batch
        ([at(0, 100), at(1, 90, COLD)], [1]),
        ([at(0, 100), at(1, 90, COLD), at(2, 110)], [1]),
    ],
)
def test_the_most_urgent_frame_takes_along_what_gets_the_same_work(
    waiting: list[Waiting], chosen: list[int]
) -> None:
    assert Batching(5, cost_ns=costs).choose(waiting, now_ns=0, busy_ns=0) == chosen


@pytest.mark.parametrize(
    ("latest_ms", "size"), [(100, 4), (19, 2), (13, 1), (5, 4)]
)  # the last is late even alone
def test_no_frame_is_late_for_the_sake_of_others(latest_ms: float, size: int) -> None:
    waiting = [at(0, latest_ms), *(at(rig, 100) for rig in range(1, 4))]
    assert len(Batching(4, cost_ns=costs).choose(waiting, now_ns=0, busy_ns=0)) == size


def test_a_batch_that_saves_no_time_is_not_made() -> None:
    batching = Batching(2, cost_ns=lambda work, size: size * 10 * MS + (size > 1))
    assert batching.choose([at(0, 100), at(1, 100)], now_ns=0, busy_ns=0) == [0]


@pytest.mark.parametrize(("budget_ms", "largest"), [(22, 1), (25, 2), (32, 4), (200, 4)])
def test_a_rig_waits_for_others_no_longer_than_its_budget_allows(budget_ms: int, largest: int) -> None:
    """Four recordings keep the device as busy as they are let, beside a rig at 20 fps; played on a clock.

    Two batches are under way at a time, as in the ring. The recordings still get on.
    """
    batching = Batching(5, cost_ns=costs)
    live, waiting, running = 4, [], []  # running: when each batch ends
    took_ns: list[int] = []
    done, sizes = Counter[int](), Counter[int]()
    came_ns: dict[Waiting, int] = {}
    for tick in range(8000):
        now_ns = tick * MS // 4
        running = [end_ns for end_ns in running if end_ns > now_ns]
        coming = [Waiting(live, WARM, now_ns + budget_ms * MS)] if tick % 200 == 50 else []
        queued = {frame.rig for frame in waiting}
        coming += [Waiting(rig, WARM, now_ns + 1000 * MS) for rig in range(4) if rig not in queued]
        for frame in coming:
            batching.came(frame, now_ns=now_ns)
            came_ns[frame] = now_ns
        waiting += coming
        while waiting and len(running) < 2:
            free_ns = max(running, default=now_ns)
            places = batching.choose(waiting, now_ns=now_ns, busy_ns=free_ns - now_ns)
            if not places:
                break
            running.append(free_ns + costs(WARM, len(places)))
            batch = [waiting[place] for place in places]
            waiting = [frame for frame in waiting if frame not in batch]
            sizes[len(batch)] += 1
            done.update(frame.rig for frame in batch)
            took_ns += [running[-1] - came_ns[frame] for frame in batch if frame.rig == live]
    assert len(took_ns) == 40
    # The first frame of a rig is not reckoned with before it came.
    assert max(took_ns[1:]) <= budget_ms * MS
    assert sizes.most_common(1)[0][0] == largest
    assert min(done[rig] for rig in range(4)) > 30


# -- the chain -------------------------------------------------------------------------------------


class Tenfold:
    """A program for three rigs: ten times the frame, plus the row of its rig, when its turn comes."""

    works = (WARM, COLD)
    inputs = Layout(rig=Field(torch.int64, (1,)), x=Field(torch.int64, (3,)))
    outputs = Layout(y=Field(torch.int64, (3,)))
    rigs = SimpleNamespace(count=3, set=lambda row, calibration: None)

    def __init__(self, world: Events) -> None:
        self._world = world

    def reset(self) -> None:
        pass

    def run(self, work: Work, inputs: Any, outputs: Any) -> None:
        x, rows, y = inputs["x"].numpy(), inputs["rig"].numpy(), outputs["y"].numpy()
        self._world.later(lambda: np.copyto(y, 10 * x + rows))


@contextmanager
def not_recorded(graph: Any, **_: Any) -> Iterator[None]:
    raise RuntimeError("no graphs here")
    yield


@pytest.mark.parametrize("seed", range(6))
def test_frames_of_rigs_find_back_whatever_overtakes_what(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """On streams that run late, three rigs send and collect at random, one of them less and less."""
    rng = np.random.default_rng(seed)
    world = Events(rng)
    pretend_cuda(monkeypatch, world)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", not_recorded)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    chain = Chain(Tenfold(world), SimpleNamespace(type="cuda"), clock=VirtualClock())  # type: ignore[arg-type]
    seats = [chain.take_seat(CALIBRATIONS["resize"](1)) for _ in range(3)]
    sent, back = [0, 0, 0], [0, 0, 0]

    def collect(rig: int) -> None:
        results, size = seats[rig].collect()
        assert size in (1, 2)
        np.testing.assert_array_equal(results["y"], 10 * back[rig] + seats[rig].row)
        back[rig] += 1

    for turn in range(150):
        rig = int(rng.choice(3, p=[0.4, 0.4, 0.2] if turn < 75 else [0.5, 0.5, 0.0]))
        if len(seats[rig]) and (seats[rig].full or rng.random() < 0.3):
            collect(rig)
        else:
            work = WARM if rng.random() < 0.8 else COLD
            seats[rig].submit({"x": np.full(3, sent[rig])}, work, latest_ns=int(rng.integers(10**9)))
            sent[rig] += 1
    for rig in range(3):
        while len(seats[rig]):
            collect(rig)
    assert back == sent
    assert chain.batches[2] > 0


# -- the pictures ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip() -> Clip:
    return film(frames=6, interval_s=1 / 30)


def other_rig() -> RigCalibration:
    matrix = np.array([[0.49, -0.008, 3], [0.012, 0.51, -1], [-3e-5, 2e-5, 1]])
    return RigCalibration.from_matrix(matrix, ir_size=(160, 120), vis_size=VIS_SIZE)


def rig(share: DeviceShare | None, calibration: RigCalibration, **how: Any) -> DeviceWorker:
    chosen = {"registration": NONE, "fusion": LAPLACIAN, "motion": "causal", **how}
    options = WorkerOptions(device="cpu", key_interval=3)
    return DeviceWorker(**chosen, device="cpu", calibration=calibration, options=options, share=share)


@pytest.mark.parametrize("registration", [LIVE, NONE], ids=["live", "none"])
@pytest.mark.parametrize("name", ["homography", "lenses"])
def test_rigs_that_go_together_get_what_they_get_alone(
    clip: Clip, registration: Component, name: str
) -> None:
    """Two rigs with calibrations and pictures of their own: the same but for the order of sums.

    With the fuser `max`: where `laplacian` finds both sources equally active, one grey level decides for all.
    """
    forth = thinned_pairs(clip, "causal")
    back = thinned_pairs(Clip(clip.ir[::-1], clip.vis[::-1]), "causal")
    calibrations = CALIBRATIONS[name](1), other_rig() if name == "homography" else CALIBRATIONS[name](1)
    share = DeviceShare(2)
    how = {"registration": registration, "fusion": MAX}
    shared = [rig(share, calibration, **how) for calibration in calibrations]
    together = in_turns(shared, [forth, back])
    assert share.batches[2] >= 2
    for calibration, film_of_it, batched in zip(calibrations, (forth, back), together, strict=True):
        alone = in_turns([rig(None, calibration, **how)], [film_of_it])[0]
        assert [frame.seq for frame in batched] == [frame.seq for frame in alone]
        for one, other in zip(alone, batched, strict=True):
            assert (other.status, other.warm, other.extra) == (one.status, one.warm, one.extra)
            assert other.confidence == pytest.approx(one.confidence, abs=1e-4)
            for a, b in ((one.registered_ir, other.registered_ir), (one.image, other.image)):
                assert np.abs(a.astype(int) - b).max() <= 1
                assert (a != b).mean() < 1e-2  # what a field 0.005 px apart moves across a rounding
            if one.registration.flow is not None:
                assert other.registration.flow is not None
                np.testing.assert_allclose(other.registration.flow, one.registration.flow, atol=5e-3)


def test_rigs_of_different_kinds_do_not_mix(clip: Clip) -> None:
    share = DeviceShare(2)
    workers = [rig(share, CALIBRATIONS["homography"](1)), rig(share, CALIBRATIONS["lenses"](1))]
    films = [list(pairs(clip)), list(pairs(clip))]
    assert [len(done) for done in in_turns(workers, films)] == [len(clip.ir)] * 2
    assert set(share.batches) == {1}


def test_a_rig_that_dies_with_frames_under_way_blocks_nobody(clip: Clip) -> None:
    """Its frames were sent and are never asked for."""
    share = DeviceShare(2)
    dead, living = (rig(share, CALIBRATIONS["homography"](1)) for _ in range(2))
    some = list(pairs(clip))
    for seq, pair in enumerate(some[:2]):
        dead.submit(pair, seq=seq)
    assert [frame.seq for frame in in_turns([living], [some])[0]] == list(range(len(some)))


def test_what_goes_wrong_on_the_device_is_told_to_those_it_concerns(clip: Clip) -> None:
    """The first frame of each rig fails by itself; those after it come out."""
    share = DeviceShare(2)
    workers = [rig(share, CALIBRATIONS["homography"](1)) for _ in range(2)]
    some = list(pairs(clip))
    for worker in workers:
        worker.prepare(ir_size=(160, 120), vis_size=VIS_SIZE)
    assert workers[0]._seat is not None
    recordings = workers[0]._seat.chain.recordings
    whole = dict(recordings)

    def fails() -> None:
        raise RuntimeError("the device is gone")

    recordings.update(dict.fromkeys(recordings, fails))
    for worker in workers:
        worker.submit(some[0], seq=0)
    recordings.update(whole)
    for worker in workers:
        with pytest.raises(RuntimeError, match="the device is gone"):
            worker.drain()
        assert worker.process(some[1], seq=1).seq == 1


def test_rigs_on_threads_of_their_own_get_their_own_frames(clip: Clip) -> None:
    share = DeviceShare(3)
    wanted = in_turns([rig(None, CALIBRATIONS["homography"](1), motion="off")], [list(pairs(clip)) * 3])[0]
    workers = [rig(share, CALIBRATIONS["homography"](1), motion="off") for _ in range(3)]
    done: dict[int, list[FusedFrame]] = {}

    def drive(i: int) -> None:
        done[i] = in_turns([workers[i]], [list(pairs(clip)) * 3])[0]

    threads = [threading.Thread(target=drive, args=(i,), name=f"streamfuse-{i}") for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(3):
        assert [frame.seq for frame in done[i]] == list(range(len(wanted)))
        for one, other in zip(wanted, done[i], strict=True):
            assert (other.image != one.image).mean() < 1e-3


def test_a_seat_and_a_chain_are_given_back(clip: Clip) -> None:
    """Pictures of another size: the rig takes a seat in another chain, and the first one goes."""
    share = DeviceShare(1)
    worker = DeviceWorker(NONE, LAPLACIAN, device="cpu", options=WorkerOptions(device="cpu"), share=share)
    for size in ((320, 240), (160, 120), (320, 240)):
        worker.prepare(ir_size=(80, 60), vis_size=size)
        assert len(share._chains) == 1
