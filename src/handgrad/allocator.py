"""Memory that is freed stays with the process, so that the next update finds it warm.

With glibc's defaults a large tensor's pages go back to the system when it is freed, and the next
update faults them in again, one page at a time: at 2,048 examples and 1,024 hidden units that
costs more than the arithmetic of sigma'(z1).
"""

import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # malloc.h
FREE_TOP_BYTES = 2**31 - 1  # kept at the heap's end; the largest that mallopt takes


def keep_freed_memory() -> None:
    """Let glibc take all memory of this process from its heap, and keep what is freed there.

    Where there is another C library, do nothing. The process then keeps its peak of memory until
    it ends. (Its threshold of size for memory apart from the heap goes no higher than 32 MiB, which
    is what one layer of 4,096 examples and 2,048 units takes: so there is to be no such memory.)

    Source: GNU C Library, manual, "Malloc Tunable Parameters".
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # musl, macOS, Windows
        return
    mallopt(TRIM_THRESHOLD, FREE_TOP_BYTES)
    mallopt(MMAP_MAX, 0)
