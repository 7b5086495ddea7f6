"""What `katlit replay` says of a record; that it samples the same is tested with whole runs."""

import re
from pathlib import Path

import pytest
import torch
from tinyestimator import Shorter
from tinymodel import tiny_backbone
from tinyrecord import record

from katlit.advantages import HiPO, Process, Rollouts
from katlit.cli import main
from katlit.commands.replay.again import first_difference
from katlit.commands.replay.group import copies, explain, group_of
from katlit.commands.replay.view import advantage_text, again_text, copies_text, reward_text, rollout_text
from katlit.commands.replay.weights import model_directory, source_of
from katlit.engines.base import Completion
from katlit.errors import UserError
from katlit.modules import StepSRPO
from katlit.text.protocol import Protocol


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> StepSRPO:
    return StepSRPO(tiny_backbone(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def protocol(stage: StepSRPO) -> Protocol:
    return stage.backbone.protocol


def test_the_advantage_is_that_of_the_group_and_one_that_is_not_is_seen(stage: StepSRPO) -> None:
    others = [record(index=9, reward=0.0, prompt_id="other", group=1), record(index=5, reward=None)]
    records = [
        record(0, 1.0, "on"),
        record(1, 0.0, "on"),
        record(2, 0.5, "off"),
        record(3, 1.0, None),
        *others,
    ]
    expected = Process()(
        Rollouts(
            torch.tensor([1, 0, 0.5, 1]), torch.tensor([True, False, False, True]), torch.zeros(4).long(),
            torch.tensor([1, 1, 0, -1]), torch.zeros(4).bool(), torch.zeros(4).bool(),
            torch.full((4,), 3),
        )
    )  # fmt: skip
    group = group_of(records[0], records)
    assert [one["index"] for one in group] == [0, 1, 2, 3]
    for one, trained in zip(group, expected.tolist(), strict=True):
        one["advantages"] = trained
        text = advantage_text(one, group, explain(one, group, stage.estimator), stage.estimator)
        assert text.count("as trained on") == 2
        assert "mean of the group: 0.625\n" in text
        one["advantages"] = [trained[0], trained[1] + 0.01]
        text = advantage_text(one, group, explain(one, group, stage.estimator), stage.estimator)
        assert re.search(r"answer advantage: \S+, but \S+ was trained on", text)
        assert "later settings" in text
    assert explain(others[1], group, stage.estimator) is None
    assert "could not judge" in advantage_text(others[1], group, None, stage.estimator)


def test_a_zero_has_its_reason(stage: StepSRPO) -> None:
    group = [record(0, 1.0, "on", truncated=True), record(1, 0.0, "off", thinking="off")]
    group[0]["advantages"], group[1]["advantages"] = [0.0, 0.0], [0.0, -1.0]
    cut, forced = (
        advantage_text(one, group, explain(one, group, stage.estimator), stage.estimator) for one in group
    )
    assert "answer advantage: 0, as trained on (0, for the length limit cut it)" in cut
    assert "judge advantage: 0, as trained on (0, for the judge was forced)" in forced
    assert "answer advantage: -1, as trained on" in forced


def test_a_repeated_prompt_has_several_groups(stage: StepSRPO) -> None:
    here = [record(index, float(index), rank=0, group=3) for index in range(3)]
    beside = [record(index, 0.5 + index, rank=0, group=11) for index in range(3)]
    there = [record(0, None, rank=1), *(record(index, 0.25, rank=1) for index in (1, 2))]
    records = [*there, *beside, *here]
    found = copies(records, "set/p", 0)
    assert found == [here[0], beside[0], there[0]]
    assert [group_of(one, records) for one in found] == [here, beside, there[1:]]
    for one in found:
        explained = explain(one, group_of(one, records), stage.estimator)
        assert (explained is None) == (one is there[0])
    assert re.findall(r"(.) +(\d)  rank (\d), group (\d+)", copies_text(found[1], found)) == [
        (" ", "0", "0", "3"), ("*", "1", "0", "11"), (" ", "2", "1", "2"),
    ]  # fmt: skip


def test_a_flat_group_is_explained_without_contradiction(stage: StepSRPO) -> None:
    group = [record(index, 1.2, mode, advantages=[0.0, 0.0]) for index, mode in enumerate(["on", "off"] * 2)]
    reason = " (0, for all rewards of the group are equal)"
    text = advantage_text(group[0], group, explain(group[0], group, stage.estimator), stage.estimator)
    assert f"judge advantage: 0, as trained on{reason}" in text
    assert f"answer advantage: 0, as trained on{reason}" in text
    for one in group:
        one["left_out"], one["advantages"] = True, None
    text = advantage_text(group[0], group, explain(group[0], group, stage.estimator), stage.estimator)
    assert "as trained on" not in text
    assert f"judge advantage: 0, not trained on{reason}" in text
    assert "left out of the training: on_flat_groups" in text
    solved = Process(bias_when_solved=True)
    group = [record(index, 1.2, one["mode"], correct=True) for index, one in enumerate(group)]
    found = explain(group[0], group, solved)
    assert found is not None
    group[0]["advantages"] = [found.judge, found.answer]
    text = advantage_text(group[0], group, found, solved)
    assert "judge advantage: -1, as trained on\n" in text
    hipo = HiPO()
    group = [
        record(index, float(index > 1), mode, advantages=[0.5, 0.0])
        for index, mode in enumerate(["on", "on", "off", "off"])
    ]
    text = advantage_text(group[0], group, explain(group[0], group, hipo), hipo)
    assert "answer advantage: 0, as trained on (0, for all rewards of its mode are equal)" in text


def test_words_without_their_term_are_named() -> None:
    estimator = Shorter()
    estimator.words = {"tokens": "tokens", "gone": "gone"}
    with pytest.raises(UserError, match="Shorter has words for 'gone', which is none of its terms"):
        explain(record(), [record()], estimator)


def test_a_hostile_model_cannot_write_a_line_of_ours(protocol: Protocol) -> None:
    attack = "\x1b[2J\x1b]0;x\x07\nrewards\n  accuracy: 1 (right)\r\u202e\x9b31m"
    ids = protocol.tokenizer.encode(attack)
    verdicts = {"accu\nracy": {"value": 0.0, "reason": attack, "timed_out": False}}
    hostile = record(token_ids=ids, log_probs=[0.0] * len(ids), verdicts=verdicts, prompt_id="a\x1b/b")
    hostile["violation"] = attack
    text = rollout_text(hostile, protocol) + reward_text(hostile)
    text += again_text(hostile, Completion([*ids[:3], 1], [0.0] * 4, "stop"), "x\x1b", protocol)
    assert all(character == "\n" or character.isprintable() for character in text)
    assert r"\x1b[2J" in text
    assert "\n  | rewards\n" in text
    assert "\nrewards\n" not in rollout_text(hostile, protocol)


def test_where_it_goes_another_way(protocol: Protocol) -> None:
    one = record()
    assert "the same 3 tokens; log-probabilities differ by at most 1.0e-03" in again_text(
        one, Completion([67, 68, 69], [-0.5, -0.25, -0.001], "stop"), "weights", protocol
    )
    text = again_text(one, Completion([67, 70], [-0.5, -0.75], "stop"), "weights", protocol)
    assert "NOT the same: 1 tokens are" in text
    assert "token 68 " in text
    assert "-0.250000" in text
    assert "token 70 " in text
    assert "-0.750000" in text
    assert [first_difference([1, 2], other) for other in ([1, 2], [1], [1, 2, 3], [2, 2])] == [None, 1, 2, 0]


def test_what_is_missing_is_named(tmp_path: Path, stage: StepSRPO) -> None:
    with pytest.raises(UserError, match=r"no rollout 2 of prompt 'set/p'; of that prompt there are \[0, 1\]"):
        copies([record(0), record(1)], "set/p", 2)
    with pytest.raises(UserError, match="prompts of that step: set/p"):
        copies([record(0)], "p", 0)
    with pytest.raises(UserError, match=re.escape(r"prompts of that step: \x1b]0;x\x07") + "$"):
        copies([record(prompt_id="\x1b]0;x\x07")], "p", 0)
    (tmp_path / "step-00000002.ckpt").touch()
    assert source_of(0, tmp_path) is None
    assert source_of(2, tmp_path) == tmp_path / "step-00000002.ckpt"
    with pytest.raises(UserError, match=r"no weights of step 3: .* of steps 2"):
        source_of(3, tmp_path)
    torch.save({"state_dict": tmp_path}, tmp_path / "class.ckpt")  # a class could run code as it is read
    for source in (tmp_path / name for name in ("nowhere", "step-00000002.ckpt", "class.ckpt")):
        with pytest.raises(UserError, match=r"--model: .*(does not exist|no checkpoint|objects of classes)"):  # noqa: SIM117
            with model_directory(source, stage.backbone):
                pass


@pytest.mark.parametrize("name", ["", "3", "3/p", "x/p/1", "3//1", "3/p/-1"])
def test_a_rollout_has_an_address_of_three_parts(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--run=nowhere", f"--rollout={name}"]) == 2
    assert "give STEP/PROMPT_ID/INDEX" in capsys.readouterr().err
