"""Large blocks are reused within, and go back to the system after."""

import resource
import sys
from pathlib import Path

import pytest
import torch

from katlit.rollout.heap import reused_large_blocks

MIB = 2**20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc")


def faults(size: int) -> int:
    """Pages that taking a block and writing to it makes the system provide."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(size, dtype=torch.uint8).zero_()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_a_large_block_costs_its_pages_once() -> None:
    with reused_large_blocks():
        seen = [faults(100 * MIB) for _ in range(6)]  # alignment may need a second block of that size
    assert seen[0] > 40  # huge pages, if need be
    assert max(seen[3:]) < 10


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
