"""One picture that shows what a run did: input, alignment and result at a few moments."""

from collections.abc import Sequence

import cv2
import numpy as np

from streamfuse.errors import DataError
from streamfuse.frame import FusedFrame, Image8
from streamfuse.sinks.hud import dim
from streamfuse.sinks.views import render

TILE_WIDTH = 480
MARGIN = 8
HEADER = 34
CAPTION = 26
PAPER = 24
INK = 235
COLUMNS = ("infrared", "visible", "registered infrared over visible", "fused")


def contact_sheet(frames: Sequence[FusedFrame]) -> Image8:
    """Rows of moments, columns of infrared, visible, overlay and fused.

    Args:
        frames: one or more fused frames of one size.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    if not frames:
        raise DataError("a contact sheet needs at least one fused frame")
    rows = [_row(frame) for frame in frames]
    height = HEADER + sum(row.shape[0] + MARGIN for row in rows)
    sheet = np.full((height, rows[0].shape[1], 3), PAPER, np.uint8)
    for index, title in enumerate(COLUMNS):
        _write(sheet, title, MARGIN + index * (TILE_WIDTH + MARGIN), HEADER - 11)
    top = HEADER
    for row in rows:
        sheet[top : top + row.shape[0]] = row
        top += row.shape[0] + MARGIN
    return sheet


def _row(frame: FusedFrame) -> Image8:
    ir = frame.pair.ir
    infrared = np.zeros_like(frame.registered_ir) if ir is None else ir.image
    tiles = (
        cv2.cvtColor(infrared, cv2.COLOR_GRAY2RGB),
        frame.visible,
        render(frame, "overlay"),
        frame.image,
    )
    tile_height = round(frame.image.shape[0] * TILE_WIDTH / frame.image.shape[1])
    row = np.full((tile_height, MARGIN + len(tiles) * (TILE_WIDTH + MARGIN), 3), PAPER, np.uint8)
    for index, tile in enumerate(tiles):
        scale = min(TILE_WIDTH / tile.shape[1], tile_height / tile.shape[0])
        size = round(tile.shape[1] * scale), round(tile.shape[0] * scale)
        shrink = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        left = MARGIN + index * (TILE_WIDTH + MARGIN) + (TILE_WIDTH - size[0]) // 2
        top = (tile_height - size[1]) // 2
        row[top : top + size[1], left : left + size[0]] = cv2.resize(tile, size, interpolation=shrink)
    caption = f"{frame.t_capture / 1e9:.2f} s   {frame.status}   confidence {frame.confidence:.2f}"
    left = MARGIN + 3 * (TILE_WIDTH + MARGIN)
    dim(row[tile_height - CAPTION :, left : left + TILE_WIDTH])
    _write(row, caption, left + MARGIN, tile_height - 8)
    return row


def _write(image: Image8, text: str, x: int, y: int) -> None:
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (INK, INK, INK), 1, cv2.LINE_AA)
