"""Small valid frames for tests of everything downstream of fusion."""

from fractions import Fraction

import cv2
import numpy as np

from streamfuse.clock import NS_PER_S
from streamfuse.frame import Frame, FramePair, FusedFrame, Image8, Registration, Rung, Status, Stream


def picture(index: int = 0, *, width: int = 64, height: int = 48) -> Image8:
    """A smooth colour picture that differs from one index to the next: uint8 (H, W, 3) RGB."""
    seed = np.random.default_rng(7).integers(20, 236, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    image = cv2.resize(np.roll(seed, index, axis=1), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(image)


def fused_frame(
    index: int = 0,
    *,
    image: Image8 | None = None,
    width: int = 64,
    height: int = 48,
    pts: int | None = None,
    time_base: Fraction | None = None,
    fps: int = 30,
    t_capture: int | None = None,
    t_arrival: int | None = None,
    live: bool = False,
    epoch: int = 0,
    driver: Stream = "vis",
    with_ir: bool = True,
    status: Status = Status.OK,
    reason: str = "",
    confidence: float = 0.9,
    rung: Rung = Rung.FULL,
    latencies_ns: dict[str, int] | None = None,
    dropped: dict[str, int] | None = None,
    name: str = "",
) -> FusedFrame:
    """A consistent fused frame; by default number `index` of a clip at `fps` with a time base of 1/15360.

    live: stamped by arrival, without presentation stamps; otherwise read a second after its media time. The
    left quarter has no infrared.
    """
    fused = picture(index, width=width, height=height) if image is None else image
    height, width = fused.shape[:2]
    if time_base is None:
        time_base = Fraction(1, 15360)
    if pts is None:
        pts = round(Fraction(index, fps) / time_base)
    if t_capture is None:
        t_capture = round(pts * time_base * NS_PER_S)
    stamps = {
        "t_capture": t_capture,
        "t_arrival": t_capture + (0 if live else NS_PER_S) if t_arrival is None else t_arrival,
        "pts": None if live else pts,
        "time_base": None if live else time_base,
        "epoch": epoch,
        "stamp_source": "arrival" if live else "file_pts",
        "name": name,
    }
    infrared = np.ascontiguousarray(255 - fused[..., 1])
    valid = np.full((height, width), 255, np.uint8)
    valid[:, : width // 4] = 0
    vis = Frame(stream="vis", image=np.ascontiguousarray(fused[..., ::-1]), seq=index, **stamps)
    ir = Frame(stream="ir", image=infrared, seq=index, **stamps) if with_ir else None
    return FusedFrame(
        image=fused,
        seq=index,
        t_capture=t_capture,
        pair=FramePair(vis=vis, ir=ir, driver=driver, window_ns=20_000_000),
        registered_ir=infrared,
        valid=valid,
        registration=Registration(status=status, reason=reason, confidence=confidence, matrix=np.eye(3)),
        rung=rung,
        latencies_ns=latencies_ns or {},
        dropped=dropped or {},
    )
