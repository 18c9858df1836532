"""Memory that is freed stays with the process.

Problem. A frame's pictures and tensors are a few MiB each. The C library gives much of it back to the system
when freed, and the next frame asks for it anew, page by page: 600 to 1400 faults a frame in the registrar.
They took 2.5 ms of its 33 ms of processor time on average, and up to 20 in one frame.
Design. Blocks are kept for the next frame. Peak memory stays what it was.
"""

import ctypes
import logging
import sys

log = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of mallopt(3)."""
KEEP_BLOCKS = 32 << 20
"""Bytes: blocks up to this size are kept. More than any array of a Full HD frame, and the most that every
version of the GNU C library takes."""
KEEP_FREE = 512 << 20
"""Bytes of free memory from which some of it is handed back."""


def keep_freed_memory() -> bool:
    """Have the C library keep freed blocks, for the rest of the process. False where it cannot be told."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        log.debug("this C library has no mallopt: memory is given back and asked for again in every frame")
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, KEEP_BLOCKS) and mallopt(M_TRIM_THRESHOLD, KEEP_FREE))
