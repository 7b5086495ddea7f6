"""Random draws of labelling: each depends on a seed, a purpose and a prompt, on nothing beside them."""

from random import Random

from katlit.batch import Prompt
from katlit.engines.base import request_seed


def request_seeds(seed: int, purpose: str, prompt: Prompt, count: int, first: int = 0) -> list[int]:
    """Derive the seeds of a prompt's requests; they do not depend on the prompts beside it."""
    return [request_seed(seed, purpose, prompt["id"], index) for index in range(first, first + count)]


def draws(seed: int, purpose: str, prompt: Prompt, share: float) -> bool:
    """Whether a prompt is one of a random share; the answer never changes."""
    return Random(f"{seed}/{purpose}/{prompt['id']}").random() < share  # noqa: S311 (reproducible labels)
