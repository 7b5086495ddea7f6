"""On every strategy, two processes that are killed or terminated end where uninterrupted ones do."""

import random
import time
from pathlib import Path

import pytest
from killable import finish, kill, on_two_processes, rows, start, wait_for
from safetensors.torch import load_file
from torch.testing import assert_close

STEPS = 5
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def assert_same_end(directory: Path, whole: Path) -> None:
    found, expected = rows(directory), rows(whole)
    assert sorted(found) == sorted(expected) == list(range(1, STEPS + 1))
    for step, truth in expected.items():
        assert found[step] == pytest.approx(truth, rel=1e-5, abs=1e-5)
    ours, theirs = (load_file(run / "model/model.safetensors") for run in (directory, whole))
    assert_close(ours, theirs, rtol=0, atol=1e-5)


# How many updates each batch of rollouts serves; with two, a checkpoint may lie between them.
UPDATES = {"ddp": 2, "fsdp2": 2, "fsdp2_tp": 2, "deepspeed_z1": 1, "deepspeed_z2": 1, "deepspeed_z3": 2}


@pytest.mark.parametrize(("strategy", "updates"), UPDATES.items())
def test_a_killed_run_ends_as_the_uninterrupted_one(tmp_path: Path, strategy: str, updates: int) -> None:
    words = [*on_two_processes(strategy), f"--trainer.max_steps={STEPS}"]
    words += [f"--data.init_args.updates={updates}"]
    finish(start(tmp_path / "whole", *words))

    run = start(tmp_path / "killed", *words)
    chance = random.Random(time.time_ns())  # pytest's own seed is always the same
    wait_for(tmp_path / "killed", run, chance.randint(1, STEPS - 2))
    time.sleep(chance.uniform(0, 0.2))
    kill(run)
    finish(start(tmp_path / "killed", *words, "--ckpt_path=last"))
    assert_same_end(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("strategy", ["ddp", "deepspeed_z3"])
def test_sigterm_to_one_process_stops_all_with_a_checkpoint(tmp_path: Path, strategy: str) -> None:
    words = [*on_two_processes(strategy), f"--trainer.max_steps={STEPS}"]
    directory = tmp_path / "terminated"
    run = start(directory, *words, "--checkpoint.every_n_steps=100")
    while len(rows(directory)) < 2:
        assert run.poll() is None, finish(run)
        time.sleep(0.01)
    run.terminate()  # the first process only
    finish(run, 143)
    (written,) = (directory / "checkpoints").iterdir()
    assert 2 <= int(written.name[5:13]) < STEPS
    finish(start(directory, *words, "--ckpt_path=last"))
    finish(start(tmp_path / "whole", *words))
    assert_same_end(directory, tmp_path / "whole")
