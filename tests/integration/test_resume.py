"""A run that is killed goes on from its last checkpoint and ends where the uninterrupted one does."""

import random
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from killable import ROOT, finish, kill, rows, start, wait_for
from safetensors.torch import load_file

from katlit.cli import main
from katlit.rollout.record import RolloutRecord
from katlit.rollout.record_files import read_records

STEPS = 8
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


# One update on each batch of rollouts, or two: then most checkpoints lie between two of them. Two also sample
# flat groups anew, of which there are many where no mode is forced and a group is a pair.
CALLBACK = "--trainer.callbacks"
UPDATES = {
    "one update": (),
    "two updates": (
        "--data.init_args.updates=2",
        f"{CALLBACK}.on_flat_groups=resample",
        f"{CALLBACK}.forced_share=0",
        f"{CALLBACK}.samples=2",
    ),
}
ALL = "--checkpoint.keep=null"  # so that a rollout of any step can be replayed


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return uninterrupted(tmp_path_factory.mktemp("whole"), "one update")


def uninterrupted(directory: Path, updates: str) -> Path:
    finish(start(directory, *UPDATES[updates], ALL))
    assert sorted(rows(directory)) == list(range(1, STEPS + 1))
    return directory


def rollouts(directory: Path) -> dict[str, bytes]:
    """The log of rollouts, each step once."""
    return {path.name: path.read_bytes() for path in (directory / "rollouts").glob("*.gz")}


def assert_same_end(directory: Path, whole: Path) -> None:
    assert rows(directory) == rows(whole)
    assert rollouts(directory) == rollouts(whole)
    ours, theirs = (load_file(run / "model/model.safetensors") for run in (directory, whole))
    assert ours.keys() == theirs.keys()
    assert all(bool((ours[name] == theirs[name]).all()) for name in ours)


def kill_and_resume(directory: Path, whole: Path, chance: random.Random, updates: str = "one update") -> None:
    """Kill -9 within or after a random step, often while a checkpoint is being written."""
    words = UPDATES[updates]
    run = start(directory, *words)
    wait_for(directory, run, chance.randint(1, STEPS - 3))
    time.sleep(chance.uniform(0, 0.2))
    kill(run)
    finish(start(directory, *words, "--ckpt_path=last"))
    assert_same_end(directory, whole)


def test_a_killed_run_ends_as_the_uninterrupted_one(whole: Path, tmp_path: Path) -> None:
    kill_and_resume(tmp_path, whole, random.Random(time.time_ns()))  # pytest's own seed is always the same


Replayed = Callable[[Path, Iterable[RolloutRecord]], None]


@pytest.fixture
def require_replayed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Replayed:
    """Replays rollouts of a run, which must come out to the token and with the advantages trained on."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "tests/stubs")

    def require(run: Path, records: Iterable[RolloutRecord]) -> None:
        for record in records:
            name = f"{record['step']}/{record['prompt_id']}/{record['index']}"
            assert main(["replay", f"--run={run}", f"--rollout={name}"]) == 0
            shown = capsys.readouterr().out
            same = rf"the same {len(record['token_ids'])} tokens; log-probabilities differ by at most (\S+)\n"
            (gap,) = re.findall(same, shown)
            assert float(gap) < 1e-5  # weights of another step can give the same tokens
            assert shown.count(", as trained on") == 2 * (not record["left_out"])
            assert shown.count(", not trained on") == 2 * record["left_out"]

    return require


@pytest.mark.parametrize("step", [0, 7])  # of the start's weights; of a checkpoint's
def test_every_rollout_is_replayed_alone_to_the_token(
    whole: Path, step: int, require_replayed: Replayed
) -> None:
    records = read_records(whole / "rollouts", step)
    assert len(records) == 12
    require_replayed(whole, records)


def test_a_run_killed_between_two_updates_on_the_same_rollouts(
    tmp_path: Path, require_replayed: Replayed
) -> None:
    whole = uninterrupted(tmp_path / "whole", "two updates")
    shares = [row["train/ratio"] for row in rows(whole).values()]
    assert all((share == 1) == (step % 2 == 0) for step, share in enumerate(shares))
    killed = tmp_path / "killed"
    run = start(killed, *UPDATES["two updates"])
    wait_for(killed, run, 3)
    kill(run)
    within = killed / "checkpoints/step-00000003.ckpt"
    finish(start(killed, *UPDATES["two updates"], f"--ckpt_path={within}"))
    assert_same_end(killed, whole)
    later = [record for step in (2, 4, 6) for record in read_records(whole / "rollouts", step)]
    kinds = {(record["index"] >= 2, record["left_out"]): record for record in later}
    assert kinds.keys() == {(False, False), (True, False), (True, True)}  # sampled anew, flat still
    require_replayed(whole, kinds.values())


@pytest.mark.soak
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("updates", UPDATES)
def test_twenty_kills(tmp_path: Path, updates: str) -> None:
    truth = uninterrupted(tmp_path / "whole", updates)
    chance = random.Random(time.time_ns())
    for number in range(20):
        kill_and_resume(tmp_path / str(number), truth, chance, updates)


def test_sigterm_writes_a_checkpoint_and_a_status_that_schedulers_know(whole: Path, tmp_path: Path) -> None:
    run = start(tmp_path, "--checkpoint.every_n_steps=100")
    while len(rows(tmp_path)) < 3:
        assert run.poll() is None, finish(run)
        time.sleep(0.01)
    run.terminate()
    finish(run, 143)
    (written,) = (tmp_path / "checkpoints").iterdir()
    assert 3 <= int(written.name.removeprefix("step-").removesuffix(".ckpt")) < STEPS
    finish(start(tmp_path, "--ckpt_path=last"))
    assert_same_end(tmp_path, whole)


def test_a_checkpoint_that_was_not_completed_is_passed_over(whole: Path, tmp_path: Path) -> None:
    run = start(tmp_path)
    wait_for(tmp_path, run, 4)
    kill(run)
    partial = tmp_path / "checkpoints/step-00000009.ckpt.partial"
    partial.write_bytes(b"half")
    finish(start(tmp_path, "--ckpt_path=last"))
    assert not partial.exists()
    assert_same_end(tmp_path, whole)


def test_rollouts_in_flight_are_neither_lost_nor_sampled_again(
    tmp_path: Path, require_replayed: Replayed
) -> None:
    engine = f"{CALLBACK}.engine"
    words = [f"{engine}=beside.Beside", f"{engine}.max_context=256", f"{CALLBACK}.max_staleness=1"]
    words += ["--data.init_args.history=false"]  # epochs of one length
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(whole, *words, ALL))
    assert [row["rollout/staleness"] for row in rows(whole).values()] == [0, 1, 1, 0, 1, 1, 0, 1]
    run = start(killed, *words)
    wait_for(killed, run, 4)
    kill(run)
    finish(start(killed, *words, "--ckpt_path=last"))
    assert_same_end(killed, whole)
    stale = read_records(whole / "rollouts", 5)
    assert {record["policy_step"] for record in stale} == {4}
    require_replayed(whole, stale[::5])


def test_with_vllm_a_resumed_run_samples_the_same_tokens(tmp_path: Path) -> None:
    engine = "--trainer.callbacks.engine"
    words = [f"{engine}=katlit.engines.VLLMEngine", f"{engine}.max_context=256"]
    words += [f"{engine}.options.kv_cache_gib=0.1", "--trainer.max_steps=5"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(whole, *words))
    run = start(killed, *words)
    wait_for(killed, run, 2)
    kill(run)
    finish(start(killed, *words, "--ckpt_path=last"))

    def sampled(directory: Path) -> list[tuple[int, list[int]]]:
        steps = [read_records(directory / "rollouts", step) for step in range(5)]
        return [(record["seed"], record["token_ids"]) for records in steps for record in records]

    assert len(sampled(whole)) == 5 * 12
    assert sampled(killed) == sampled(whole)
