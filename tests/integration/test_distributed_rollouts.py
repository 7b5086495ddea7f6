"""Stage 3 with an engine in each of two processes, on the strategies that hold weights differently."""

from pathlib import Path

import pytest
from killable import finish, rows, start

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(900)]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "deepspeed_z3"])
def test_engines_of_two_processes_follow_the_trainer(tmp_path: Path, strategy: str) -> None:
    overlays = [f"-c={ROOT}/configs/strategy/{name}.yaml" for name in (strategy, "cpu")]
    finish(start(tmp_path, *overlays, settings="vllm_rollouts"))
    steps = rows(tmp_path)
    assert sorted(steps) == [1, 2, 3]
    for row in steps.values():
        assert row["rollout/logprob_gap"] < 1e-4
        assert row["train/loss"] != 0
