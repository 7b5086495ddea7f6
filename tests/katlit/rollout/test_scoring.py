"""Scoring beside the sampling gives what scoring afterwards gives, whatever comes first."""

import random
import threading
from pathlib import Path

import pytest
from tinymodel import tiny_backbone
from tinyrollouts import FirstLetter, prompt

from katlit.batch import Prompt
from katlit.engines.base import Completion
from katlit.errors import UserError
from katlit.rewards import CompositeReward, FormatReward, Sample, Verdict
from katlit.rollout.scoring import Scoring, parse, score
from katlit.rollout.statistics import statistics
from katlit.rollout.types import Sampled
from katlit.text.protocol import Mode, Response, Violation

PROMPTS = [prompt(0), prompt(1)]


class Watched(FirstLetter):
    """Knows in which threads it was asked, for how many samples; the first one waits until it may go on."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.may_go_on = threading.Event()

    def __call__(self, samples: list[Sample]) -> list[Verdict]:
        self.asked.append((threading.current_thread().name, len(samples)))
        assert self.may_go_on.wait(30)
        return super().__call__(samples)


def responses(number: int) -> list[Sampled]:
    draw = random.Random(3)
    ids = [[draw.randrange(300) for _ in range(5)] for _ in range(number)]
    completions = [Completion(one, [0.0] * 5, "stop") for one in ids]
    return [
        Sampled(index % 2, "auto", [1, 2], one, index // 2, index) for index, one in enumerate(completions)
    ]


@pytest.mark.parametrize("early", [[], [7, 0, 3], list(range(12)), list(range(11, -1, -1))])
def test_what_comes_early_is_scored_beside_and_the_rest_later(tmp_path: Path, early: list[int]) -> None:
    protocol, sampled, watched = tiny_backbone(tmp_path).protocol, responses(12), Watched()
    weights = {"accuracy": 1.0, "format": 0.2}
    reward = CompositeReward({"accuracy": watched, "format": FormatReward()}, weights)
    with Scoring(protocol, PROMPTS, reward) as scoring:
        for index in early:
            scoring.add(index, sampled[index])  # returns though the reward does not
        watched.may_go_on.set()
        rollouts = scoring.all_of(sampled)
    assert sum(number for _, number in watched.asked) == 12  # each once
    assert rollouts == score(sampled, protocol, PROMPTS, reward)
    beside = [number for name, number in watched.asked if name.startswith("scoring")]
    assert sum(beside) == len(early)
    assert len(beside) <= 2  # what comes while the reward works is one batch
    assert len({rollout.reward for rollout in rollouts}) > 1


def test_a_response_knows_its_tokens_a_forced_judge_counted(tmp_path: Path) -> None:
    protocol, (free,) = tiny_backbone(tmp_path).protocol, responses(1)
    samples = parse([free, free._replace(thinking="off")], protocol, PROMPTS)
    assert [one.tokens for one in samples] == [5, 5 + len(protocol.forced_prefill(Mode.THINK_OFF))]


OFFERED: Prompt = {**PROMPTS[0], "tools": [{"type": "function", "function": {"name": "add"}}]}
CALL = '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize(
    ("asked", "answer", "violation"),
    [
        (OFFERED, f"I add.\n{CALL}", None),
        (OFFERED, CALL.replace("add", "sub"), Violation.UNKNOWN_TOOL),
        (OFFERED, CALL.replace("}}", "}"), Violation.MALFORMED_TOOL_CALL),
        (OFFERED, "[" * 9 + CALL.replace("{", "[" * 100_000, 1), Violation.MALFORMED_TOOL_CALL),
        (OFFERED, CALL.removesuffix("\n</tool_call>"), Violation.UNCLOSED_TOOL_CALL),
        (PROMPTS[0], CALL.replace("}}", "}"), None),  # a text as others
    ],
)
def test_malformed_calls_are_violations_by_name(
    tmp_path: Path, asked: Prompt, answer: str, violation: Violation | None
) -> None:
    protocol = tiny_backbone(tmp_path).protocol
    ids = protocol.encode_response(Response("j", Mode.THINK_OFF, answer))
    sampled = Sampled(0, "auto", [1, 2], Completion(ids, [0.0] * len(ids), "stop"), 0, 0)
    reward = CompositeReward({"accuracy": FirstLetter(), "format": FormatReward()})
    (rollout,) = score([sampled], protocol, [asked], reward)
    assert (rollout.parsed.violation, rollout.parsed.answer) == (violation, answer)
    verdict = rollout.verdicts["format"]
    assert (verdict.value, verdict.reason) == ((0.0, violation.value) if violation else (1.0, "no violation"))
    assert statistics([rollout], protocol, [])["malformed_calls"] == (int(violation is not None), 1)


class Refusing(FirstLetter):
    def __call__(self, samples: list[Sample]) -> list[Verdict]:
        raise UserError("no")


def test_an_error_of_the_user_is_raised_where_all_are_wanted(tmp_path: Path) -> None:
    protocol, sampled = tiny_backbone(tmp_path).protocol, responses(2)
    reward = CompositeReward({"accuracy": Refusing()}, {"accuracy": 1.0})
    with Scoring(protocol, PROMPTS, reward) as scoring:
        scoring.add(0, sampled[0])
        with pytest.raises(UserError, match="no"):
            scoring.all_of(sampled)
    assert not any(thread.name.startswith("scoring") for thread in threading.enumerate())
