"""Memory of freed tensors stays in the process, where the C library would give it back.

With glibc's defaults a block above 128 kB is returned to the system when freed, and faulted in page
by page when the next update asks for it again (glibc adapts its threshold for one block, not for an
update's several): at 64 x 784-100-10 that is nearly half of an update's time.
"""

import ctypes
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt's names for them, from malloc.h
KEPT = 2**28  # bytes of free memory that may stay at the top of the heap
LARGEST = 2**25  # bytes of the largest block kept: glibc accepts no more


def keep_freed_memory() -> bool:
    """Raise the two thresholds.

    Returns:
        Whether this is glibc, and it took them.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    taken = (libc.mallopt(MMAP_THRESHOLD, LARGEST), libc.mallopt(TRIM_THRESHOLD, KEPT))
    return taken == (1, 1)
