"""Freed memory stays with the process: what that changes is seen by the system alone."""

import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys
from streamfuse.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
sizes = (1, 9, 2, 5) * 3
for frame in range(30):
    if frame == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [libc.malloc(size << 20) for size in sizes]
    for block, size in zip(blocks, sizes):
        libc.memset(block, 1, size << 20)
    for block in blocks:
        libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults are counted on Linux")
def test_blocks_of_a_frame_are_there_for_the_next_one() -> None:
    pages = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True).stdout)
        for how in ("keep", "give back")
    }
    assert pages["keep"] < 100
    assert pages["give back"] > 20 * pages["keep"] + 1000
