"""The kernels, where there is no GPU: interpreted, and compiled for one that is not there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from katlit.kernels.rows import takes_kernel

HERE = Path(__file__).parent


@pytest.mark.slow
def test_kernels_and_twins_equal_the_definition() -> None:
    """In a process of its own: triton reads the variable when it is first imported."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(HERE / "interpreted.py")]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["log_prob", "jsd"])
def test_kernels_compile(kernel: str) -> None:
    command = [sys.executable, str(HERE / "compiled.py"), kernel]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def test_a_cpu_takes_the_plain_version_unless_told() -> None:
    rows = torch.zeros(2, 3)
    assert not takes_kernel("auto", rows)
    assert not takes_kernel("torch", rows)
    assert takes_kernel("triton", rows)
