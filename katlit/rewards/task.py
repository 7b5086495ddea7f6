"""The scorers of reasoning-gym, those of them that are safe and strict."""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

from katlit.batch import Prompt
from katlit.errors import UserError
from katlit.rewards.base import Reward, Sample, Verdict
from katlit.rewards.json_answers import plain_answer
from katlit.rewards.match import empty_reference

# Data sets with a scorer of their own, each read in reasoning-gym 0.1.25: it neither evaluates nor executes
# the answer, cannot be made to compute for long, and returns 1 for right answers only. Data sets without one
# compare strings and need no entry. Among those left out: `binary_matrix`, `string_insertion` and others pass
# the answer to `eval`; `countdown`, `puzzle24`, `polynomial_multiplication` and others to sympy's parser,
# which evaluates too; `game_of_life_halting` takes any text for right, `figlet_font` any ten right letters,
# `gsm_symbolic` a number with the wrong sign.
_READ = frozenset(
    {
        "ab",
        "chain_sum",
        "decimal_chain_sum",
        "dice",
        "family_relationships",
        "needle_haystack",
        "number_format",
        "products",
        "rectangle_count",
        "self_reference",
        "word_sorting",
    }
)

Scorer = Callable[[str, dict[str, Any]], float]


@cache
def scorer(name: str) -> Scorer:
    """The scorer of a reasoning-gym data set: (answer, entry) to a number between 0 and 1.

    Raises:
        UserError: where there is no such data set, or its scorer is not known to be safe and strict.
    """
    if find_spec("reasoning_gym") is None:
        raise UserError(
            f"verifier: {name!r} is neither 'match', 'math', 'code' nor 'tool_calls'; for a data set of "
            "reasoning-gym install katlit[tasks]"
        )
    from reasoning_gym.dataset import ProceduralDataset
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        raise UserError(
            f"verifier: {name!r} is unknown; give 'match', 'math', 'code', 'tool_calls' or a data set of "
            "reasoning-gym"
        )
    data_set, configuration = DATASETS[name]
    if name not in _READ and data_set.score_answer is not ProceduralDataset.score_answer:
        raise UserError(
            f"verifier: reasoning-gym's scorer of {name!r} is not on the list of those that neither evaluate "
            "model-written text nor give full marks to wrong answers; use 'match' or another data set"
        )
    score: Scorer = data_set(config=configuration()).score_answer
    return score


class TaskReward(Reward):
    """1 where reasoning-gym's scorer of the prompt's data set is satisfied, else 0.

    It gets the answer, or the value of "answer" in a JSON object (`plain_answer`).

    Args:
        threshold: Least score that counts as correct. At 1 partial credit is none.
    """

    def __init__(self, threshold: float = 1.0) -> None:
        if not 0 < threshold <= 1:
            raise UserError(f"threshold: {threshold}; give a number above 0 and at most 1")
        self.threshold = threshold

    def reference_problem(self, prompt: Prompt) -> str | None:
        """See `Reward`."""
        try:
            scorer(prompt["verifier"])
        except UserError as error:
            return str(error)
        return None if prompt["verifier"] in _READ else empty_reference(prompt)

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        """See `Reward`."""
        return [self._verdict(sample) for sample in samples]

    def _verdict(self, sample: Sample) -> Verdict:
        prompt = sample.prompt
        score = scorer(prompt["verifier"])  # also without an answer, so that a bad name is always seen
        answer = plain_answer(sample)
        if answer is None:
            return Verdict(0.0, "no answer")
        question = prompt["messages"][-1]["content"]
        entry = {"question": question, "answer": prompt["reference"], "metadata": prompt["metadata"]}
        got = score(answer.strip(), entry)
        return Verdict(float(got >= self.threshold), f"score {got:g} of {prompt['verifier']}")
