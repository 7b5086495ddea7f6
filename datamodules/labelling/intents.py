"""Intent-aware prompting: an explicit wish overrides the vote (recipe §4; its form is our choice)."""

from dataclasses import dataclass
from random import Random
from typing import Literal

from katlit.datamodules.dialects.habits import Messages
from katlit.text.protocol import Mode


@dataclass(frozen=True, slots=True)
class Intent:
    """A wish: its words, where they go, and the mode they ask for."""

    phrase: str
    place: Literal["system", "user"]
    mode: Mode


INTENTS = (
    Intent("Think it through before you answer.", "system", Mode.THINK_ON),
    Intent("Think step by step.", "user", Mode.THINK_ON),
    Intent("/think", "user", Mode.THINK_ON),
    Intent("Answer directly, without reasoning.", "system", Mode.THINK_OFF),
    Intent("Answer directly.", "user", Mode.THINK_OFF),
    Intent("/no_think", "user", Mode.THINK_OFF),
)


def draw_intent(share: float, random: Random) -> Intent | None:
    """Return one of the wishes in a share of the calls, None in the others."""
    return random.choice(INTENTS) if random.random() < share else None


def express(messages: Messages, intent: Intent) -> Messages:
    """Return a copy of the conversation with the wish in its system turn or its last user turn.

    Raises:
        ValueError: if a wish for the user turn meets a conversation without one.
    """
    turns = [dict(turn) for turn in messages]
    if intent.place == "system":
        if turns and turns[0]["role"] == "system":
            turns[0]["content"] = f"{turns[0]['content']}\n{intent.phrase}"
            return turns
        return [{"role": "system", "content": intent.phrase}, *turns]
    for turn in reversed(turns):
        if turn["role"] == "user":
            turn["content"] = f"{turn['content'].rstrip()}\n{intent.phrase}"
            return turns
    raise ValueError("the conversation has no user turn to put a wish into")
