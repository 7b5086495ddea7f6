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


# How many updates each batch of rollouts serves; with two, a checkpoint may lie between them, that of a
# SIGTERM too.
UPDATES = {"ddp": 2, "fsdp2": 2, "fsdp2_tp": 2, "deepspeed_z1": 1, "deepspeed_z2": 1, "deepspeed_z3": 2}


def words_of(strategy: str) -> list[str]:
    steps = f"--trainer.max_steps={STEPS}"
    return [*on_two_processes(strategy), steps, f"--data.init_args.updates={UPDATES[strategy]}"]


# Each is three runs of two processes, a minute and a half: all but one only by hand.
BY_HAND = {*UPDATES} - {"deepspeed_z3"}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.soak] if name in BY_HAND else []) for name in UPDATES],
)
def strategy(request) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def whole(strategy: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    directory = tmp_path_factory.mktemp("whole")
    finish(start(directory, *words_of(strategy)))
    return directory


def test_a_killed_run_ends_as_the_uninterrupted_one(whole: Path, tmp_path: Path, strategy: str) -> None:
    words = words_of(strategy)
    run = start(tmp_path / "killed", *words)
    chance = random.Random(time.time_ns())  # pytest's own seed is always the same
    wait_for(tmp_path / "killed", run, chance.randint(1, STEPS - 2))
    time.sleep(chance.uniform(0, 0.2))
    kill(run)
    finish(start(tmp_path / "killed", *words, "--ckpt_path=last"))
    assert_same_end(tmp_path / "killed", whole)


@pytest.mark.parametrize(
    "strategy", [pytest.param("ddp", marks=pytest.mark.soak), "deepspeed_z3"], indirect=True
)
def test_sigterm_to_one_process_stops_all_with_a_checkpoint(
    whole: Path, tmp_path: Path, strategy: str
) -> None:
    words = words_of(strategy)
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
    assert_same_end(directory, whole)
