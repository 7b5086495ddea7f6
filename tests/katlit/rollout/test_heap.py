"""Large blocks are reused within, and go back to the system after."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from katlit.rollout.heap import reused_large_blocks

MIB = 2**20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc")


# In a process of its own, whose heap nobody else uses: what a large block costs in pages, six times.
FAULTS = """
import resource, torch
from katlit.rollout.heap import reused_large_blocks

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(100 * 2**20, dtype=torch.uint8).zero_()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with reused_large_blocks():
    print(*(faults() for _ in range(6)))
"""


def test_a_large_block_costs_its_pages_once() -> None:
    printed = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True).stdout
    seen = [int(number) for number in printed.split()]
    assert seen[0] > 40  # huge pages, if need be
    assert max(seen[3:]) < 10  # alignment may need a second block


def test_outside_large_blocks_are_returned() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()

    with reused_large_blocks():
        pass
    before = resident()
    block = torch.zeros(200 * MIB, dtype=torch.uint8)
    assert resident() > before + 150 * MIB
    del block
    assert resident() < before + 50 * MIB
