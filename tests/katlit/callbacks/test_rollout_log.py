"""The log of rollouts of real, small training runs."""

import errno
import gzip
import json
import os
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tinyrecord import record
from tinyrollouts import BATCHES, Finishing, prompt, train

from katlit.callbacks.checkpoint import StepCheckpoint
from katlit.callbacks.rollout_log import RolloutLog
from katlit.engines.base import request_seed
from katlit.errors import UserError
from katlit.rewards import CompositeReward, Reward, Sample, Verdict
from katlit.rollout.record_files import read_records, record_file, record_files

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


class EveryThird(Reward):
    """Fails on some, rewards others, by a number that the response alone decides."""

    def __call__(self, samples: list[Sample]) -> list[Verdict]:
        numbers = [sum(repr(sample.parsed).encode()) for sample in samples]
        return [
            Verdict(None if number % 3 == 2 else float(number % 2), f"number {number}") for number in numbers
        ]


class LaterDiffers(Reward):
    """All 1 among the first eight; then every second one."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, samples: list[Sample]) -> list[Verdict]:
        self.seen += len(samples)
        return [Verdict(float(self.seen <= 8 or index % 2), "") for index in range(len(samples))]


class FlatThenNot(Reward):
    """All 1 for the first prompt; every second one for others."""

    def __init__(self) -> None:
        self.numbers = count()

    def __call__(self, samples: list[Sample]) -> list[Verdict]:
        return [Verdict(float(one.prompt["id"] == "p0" or next(self.numbers) % 2), "") for one in samples]


def steps(folder: Path) -> list[int]:
    return [step for step, _ in record_files(folder / "rollouts")]


@pytest.mark.parametrize("parts", [1, 2])
def test_every_rollout_is_there_with_what_was_trained_on(tmp_path: Path, parts: int) -> None:
    watch, _, _ = train(tmp_path, Finishing(), BATCHES, parts=parts, seed=5, callbacks=[RolloutLog()])
    assert steps(tmp_path) == list(range(4 // parts))
    for step, batch in enumerate(watch.batches[::parts]):  # each micro-batch knows all rollouts of its step
        records = read_records(tmp_path / "rollouts", step)
        assert [one["reward"] for one in records] == [row["reward"] for row in batch["samples"]]
        assert [one["advantages"] for one in records] == batch["advantages"].tolist()
        assert len({(one["prompt_id"], one["index"]) for one in records}) == 16 * parts
        for one in records:
            assert (one["step"], one["policy_step"], one["epoch"], one["run_seed"]) == (step, step, 0, 5)
            assert one["seed"] == request_seed(5, 0, one["prompt_id"], one["index"])
            assert one["thinking"] == ("on", "off", *["auto"] * 6)[one["index"]]
            assert len(one["log_probs"] or []) == len(one["token_ids"]) >= one["judge_tokens"]


def test_a_full_disk_is_told_with_folder_and_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("katlit.callbacks.rollout_log.write_records", fill)
    with pytest.raises(UserError, match=r"^RolloutLog\.directory: writing to .*rollouts' failed \(No space"):
        train(tmp_path, Finishing(), BATCHES[:1], callbacks=[RolloutLog()])


def test_a_rollout_that_could_not_be_judged_is_there_without_advantages(tmp_path: Path) -> None:
    reward = CompositeReward({"accuracy": EveryThird()}, {"accuracy": 1.0})
    train(tmp_path, Finishing(), BATCHES[:1], reward=reward, callbacks=[RolloutLog()], max_unjudged_share=0.5)
    records = read_records(tmp_path / "rollouts", 0)
    assert len(records) == 16
    for one in records:
        verdict = one["verdicts"]["accuracy"]
        number = int(verdict["reason"].removeprefix("number "))
        assert (verdict["value"] is None) == (one["reward"] is None) == (one["advantages"] is None)
        assert (verdict["value"] is None) == (number % 3 == 2)


def test_rollouts_of_several_updates_are_there_once_whole_and_of_their_first(tmp_path: Path) -> None:
    reward = CompositeReward({"accuracy": EveryThird()}, {"accuracy": 1.0})
    settings: dict[str, Any] = {"reward": reward, "samples": 4, "updates": 2, "max_unjudged_share": 0.5}
    saved, again = (StepCheckpoint(str(tmp_path / name), every_n_steps=1, keep=None) for name in "ab")
    fit = {"enable_checkpointing": True, "max_epochs": -1, "max_steps": 4}
    watch, *_ = train(tmp_path, Finishing(), BATCHES, fit=fit, callbacks=[RolloutLog(), saved], **settings)
    assert steps(tmp_path) == [0, 2]
    for step in (0, 2):
        records = read_records(tmp_path / "rollouts", step)
        assert len({(one["prompt_id"], one["index"]) for one in records}) == len(records) == 16
        assert {(one["step"], one["policy_step"]) for one in records} == {(step, step)}
        trained = [one["advantages"] for one in records if one["advantages"] is not None]
        assert trained == watch.batches[step]["advantages"].tolist()
        assert len(trained) < 16
    files = [path.read_bytes() for _, path in record_files(tmp_path / "rollouts")]
    settings |= {"resumed_from": tmp_path / "a/step-00000001.ckpt"}
    train(tmp_path, Finishing(), BATCHES, fit=fit, callbacks=[RolloutLog(), again], **settings)
    assert [path.read_bytes() for _, path in record_files(tmp_path / "rollouts")] == files


def test_a_group_sampled_anew_is_there_in_place_of_the_flat_one(tmp_path: Path) -> None:
    reward = CompositeReward({"accuracy": LaterDiffers()}, {"accuracy": 1.0})
    settings: dict[str, Any] = {"reward": reward, "samples": 4, "on_flat_groups": "resample"}
    train(tmp_path, Finishing(), BATCHES[:1], seed=5, callbacks=[RolloutLog()], **settings)
    records = read_records(tmp_path / "rollouts", 0)
    assert [one["index"] for one in records] == [4, 5, 6, 7] * 2
    assert not any(one["left_out"] for one in records)
    for one in records:
        assert one["seed"] == request_seed(5, 0, one["prompt_id"], one["index"])


def test_groups_that_were_left_out_are_there_without_advantages(tmp_path: Path) -> None:
    reward = CompositeReward({"accuracy": FlatThenNot()}, {"accuracy": 1.0})
    settings: dict[str, Any] = {"reward": reward, "samples": 4, "on_flat_groups": "skip"}
    train(tmp_path, Finishing(), BATCHES[:1], callbacks=[RolloutLog()], **settings)
    records = read_records(tmp_path / "rollouts", 0)
    assert [one["left_out"] for one in records] == [True] * 4 + [False] * 4
    assert [one["advantages"] is None for one in records] == [True] * 4 + [False] * 4


def test_a_prompt_that_a_batch_repeats_is_there_each_time(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"samples": 4, "callbacks": [RolloutLog()]}
    train(tmp_path, Finishing(), [[prompt(1), prompt(2), prompt(1)]], **settings)
    records = read_records(tmp_path / "rollouts", 0)
    assert [one["prompt_id"] for one in records] == ["p1"] * 4 + ["p2"] * 4 + ["p1"] * 4
    assert [one["group"] for one in records] == [0] * 4 + [1] * 4 + [2] * 4
    assert {one["rank"] for one in records} == {0}


def test_an_earlier_run_is_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path, Finishing(), BATCHES, callbacks=[RolloutLog()])
    old = record_file(tmp_path / "rollouts", 3, 0).read_bytes()
    train(tmp_path, Finishing(), BATCHES[:2], callbacks=[RolloutLog()])
    assert steps(tmp_path) == [0, 1]
    assert record_file(tmp_path / "rollouts/aside-1", 3, 0).read_bytes() == old
    assert "aside-1" in caplog.text


def test_old_steps_and_log_probabilities_can_be_left_out(tmp_path: Path) -> None:
    train(tmp_path, Finishing(), BATCHES, callbacks=[RolloutLog(log_probs=False, keep=2)])
    assert steps(tmp_path) == [2, 3]
    assert {str(one["log_probs"]) for one in read_records(tmp_path / "rollouts", 3)} == {"None"}


@pytest.mark.parametrize("keep", [0, -1])
def test_at_least_one_step_is_kept(keep: int) -> None:
    with pytest.raises(UserError, match=f"keep {keep}; give at least 1"):
        RolloutLog(keep=keep)


def test_a_trial_run_leaves_nothing(tmp_path: Path) -> None:
    fit: dict[str, Any] = {"fast_dev_run": 1}
    train(tmp_path, Finishing(), [[prompt(1)]], fit=fit, callbacks=[RolloutLog()])
    assert steps(tmp_path) == []


DAMAGED = {
    "no gzip": b"no gzip",
    "cut": b"\x1f\x8b\x08\x00",
    "empty object": gzip.compress(b"{}\n"),
    "half an object": gzip.compress(b"{"),
    "number": gzip.compress(b"5"),
    "null": gzip.compress(b"null"),
    "deep": gzip.compress(b"[" * 100_000),
    "no text": gzip.compress(b"\xff"),
    "huge number": gzip.compress(b"9" * 5000),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = record_file(tmp_path, 2, 0)
    path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)):
        read_records(tmp_path, 2)


def test_steps_that_are_there_are_named(tmp_path: Path) -> None:
    record_file(tmp_path, 2, 0).touch()
    record_file(tmp_path, 5, 1).touch()
    with pytest.raises(UserError, match="no rollouts of step 3; it has those of steps 2 to 5"):
        read_records(tmp_path, 3)


def written(folder: Path, *lines: bytes) -> Path:
    path = record_file(folder, 2, 0)
    path.write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines)))
    return path


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", True), ("group", -1), ("prompt_id", 5), ("thinking", "maybe"), ("seed", 1 << 64),
        ("prompt_ids", None), ("token_ids", [67, 1 << 31]), ("token_ids", ["67", 68]), ("log_probs", [-0.5]),
        ("truncated", 0), ("judge_tokens", 4), ("mode", "\x1b]0;x\x07"), ("violation", []),
        ("verdicts", {"\x1b]0;x\x07": {"value": "1"}}), ("verdicts", {"a": 1.0}), ("reward", "1"),
        ("correct", None), ("advantages", [1.0]),
    ],
)  # fmt: skip
def test_a_field_of_another_kind_is_named_with_its_line(tmp_path: Path, field: str, value: object) -> None:
    good = record(reward=1, advantages=[0.0, 1])  # whole numbers are numbers
    lines = [json.dumps(one).encode() for one in (good, good | {field: value})]
    path = written(tmp_path, *lines[:1])
    assert read_records(tmp_path, 2) == [good]
    written(tmp_path, *lines)
    with pytest.raises(UserError) as caught:
        read_records(tmp_path, 2)
    message = str(caught.value)
    assert message.startswith(f"{path}:2: ")
    assert field in message
    assert message.isprintable()


def test_a_small_file_cannot_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("katlit.rollout.record_files.LARGEST", 1 << 20)
    for line in (b" " * (2 << 20), b"\n".join([json.dumps(record()).encode()] * 4000)):
        path = written(tmp_path, line)
        with pytest.raises(UserError, match=f"{path}: holds more than 1 MiB"):
            read_records(tmp_path, 2)


def test_what_a_program_says_cannot_make_a_file_unreadable(tmp_path: Path) -> None:
    class Surrogate(Reward):
        def __call__(self, samples: list[Sample]) -> list[Verdict]:
            return [Verdict(float(index % 2), "got \ud800") for index in range(len(samples))]

    reward = CompositeReward({"accuracy": Surrogate()}, {"accuracy": 1.0})
    train(tmp_path, Finishing(), BATCHES[:1], reward=reward, callbacks=[RolloutLog()], samples=4)
    for one in read_records(tmp_path / "rollouts", 0):
        assert one["verdicts"]["accuracy"]["reason"].startswith("got")
