"""Rewards on real reasoning-gym entries."""

import math
import re
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import reasoning_gym
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reasoning_gym.dataset import ProceduralDataset
from reasoning_gym.factory import DATASETS

from katlit.batch import Prompt
from katlit.errors import UserError
from katlit.rewards import (
    AccuracyReward,
    CompositeReward,
    FormatReward,
    LanguageReward,
    LengthReward,
    MatchReward,
    Reward,
    Sample,
    TaskReward,
    Verdict,
    verdicts_of,
)
from katlit.rewards.task import _READ, scorer
from katlit.text.protocol import Mode, ParsedResponse, Violation

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
    return Sample(of, ParsedResponse("easy", Mode.THINK_OFF, "", answer, violation), truncated=cut, tokens=1)


def values(verdicts: list[Verdict]) -> list[float | None]:
    assert all(verdict.reason and "\n" not in verdict.reason for verdict in verdicts)
    return [verdict.value for verdict in verdicts]


def entries(family: str) -> list[Prompt]:
    data = reasoning_gym.create_dataset(family, size=20, seed=3)
    return [prompt(family, e["answer"], e["metadata"], e["question"]) for e in data]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_is_right_and_others_are_not(family: str) -> None:
    prompts, reward = entries(family), AccuracyReward()
    assert values(reward([sample(p, p["reference"]) for p in prompts])) == [1.0] * 20
    assert values(reward([sample(p, f"  {p['reference']}\n") for p in prompts])) == [1.0] * 20
    wrong = [None, "", "none", "1" + prompts[0]["reference"]]
    assert values(reward([sample(prompts[0], answer) for answer in wrong])) == [0.0] * 4
    assert values(reward([sample(p, p["reference"] + "7") for p in prompts])) == [0.0] * 20
    assert values(reward([sample(p, f"the answer is {p['reference']}") for p in prompts])) == [0.0] * 20


def test_equal_numbers_are_right_where_the_scorer_says_so() -> None:
    p = prompt("chain_sum", "1000")
    assert values(TaskReward()([sample(p, a) for a in ("1,000", "+1000.0", "1001")])) == [1.0, 1.0, 0.0]


def test_a_lower_threshold_gives_credit_for_a_part() -> None:
    p = prompt("gcd", "1234")
    assert values(TaskReward(0.5)([sample(p, "1234 x")])) == [1.0]
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
    assert TaskReward()([sample(p, answer)])[0].value in (0.0, 1.0)


CACHE: dict[str, dict] = {}


def test_match_forgives_case_space_and_width() -> None:
    p = prompt("match", "Blue  Whale 7")
    answers = ["blue whale 7", " BLUE\nwhale ７ ", "blue whale", "bluewhale 7", "", None]
    assert values(MatchReward()([sample(p, a) for a in answers])) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    with pytest.raises(UserError, match="prompt 'p1': verifier 'match' needs a reference"):
        AccuracyReward()([sample(prompt("match", " "), "x")])


def test_format_is_the_absence_of_a_violation() -> None:
    p = prompt("match", "1")
    samples = [sample(p, "1"), sample(p, "1", Violation.TEXT_AFTER_ANSWER), sample(p, "1", cut=True)]
    assert values(FormatReward()(samples)) == [1.0, 0.0, 0.0]


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
    components = {name: values(verdicts) for name, verdicts in batch.components.items()}
    assert components == {"accuracy": [1, 0, 1, 0, 0], "format": [1, 1, 0, 0, 0]}
    assert batch.correct == [True, False, True, False, False]
    other = CompositeReward(weights={"accuracy": 2.0, "format": 0.0})(samples)
    assert other.total == [2.0, 0.0, 2.0, 0.0, 0.0]
    assert CompositeReward()([]).total == []


class Failing(Reward):
    """Raises where the answer is "x", whatever is beside it; has no verdict on "y" in time."""

    def __call__(self, samples: list[Sample]) -> list[Verdict]:
        if any(sample.answer == "x" for sample in samples):
            raise ZeroDivisionError("no x")
        return [
            Verdict(None, "too slow", timed_out=True) if sample.answer == "y" else Verdict(1.0, "fine")
            for sample in samples
        ]


def test_a_sample_that_cannot_be_judged_costs_the_others_nothing() -> None:
    p = prompt("match", "5")
    samples = [sample(p, answer) for answer in ("5", "x", "y", "5")]
    weights = {"accuracy": 1.0, "extra": 0.5}
    batch = CompositeReward({"accuracy": AccuracyReward(), "extra": Failing()}, weights)(samples)
    assert batch.total == pytest.approx([1.5, float("nan"), float("nan"), 1.5], nan_ok=True)
    assert batch.correct == [True, False, False, True]
    assert batch.components["extra"][1:3] == [
        Verdict(None, "Failing: ZeroDivisionError: no x"),
        Verdict(None, "too slow", timed_out=True),
    ]
    own = AccuracyReward(verifiers={"strange": Failing()})
    mixed = [sample(prompt("strange", ""), "x"), sample(p, "5"), sample(prompt("strange", ""), "5")]
    assert values(own(mixed)) == [None, 1.0, 1.0]


class Stating(Reward):
    """Says of every sample what it was given; raises it, if it is an exception."""

    def __init__(self, what: Verdict | Exception) -> None:
        self.what = what

    def __call__(self, samples: list[Sample]) -> list[Verdict]:
        if isinstance(self.what, Exception):
            raise self.what
        return [self.what for _ in samples]


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), -float("inf"), 1e39, 10**5000, "1", [1.0], 1j, torch.tensor(1.0)],
    ids=lambda value: f"{type(value).__name__}",
)
def test_what_is_no_finite_number_is_unjudged(value: object) -> None:
    reward = CompositeReward({"accuracy": Stating(Verdict(value, "why"))}, {"accuracy": 1.0})
    batch = reward([sample(prompt("match", "5"), "5")] * 2)
    assert math.isnan(batch.total[0])
    for verdict in batch.components["accuracy"]:
        assert verdict.value is None
        assert re.match(r"Stating: its value .* is no finite number", verdict.reason)


@pytest.mark.parametrize("value", [0, -1.5, True, np.float32(0.5), np.int64(3), Fraction(1, 2), None])
def test_numbers_of_any_type_are_values(value: float) -> None:
    said = Verdict(value, "why", timed_out=True)
    (verdict,) = verdicts_of(Stating(said), [sample(prompt("match", "5"), "5")])
    assert verdict == said
    assert type(verdict.value) in (float, type(None))  # which JSON knows


@pytest.mark.parametrize("make", [lambda text: Verdict(0.0, text), ValueError], ids=["said", "raised"])
def test_reasons_are_short_lines(make: Callable[[str], Verdict | Exception]) -> None:
    hostile = "\x1b]0;title\x07\n" + "y" * 10**6
    (verdict,) = verdicts_of(Stating(make(hostile)), [sample(prompt("match", "5"), "5")])
    assert verdict.reason.isprintable()
    assert "]0;title  yyy" in verdict.reason
    assert len(verdict.reason) <= 300


class Short(Reward):
    def __call__(self, samples: list[Sample]) -> list[Verdict]:
        return [Verdict(1.0, "one for all")]


def test_one_verdict_a_sample() -> None:
    reward = CompositeReward({"accuracy": Short()}, {"accuracy": 1.0})
    with pytest.raises(UserError, match="reward Short: 1 verdicts for 2 samples"):
        reward([sample(prompt("match", "5"), answer) for answer in ("5", "6")])


@pytest.mark.parametrize("given", [[1.0], None, 1.0, [None]])
def test_what_is_no_verdict_is_refused(given: object) -> None:
    class Plain(Reward):
        def __call__(self, samples: list[Sample]) -> object:
            return given

    with pytest.raises(UserError, match=r"reward Plain: it gives .*; it must give a list of katlit.rewards"):
        verdicts_of(Plain(), [sample(prompt("match", "5"), "5")])


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_weights_must_be_numbers(weight: float) -> None:
    with pytest.raises(UserError, match="give finite numbers"):
        CompositeReward(weights={"accuracy": 1.0, "format": weight})


@pytest.mark.parametrize("weights", [{"accuracy": 1.0}, {"format": 1.0}, {"accuracy": 1.0, "fromat": 0.2}])
def test_weights_must_name_the_components(weights: dict[str, float]) -> None:
    with pytest.raises(UserError, match="same names"):
        CompositeReward(weights=weights)


def said(question: str, think: str, *, tokens: int = 1, cut: bool = False) -> Sample:
    parsed = ParsedResponse("", Mode.THINK_ON, think, "1", None)
    return Sample(prompt("match", "1", question=question), parsed, cut, tokens=tokens)


@pytest.mark.parametrize(
    ("question", "think", "value"),
    [
        ("How many?", "We add two and three.", 1.0),
        ("How many?", "ab 我们数", 0.4),  # two of five letters
        ("多少？", "我们数一数 ab", 5 / 7),
        ("いくつ？", "数えます カタカナ", 1.0),
        ("Сколько?", "Сложим два и три", 1.0),
        ("How many?", "Сложим", 0.0),
        ("How many?", r"so \alpha + x = β \frac{y}{z} 12", 1.0),  # mathematics is no language
        ("Πόσα;", "δύο και τρία", 1.0),
        ("How many?", "ｗｅ ａｄｄ", 1.0),  # wide letters are letters
        ("1 + 1 = ?", "我们 abcd", 4 / 6),  # the commonest of the response
        ("How many?", "1 + 1 = 2", 1.0),
        ("How many?", "a" * 97 + "我们数", 1.0),  # tolerated
    ],
)
def test_letters_of_another_script_cost(question: str, think: str, value: float) -> None:
    assert values(LanguageReward()([said(question, think)])) == [pytest.approx(value)]


@pytest.mark.parametrize(("tokens", "value"), [(0, 1.0), (10, 1.0), (15, 0.75), (30, 0.0), (99, 0.0)])
def test_length_costs_beyond_the_soft_limit(tokens: int, value: float) -> None:
    reward = LengthReward(soft=10, hard=30)
    long, cut = said("?", "characters do not count", tokens=tokens), said("?", "", cut=True)
    assert values(reward([long, cut])) == [value, 0.0]


def test_bad_settings_are_named() -> None:
    with pytest.raises(UserError, match="soft 5, hard 5"):
        LengthReward(5, 5)
    with pytest.raises(UserError, match="tolerance: 1"):
        LanguageReward(1)
