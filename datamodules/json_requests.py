"""Questions that ask for their answer as a JSON object (our choice): a form that nobody taught is lost."""

from collections.abc import Sequence
from random import Random

from katlit.datamodules.tool_turns import Turn

REQUESTS = (
    'Answer with a JSON object that has the key "answer".',
    'Reply in JSON: {"answer": ...}',
    'Give the answer as JSON, with the key "answer".',
)


def asking_for_json(messages: Sequence[Turn], random: Random) -> list[Turn]:
    """A conversation whose last question asks for an object, before or after what it asked."""
    turns = [dict(turn) for turn in messages]
    last = next(turn for turn in reversed(turns) if turn["role"] == "user")
    question, request = last["content"].strip(), random.choice(REQUESTS)
    last["content"] = "\n".join([question, request] if random.random() < 0.5 else [request, question])
    return turns
