"""Which reward checks the answers to a tagged query (our choice)."""

from collections.abc import Callable

from katlit.batch import Prompt
from katlit.datamodules.tagging.tags import CALLS, MATH, PROGRAM, TEXT, Tags

VERIFIERS = {MATH: "math", TEXT: "match", PROGRAM: "code", CALLS: "tool_calls"}
_DEFAULT = "match"  # what a prompt has that names none


def verifier_of(prompt: Prompt, tags: Tags, problem: Callable[[Prompt], str | None]) -> str | None:
    """Choose who checks the answers to a query: a verifier, or nobody but a critic.

    A verifier that the prompt names stays. Where it has the default one, `match`, the tags choose; and where
    the reference is none that their choice can read, `match` stays.

    Args:
        prompt: The query.
        tags: Its tags.
        problem: `reference_problem` of the reward that checks answers.

    Returns:
        The verifier's name for `Prompt.verifier`; None where nothing can check an answer.
    """
    if prompt["verifier"] == _DEFAULT and not tags.checkable:
        return None
    named = [prompt["verifier"]]
    if prompt["verifier"] == _DEFAULT:
        named.insert(0, VERIFIERS[tags.how])
    for name in named:
        candidate: Prompt = {**prompt, "verifier": name}
        if problem(candidate) is None:
            return name
    return None
