"""What a process keeps of freed memory, and what it gives back."""

import platform
import subprocess
import sys

import pytest

# as a step of a training does: many blocks, freed together. What glibc keeps depends on what was
# freed before, so its thresholds are those that it begins with.
_STEPS = """
import ctypes
import resource
import torch
from serkd.memory import give_back_memory, keep_memory

def count_faults(num_steps: int) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(num_steps):
        blocks = [torch.ones(2**20) for _ in range(64)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

for name in (-1, -3):
    ctypes.CDLL(None).mallopt(name, 128 * 1024)
cleared = count_faults(20)
keep_memory()
count_faults(3)
kept, most = count_faults(20), resident()
give_back_memory()
print(cleared, kept, most - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library has no such options")
def test_steps_use_the_same_pages_again_until_they_are_given_back() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _STEPS], check=True, capture_output=True, text=True, timeout=120
    )
    cleared, kept, given_back = map(int, run.stdout.split())
    pages = 64 * 2**22 // 4096
    assert cleared > 10 * pages  # or there would be nothing to keep
    assert kept < pages
    assert given_back > pages // 2
