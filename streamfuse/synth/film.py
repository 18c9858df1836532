"""One camera at work: a scene, a schedule and a frame code put together."""

import numpy as np

from streamfuse.clock import NS_PER_S
from streamfuse.frame import Image8, Image16, Stream
from streamfuse.synth.code import burn_code
from streamfuse.synth.options import CodeOptions, RigOptions, SceneOptions, TimingOptions
from streamfuse.synth.scene import Scene
from streamfuse.synth.schedule import Capture, Schedule
from streamfuse.synth.sensors import to_counts

CODE_CELSIUS = (6.0, 26.0)
"""Of the black and white squares in counts: within the span of a street, so that no AGC is upset."""


class Film:
    """The pictures of one stream, frame code included.

    Each film may be used from a thread of its own.

    Args:
        start_s: time of the scene at which the schedule begins.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        scene: SceneOptions,
        rig: RigOptions,
        timing: TimingOptions,
        code: CodeOptions,
        start_s: float = 0.0,
    ) -> None:
        self.scene = Scene(scene, rig)
        self.schedule = Schedule(timing, stream)
        self.stream: Stream = stream
        self._start_s = start_s
        self._code = code
        self.width, self.height = (
            (rig.ir_width, rig.ir_height) if stream == "ir" else (rig.vis_width, rig.vis_height)
        )

    def scene_time(self, capture: Capture) -> float:
        """Time of the scene at which a picture was taken, seconds."""
        return self._start_s + capture.t_true

    def picture(self, capture: Capture) -> Image8 | Image16:
        """What the camera delivered: visible uint8 (H, W, 3), infrared counts uint16 (H, W).

        Repeats of a picture are the same but for the noise of the read-out.
        """
        t_s = self.scene_time(capture)
        noise_ns = round((t_s + capture.t_sent - capture.t_true) * NS_PER_S)
        if self.stream == "vis":
            image = self.scene.render_visible(t_s, noise_ns=noise_ns)
            if self._code.enabled:
                burn_code(image, capture.number, corner=self._code.vis_corner)
            return image
        counts = self.scene.render_infrared(t_s, noise_ns=noise_ns)
        if self._code.enabled:
            black, white = (to_counts(celsius) for celsius in CODE_CELSIUS)
            burn_code(counts, capture.number, corner=self._code.ir_corner, black=black, white=white)
        return counts

    def grey(self, capture: Capture) -> Image8:
        """As `picture`, infrared as the 8-bit view: uint8 (H, W, 3) or (H, W)."""
        image = self.picture(capture)
        if self.stream == "ir":
            image = self.scene.infrared_view(image.astype(np.uint16, copy=False))
        return image.astype(np.uint8, copy=False)
