"""Freed memory stays in the process."""

import platform
import subprocess
import sys

import pytest

LOOP = """
import resource
from handgrad.allocator import keep_freed_memory
{first}
import torch
def faults():
    for _ in range(200):
        several = [torch.ones(80_000) for _ in range(8)]  # as an update's gradients
        del several
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
print(faults() - before)
"""


def page_faults(first: str) -> int:
    code = LOOP.format(first=first)
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return int(answer.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the thresholds are glibc's")
def test_freed_tensors_are_not_faulted_in_again() -> None:
    given_back, kept = page_faults(""), page_faults("assert keep_freed_memory()")
    assert given_back > 100 * 200  # 2.6 MB are 625 pages of 4 kB
    assert kept < given_back / 100


def test_elsewhere_it_says_no(monkeypatch) -> None:
    from handgrad import allocator

    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("musl", ""))
    assert not allocator.keep_freed_memory()
