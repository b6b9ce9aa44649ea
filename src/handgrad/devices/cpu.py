"""How many threads of the processor compute: one where the products are too small to be shared.

Sharing a product takes longer than a small one's arithmetic, and a thread that waits for its next
share waits in a loop, which keeps a core from all else: the writer of the curves, the progress bar.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# FOLDED from allocator.py: "Memory that is freed stays with the process, so that the next update finds it warm.\n\nWith glibc's defaults a large tensor's pages go back to the system when it is freed, and the next\nupdate faults them in again, one page at a time: at 2,048 examples and 1,024 hidden units that\ncosts more than the arithmetic of sigma'(z1)."
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


WORTH_SHARING = 2**20  # multiplications in the largest product


def are_worth_it(examples: int, in_features: int, hidden_features: int) -> bool:
    """Whether the products of so many examples are faster on several threads."""
    return examples * in_features * hidden_features > WORTH_SHARING


@contextmanager
def one(alone: bool) -> Iterator[None]:
    """Compute with one thread within, if wanted.

    It is decided by sizes, not by the clock: their number decides the last bits of a product.
    """
    threads = torch.get_num_threads()
    if alone:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
