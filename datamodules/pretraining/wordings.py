"""A worked solution in words that change each time, so that a base does not depend on them (our choice).

A base that has met one wording only unlearns its sums as soon as a later stage changes the words around them.
"""

from random import Random

from katlit.packing import Document
from katlit.text.protocol import Protocol

BEFORE_STEPS = ("Steps", "steps", "reason", "reasoning", "several")
BEFORE_RESULT = ("Answer", "answer", "direct", "once", "seen")

_MOST_BEFORE = 16
_MOST_BESIDE = 4
_BEGINNINGS = ("", "\n")
_BREAKS = (":\n", ": ", "\n", "\n\n")
_NO_WORDS = set("0123456789+-*={}")


class Wordings:
    """Writes replies in which only the solution is trained on; the words around it are drawn.

    Args:
        protocol: Its tokenizer; what is drawn are tokens of it that are neither special nor part of a sum.
            Words that tell what follows are among them, so that it is the last one which counts.
    """

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        tokenizer = protocol.tokenizer
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        texts = {id_: tokenizer.decode([id_]) for id_ in range(len(tokenizer)) if id_ not in special}
        self._words = [id_ for id_, text in texts.items() if _is_word(text)]

    def document(self, prompt: list[int], steps: str, result: str, random: Random) -> Document:
        """Prompt and reply: words, the steps if there are any, words, the result, words, the end of the turn.

        Args:
            prompt: Token ids up to where the reply begins.
            steps: What is trained on before the result; may be empty.
            result: What is trained on as the answer.
            random: What the words are drawn from.
        """
        parts = [(prompt, False), (self._some(random, _MOST_BEFORE), False)]
        for cues, text in ((BEFORE_STEPS, steps), (BEFORE_RESULT, result)):
            if text:
                parts += [(self._heading(cues, random), False), (self._protocol.encode_content(text), True)]
        closing = self._some(random, _MOST_BESIDE)
        parts += [(closing, False), ([self._protocol.end_id], True)]
        return Document(
            [id_ for ids, _ in parts for id_ in ids],
            [trained for ids, trained in parts for _ in ids],
        )

    def _heading(self, cues: tuple[str, ...], random: Random) -> list[int]:
        """A word that tells what follows, between others, and a break."""
        encode = self._protocol.encode_content
        before, after = self._some(random, _MOST_BESIDE), self._some(random, _MOST_BESIDE)
        return [
            *encode(random.choice(_BEGINNINGS)), *before,
            *encode(random.choice(cues)), *after, *encode(random.choice(_BREAKS)),
        ]  # fmt: skip

    def _some(self, random: Random, most: int) -> list[int]:
        return random.choices(self._words, k=random.randint(0, most))


def _is_word(text: str) -> bool:
    return text.isascii() and text.isprintable() and not _NO_WORDS & set(text)
