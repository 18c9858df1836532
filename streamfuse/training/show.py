"""Pictures that let a human see what a registration did."""

import cv2
import numpy as np

from streamfuse.frame import Flow, Image8
from streamfuse.registration.working import sample
from streamfuse.sampling import pixel_grid


def before_after(ir: Image8, vis: Image8, field: Flow) -> Image8:
    """Edges of the infrared (red) over those of the visible (cyan), unregistered left, registered right.

    uint8 (H, 2 W, 3) RGB; where they agree the edges are white.
    """
    registered = np.asarray(sample(ir, pixel_grid(field.shape[:2]) + field), np.uint8)
    return np.concatenate([_overlay(ir, vis), _overlay(registered, vis)], axis=1)


def _overlay(ir: Image8, vis: Image8) -> Image8:
    infrared, visible = _edges(ir), _edges(vis)
    return np.dstack([infrared, visible, visible])


def _edges(picture: Image8) -> Image8:
    smooth = cv2.GaussianBlur(picture, (0, 0), 1.0)
    magnitude = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    return np.clip(magnitude * (255 / max(float(np.percentile(magnitude, 98)), 1.0)), 0, 255).astype(np.uint8)
