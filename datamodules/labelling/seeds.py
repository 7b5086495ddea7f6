"""Random draws of labelling: each depends on a seed, a purpose and a prompt, on nothing beside them."""

import hashlib
from random import Random

from katlit.batch import Prompt


def request_seeds(seed: int, purpose: str, prompt: Prompt, count: int, first: int = 0) -> list[int]:
    """Derive the seeds of a prompt's requests; they do not depend on the prompts beside it."""
    return [
        int.from_bytes(
            hashlib.sha256(f"{seed}/{purpose}/{prompt['id']}/{index}".encode()).digest()[:4], "big"
        )
        % 2**31
        for index in range(first, first + count)
    ]


def draws(seed: int, purpose: str, prompt: Prompt, share: float) -> bool:
    """Whether a prompt is one of a random share; the answer never changes."""
    return Random(f"{seed}/{purpose}/{prompt['id']}").random() < share  # noqa: S311 (reproducible labels)
