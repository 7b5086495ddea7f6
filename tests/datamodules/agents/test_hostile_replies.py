"""What a model may write where a score, tags or a judge text is expected, and what is read of it."""

import asyncio
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from katlit.batch import Prompt
from katlit.datamodules.agents.batches import Batches
from katlit.datamodules.agents.checks import read_judge, read_score
from katlit.datamodules.tagging import read_tags
from katlit.text.protocol import Mode

SCORE = '{"score": 2, "reasons": "It is\\nwrong."}'


@pytest.mark.parametrize(
    "text", [SCORE, f"```json\n{SCORE}\n```", f" ```JSON \n\n{SCORE}\n \n```\n", f"```\n{SCORE}```"]
)
def test_a_score_is_read_bare_or_in_a_fence(text: str) -> None:
    assert read_score(text) == (2, "It is wrong.")


@pytest.mark.parametrize("text", [f"```json\n{SCORE}", f"Here:\n```\n{SCORE}\n```", "```\n```", "```"])
def test_what_is_no_score_is_none(text: str) -> None:
    assert read_score(text) is None


def test_half_a_character_is_no_reason_that_a_file_cannot_hold() -> None:
    found = read_score(r'{"score": 2, "reasons": "a \ud83d b \ud83d\ude00"}')
    assert found == (2, "a \ufffd b \U0001f600")


def test_line_breaks_without_end_are_read_at_once() -> None:
    breaks = "\n" * 200_000  # of which a quadratic reader would not come to an end here
    for text in (f"```{breaks}```\n```{breaks}x", f"```{breaks}``` x", f"```{breaks}```"):
        assert read_score(text) is None


def test_brackets_in_brackets_are_no_tags() -> None:
    assert read_tags('{"needs_reasoning": ' + "[" * 50_000 + "]" * 50_000 + "}") is None


@pytest.mark.parametrize("text", ["\x1b[2J", "a\rb", "\u202e", "\x00"])
def test_a_judge_text_moves_no_cursor(text: str, sums: list[Prompt]) -> None:
    told = read_judge(f"No, it is a plain {text} sum.", Mode.THINK_OFF, sums[0], "none")
    assert told[1] == "it is no line of at least 3 words and at most 200 characters"


def test_ctrl_c_ends_a_batch_that_is_being_sampled() -> None:
    class Slow:
        def answer(self, requests: Any) -> list[Any]:
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the batch went on")

    request: Any = SimpleNamespace(sampling=None)
    model: Any = Slow()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(_ask(model, request))
    assert signal.getsignal(signal.SIGINT) is before


async def _ask(model: Any, request: Any) -> None:
    await Batches(lambda: True).ask(model, request)
