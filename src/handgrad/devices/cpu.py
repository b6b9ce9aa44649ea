"""Threads and memory of the processor, as an update on it wants them.

One thread computes where the products are small: sharing a product takes longer than a small one's
arithmetic, and a thread that waits for its next part waits in a loop, which keeps a core from
everything else, such as the writer of the curves and the progress bar.

Memory that is freed stays with the process, so that the next update finds it warm. With glibc's
defaults a large tensor's pages go back to the system when it is freed, and the next update faults
them in again, one page at a time: at 2,048 examples and 1,024 hidden units that costs more than the
arithmetic of sigma'(z1).
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # malloc.h
FREE_TOP_BYTES = 2**31 - 1  # kept at the heap's end; the largest that mallopt accepts
WORTH_SHARING = 2**20  # multiplications in the largest product


def keep_freed_memory() -> None:
    """Make glibc take all memory of this process from its heap, and keep freed memory there.

    The process then keeps its peak of memory until it ends. With another C library nothing is done.
    (glibc's threshold for memory outside the heap is at most 32 MiB, which is what one layer of
    4,096 examples and 2,048 units takes, so such memory is turned off altogether.)

    Source: GNU C Library, manual, "Malloc Tunable Parameters".
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # musl, macOS, Windows
        return
    mallopt(TRIM_THRESHOLD, FREE_TOP_BYTES)
    mallopt(MMAP_MAX, 0)


def are_worth_sharing(examples: int, in_features: int, hidden_features: int) -> bool:
    """Return whether the products of an update are faster on several threads."""
    return examples * in_features * hidden_features > WORTH_SHARING


@contextmanager
def one_thread(alone: bool) -> Iterator[None]:
    """Compute with one thread within, if asked to.

    The sizes decide, not the clock, because the number of threads decides a product's last bits.
    """
    import torch  # late: the process that only starts the devices' processes does without

    threads = torch.get_num_threads()
    if alone:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
