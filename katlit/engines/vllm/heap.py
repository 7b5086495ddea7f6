"""glibc's heap, told to reuse large blocks.

Above a threshold glibc maps a block anew from the system and unmaps it when it is freed, so that whoever
frees and takes a large block again pays for each of its pages a second time.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# From glibc's malloc.h, and what it ends at by itself in a process that frees large blocks (64 bits). Having
# been told once it no longer adapts: left at a lower threshold, a trainer pays anew for every activation.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = 64 * 2**20, 32 * 2**20, 65536


@contextmanager
def reused_large_blocks() -> Iterator[None]:
    """Within, blocks of any size come from the heap and go back to it. With another libc: nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        yield
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
        mallopt(_M_MMAP_MAX, _MMAP_MAX)
