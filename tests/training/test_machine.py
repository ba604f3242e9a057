"""The machine that trains."""

import platform
import subprocess
import sys

import pytest

from bibench.training.machine import processor

STEPS = """
import resource, sys, torch
from bibench.training.machine import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    keep_freed_memory()
def step():
    torch.zeros(2**24).sum()  # 64 MB, more than what glibc keeps by itself
step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library isn't glibc")
def test_memory_that_was_freed_is_there_for_the_next_step():
    def faults(how):
        command = [sys.executable, "-c", STEPS, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    # A few steps may still take new pages, by how the blocks happen to lie; without, all of them do.
    assert 2 * faults("kept") < faults("given back")


def test_the_processor_has_a_name():
    assert processor().strip() == processor() != ""
