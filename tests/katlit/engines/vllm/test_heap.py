"""Large blocks are reused within, and go back to the system after."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from katlit.engines.vllm.heap import reused_large_blocks

MIB = 2**20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc")


# In a process of its own, whose heap nobody else uses: what a block costs in pages, again and again.
FAULTS = """
import resource, torch
from katlit.engines.vllm.heap import reused_large_blocks

def faults(mib):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(mib * 2**20, dtype=torch.uint8).zero_()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
"""
LARGE_WITHIN = f"""{FAULTS}
with reused_large_blocks():
    print(*(faults(100) for _ in range(12)))
"""
MIDDLING_AFTER = f"""{FAULTS}
with reused_large_blocks():
    pass
print(*(faults(16) for _ in range(12)))
"""


@pytest.mark.parametrize("script", [LARGE_WITHIN, MIDDLING_AFTER], ids=["large within", "middling after"])
def test_a_block_costs_its_pages_once(script: str) -> None:
    printed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True).stdout
    seen = [int(number) for number in printed.split()]
    assert seen[0] > 5  # huge pages, if need be
    assert max(seen[-4:]) < 5  # alignment may need other blocks first


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
