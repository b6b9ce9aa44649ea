"""How many threads of the processor compute: one where the products are too small to be shared.

Sharing a product takes longer than a small one's arithmetic, and a thread that waits for its next
share waits in a loop, which keeps a core from all else: the writer of the curves, the progress bar.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

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
