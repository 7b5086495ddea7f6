"""The documented settings fit the GPUs that they are written for."""

import pytest

from benchmarks.real_fit import FILES, job_of
from katlit.commands.plan.memory import plan


@pytest.mark.parametrize("size", ["7b", pytest.param("40b", marks=pytest.mark.slow)])
@pytest.mark.parametrize("stage", FILES)
def test_the_real_stages_fit(stage: str, size: str) -> None:
    job = job_of(stage, size)
    assert plan(job).total <= 0.95 * job.memory
