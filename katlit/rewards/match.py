"""Equality with the reference."""

import unicodedata
from collections.abc import Sequence

from katlit.batch import Prompt
from katlit.errors import UserError
from katlit.rewards.base import Reward, Sample, Verdict
from katlit.rewards.json_answers import plain_answer


class MatchReward(Reward):
    """1 where answer and reference are the same text, else 0.

    Case, width and composition of characters (Unicode NFKC) and the amount of white space do not count: our
    choice. Of a JSON object the value of "answer" is compared (`plain_answer`).
    """

    def reference_problem(self, prompt: Prompt) -> str | None:
        """See `Reward`."""
        return empty_reference(prompt)

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        """See `Reward`."""
        return [_verdict(sample) for sample in samples]


def _verdict(sample: Sample) -> Verdict:
    reference = _normalised(reference_of(sample))
    answer = plain_answer(sample)
    if answer is None:
        return Verdict(0.0, "no answer")
    if _normalised(answer) == reference:
        return Verdict(1.0, "the reference's text")
    return Verdict(0.0, "not the reference's text")


def reference_of(sample: Sample) -> str:
    """The prompt's reference.

    Raises:
        UserError: where it is empty.
    """
    prompt = sample.prompt
    if problem := empty_reference(prompt):
        raise UserError(f"prompt {prompt['id']!r}: {problem}; give one or leave the prompt out")
    return prompt["reference"]


def empty_reference(prompt: Prompt) -> str | None:
    """What is wrong where a prompt has no reference."""
    if prompt["reference"].strip():
        return None
    return f"verifier {prompt['verifier']!r} needs a reference, which is empty"


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
