"""Freed memory stays with the process: what was touched once is not faulted in again."""

import platform
import subprocess
import sys

import pytest

PAGES_FAULTED = """
import resource
import torch
from handgrad.devices.cpu import keep_freed_memory
from handgrad.backprop import Parameters, backward, forward

torch.set_num_threads(1)
params = Parameters(torch.ones(300, 784), torch.ones(300), torch.ones(10, 300), torch.ones(10))
X, Y = torch.ones(512, 784), torch.ones(512, 10)

def faults(updates):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(updates):
        backward(params, forward(params, X), X, Y)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def faults_of_a_large_layer(updates):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(updates):
        torch.ones(4096, 2048)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for prepare in (lambda: None, keep_freed_memory):
    prepare()
    for measure in (faults, faults_of_a_large_layer):
        measure(5)
        print(measure(10))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the thresholds are glibc's")
def test_an_update_does_not_fault_its_memory_in_again() -> None:
    command = [sys.executable, "-c", PAGES_FAULTED]
    lines = subprocess.run(command, check=True, capture_output=True).stdout.split()
    *given_back, kept, kept_of_a_large_layer = map(int, lines)
    assert max(kept, kept_of_a_large_layer) < 1000 < min(given_back)
