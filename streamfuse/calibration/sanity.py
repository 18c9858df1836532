"""Does what claims to be infrared look like it?"""

import cv2
import numpy as np

from streamfuse.frame import Image8

COLOURED = 12
"""Spread between the colour channels that a grey picture never has: compression leaves up to about 6."""
COLOURED_SHARE = 0.02
"""A coloured picture has at least this share of clearly coloured pixels: a street at night still does."""
CHECK_SIZE = (160, 120)


def colour_share(image: Image8) -> float:
    """Share of clearly coloured pixels of a picture, 0 for grey ones. uint8 (H, W) or (H, W, 3)."""
    if image.ndim == 2:
        return 0.0
    small = cv2.resize(image, CHECK_SIZE, interpolation=cv2.INTER_AREA).astype(np.int16)
    return float(np.mean(small.max(axis=2) - small.min(axis=2) > COLOURED))


def looks_swapped(ir: Image8, vis: Image8) -> bool:
    """The "infrared" picture is coloured and the "visible" one grey: the sources were probably swapped.

    Args:
        ir: uint8 (H, W) or (H, W, 3), as its source delivered it, before it is made grey.
        vis: uint8 (H, W, 3) or (H, W).
    """
    return colour_share(ir) > COLOURED_SHARE > colour_share(vis)
