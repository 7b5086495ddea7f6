"""Rewards on real reasoning-gym entries."""

import pytest
import reasoning_gym
from hypothesis import given, settings
from hypothesis import strategies as st
from reasoning_gym.dataset import ProceduralDataset
from reasoning_gym.factory import DATASETS

from katlit.batch import Prompt
from katlit.errors import UserError
from katlit.protocol import Mode, ParsedResponse, Violation
from katlit.rewards import AccuracyReward, CompositeReward, FormatReward, MatchReward, Sample, TaskReward
from katlit.rewards.task import _READ, scorer

FAMILIES = ("chain_sum", "basic_arithmetic", "leg_counting", "gcd", "products")


def prompt(verifier: str, reference: str, metadata: dict | None = None, question: str = "?") -> Prompt:
    return {
        "id": "p1",
        "messages": [{"role": "user", "content": question}],
        "reference": reference,
        "verifier": verifier,
        "domain": "test",
        "difficulty": 1,
        "metadata": metadata or {},
    }


def sample(
    of: Prompt, answer: str | None, violation: Violation | None = None, *, cut: bool = False
) -> Sample:
    return Sample(of, ParsedResponse("easy", Mode.THINK_OFF, "", answer, violation), truncated=cut)


def entries(family: str) -> list[Prompt]:
    data = reasoning_gym.create_dataset(family, size=20, seed=3)
    return [prompt(family, e["answer"], e["metadata"], e["question"]) for e in data]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_is_right_and_others_are_not(family: str) -> None:
    prompts, reward = entries(family), AccuracyReward()
    assert reward([sample(p, p["reference"]) for p in prompts]) == [1.0] * 20
    assert reward([sample(p, f"  {p['reference']}\n") for p in prompts]) == [1.0] * 20
    wrong = [None, "", "none", "1" + prompts[0]["reference"]]
    assert reward([sample(prompts[0], answer) for answer in wrong]) == [0.0] * 4
    assert reward([sample(p, p["reference"] + "7") for p in prompts]) == [0.0] * 20
    assert reward([sample(p, f"the answer is {p['reference']}") for p in prompts]) == [0.0] * 20


def test_equal_numbers_are_right_where_the_scorer_says_so() -> None:
    p = prompt("chain_sum", "1000")
    assert TaskReward()([sample(p, a) for a in ("1,000", "+1000.0", "1001")]) == [1.0, 1.0, 0.0]


def test_a_lower_threshold_gives_credit_for_a_part() -> None:
    p = prompt("gcd", "1234")
    assert TaskReward(0.5)([sample(p, "1234 x")]) == [1.0]
    with pytest.raises(UserError, match=r"threshold: 1\.5"):
        TaskReward(1.5)


@pytest.mark.parametrize("name", ["binary_matrix", "countdown", "game_of_life_halting", "puzzle24", "codeio"])
def test_unsafe_or_lax_scorers_are_refused(name: str) -> None:
    for answer in ("x", None):
        with pytest.raises(UserError, match=f"scorer of '{name}'"):
            TaskReward()([sample(prompt(name, "1"), answer)])


def test_an_unknown_verifier_is_named() -> None:
    with pytest.raises(UserError, match="verifier: 'chainsum' is unknown"):
        AccuracyReward()([sample(prompt("chainsum", "1"), "1")])


def test_scorers_are_built_once() -> None:
    assert scorer("gcd") is scorer("gcd")


PLAIN = sorted(n for n, (c, _) in DATASETS.items() if c.score_answer is ProceduralDataset.score_answer)


def test_the_plain_comparison_covers_what_we_use() -> None:
    assert {"basic_arithmetic", "leg_counting", "gcd"} <= set(PLAIN)
    assert set(DATASETS) >= _READ
    assert _READ.isdisjoint(PLAIN)


@pytest.mark.parametrize("name", sorted(_READ))
@settings(max_examples=60, deadline=None)
@given(answer=st.one_of(st.text(), st.from_regex(r"[-+0-9.,eE/:a-f]{1,40}"), st.just("9" * 5000)))
def test_no_answer_breaks_a_scorer(name: str, answer: str) -> None:
    entry = CACHE.setdefault(name, reasoning_gym.create_dataset(name, size=1, seed=1)[0])
    p = prompt(name, entry["answer"], entry["metadata"], entry["question"])
    assert TaskReward()([sample(p, answer)])[0] in (0.0, 1.0)


CACHE: dict[str, dict] = {}


def test_match_forgives_case_space_and_width() -> None:
    p = prompt("match", "Blue  Whale 7")
    answers = ["blue whale 7", " BLUE\nwhale ７ ", "blue whale", "bluewhale 7", "", None]
    assert MatchReward()([sample(p, a) for a in answers]) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    with pytest.raises(UserError, match="prompt 'p1': verifier 'match' needs a reference"):
        AccuracyReward()([sample(prompt("match", " "), "x")])


def test_format_is_the_absence_of_a_violation() -> None:
    p = prompt("match", "1")
    samples = [sample(p, "1"), sample(p, "1", Violation.TEXT_AFTER_ANSWER), sample(p, "1", cut=True)]
    assert FormatReward()(samples) == [1.0, 0.0, 0.0]


def test_the_outcome_is_accuracy_plus_a_fifth_of_the_format() -> None:
    p = prompt("chain_sum", "5")
    samples = [
        sample(p, "5"),
        sample(p, "4"),
        sample(p, "5", Violation.TEXT_AFTER_ANSWER),
        sample(p, None, Violation.MISSING_ANSWER),
        sample(p, "5", cut=True),
    ]
    batch = CompositeReward()(samples)
    assert batch.total == pytest.approx([1.2, 0.2, 1.0, 0.0, 0.0])
    assert batch.components == {"accuracy": [1, 0, 1, 0, 0], "format": [1, 1, 0, 0, 0]}
    assert batch.correct == [True, False, True, False, False]
    other = CompositeReward(weights={"accuracy": 2.0, "format": 0.0})(samples)
    assert other.total == [2.0, 0.0, 2.0, 0.0, 0.0]
    assert CompositeReward()([]).total == []


@pytest.mark.parametrize("weights", [{"accuracy": 1.0}, {"format": 1.0}, {"accuracy": 1.0, "fromat": 0.2}])
def test_weights_must_name_the_components(weights: dict[str, float]) -> None:
    with pytest.raises(UserError, match="same names"):
        CompositeReward(weights=weights)
