"""Which pass a frame gets. Pure policy: it knows the frames that have come back, not those under way.

The guards, the key frames and the growing intervals between tries are those of `registration.temporal`. What
differs is when the device's answers are known: two frames later. And a key frame is searched whole with its
refinement, not piece by piece beside the frames after it: here that makes no frame late.
"""

from collections.abc import Collection
from typing import NamedTuple

from streamfuse.device.program import Pass
from streamfuse.frame import Image8, Rung
from streamfuse.registration.options import TemporalOptions
from streamfuse.registration.scene_watch import SceneWatch
from streamfuse.registration.temporal import GAP_NS, Event


class Choice(NamedTuple):
    """What is done for a frame, whether the past is forgotten before it, and what there is to tell."""

    which: Pass
    forget: bool
    events: tuple[Event, ...]


class Schedule:
    """Decides for one frame after the other: `choose` when it goes in, `learn` when it has come back.

    A frame whose past is dropped is searched for from scratch. Until a field has come back that is used, and
    at growing intervals while none is, frames get a refinement and a search; else a refinement, at half the
    cost.
    """

    def __init__(self, options: TemporalOptions) -> None:
        self._options = options
        self._watches = {"ir": SceneWatch(), "vis": SceneWatch()}
        self._before: tuple[int, tuple[int, int]] | None = None
        self._under_way = 0
        self._outdated = 0
        self.reset()

    def reset(self, cause: Event = Event.FIRST) -> None:
        """The next frame starts from nothing."""
        self._cause: Event | None = cause
        self._trusted = False
        self._since_key = 0
        self._wait = self._next_wait = 0

    def look(self, ir: Image8, vis: Image8, *, t_ns: int, epochs: tuple[int, int]) -> None:
        """Ask the guards, before a frame goes in; arguments as of `TemporalRegistration.look`."""
        if not self._options.temporal:
            self.reset()
            return
        cuts = {stream: self._watches[stream].cut(image) for stream, image in (("ir", ir), ("vis", vis))}
        before, self._before = self._before, (t_ns, epochs)
        if before is None:
            return
        if before[1] != epochs:
            self.reset(Event.EPOCH)
        elif abs(t_ns - before[0]) > GAP_NS:
            self.reset(Event.TIME_GAP)
        elif cuts["vis"]:
            self.reset(Event.SCENE_CUT_VIS)
        elif cuts["ir"]:
            self.reset(Event.SCENE_CUT_IR)

    def choose(self, rung: Rung, passes: Collection[Pass]) -> Choice:
        """What the next frame gets.

        Args:
            rung: `full`: as said above. `refine`: a refinement, even of nothing. Below, as they say.
            passes: those that can be run.
        """
        cause, self._cause = self._cause, None
        if cause is not None:
            self._outdated = self._under_way  # what is under way tells nothing about what comes
        self._under_way += 1
        which, events = self._pass(rung, passes, cause)
        return Choice(which, cause is not None, events)

    def _pass(
        self, rung: Rung, passes: Collection[Pass], cause: Event | None
    ) -> tuple[Pass, tuple[Event, ...]]:
        started = () if cause is None else (cause,)
        if Pass.COLD not in passes or rung is Rung.CALIBRATION:
            return Pass.CALIBRATION, ()
        if rung is Rung.REUSE:
            return Pass.REUSE, (Event.REUSED,)
        if Pass.WARM not in passes:
            return (Pass.COLD, started) if rung is Rung.FULL else (Pass.REUSE, (Event.REUSED,))
        if rung is Rung.REFINE:
            return Pass.WARM, ()
        if cause is not None:
            return Pass.COLD, started
        self._since_key += 1
        if self._since_key >= self._options.key_interval:
            self._since_key = 0
            return Pass.KEY, (Event.KEY_FRAME,)
        if self._trusted:
            return Pass.WARM, ()
        if self._wait > 0:
            self._wait -= 1
            return Pass.WARM, ()
        return Pass.AGAIN, ()

    def learn(self, which: Pass, used: bool) -> bool:
        """What a frame that came back found: whether its field was to be trusted. In order of `choose`.

        Returns:
            Whether it belongs to the past that goes on.
        """
        self._under_way -= 1
        if self._outdated:
            self._outdated -= 1
            return False
        if which not in (Pass.REUSE, Pass.CALIBRATION):
            self._trusted = used
            if used:
                self._wait = self._next_wait = 0
            elif which is Pass.AGAIN:
                self._next_wait = min(2 * self._next_wait + 1, self._options.key_interval)
                self._wait = self._next_wait
        return True
