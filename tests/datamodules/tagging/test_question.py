"""The question for tags, and what is read out of replies."""

import json
import time
from typing import Any

import pytest

from katlit.datamodules.tagging import QUESTION, Tags, read_tags, tag_question
from katlit.errors import UserError

VALUES: dict[str, Any] = {
    "needs_reasoning": True, "domain": "math", "difficulty": 3, "checkable": True, "how": "math",
}  # fmt: skip
TAGS = Tags(**VALUES)


def reply(**changes: Any) -> str:
    return json.dumps(VALUES | changes)


@pytest.mark.parametrize(
    "text",
    [
        reply(),
        f"```json\n{reply()}\n```",
        f"Here you are:\n{reply()}\nI hope that this helps {{you}}.",
        json.dumps(VALUES, indent=2),
        reply(confidence=0.9),
        reply(domain=" Math "),
        f"<think>It is {reply(difficulty=5)}, or is it?</think>\n{reply()}",
        f"It may be {reply(difficulty=5)}; no, rather {reply()}",
        f"{reply()} and {reply(difficulty=9)}",  # the last that may be
        f"{reply()}\n<think>{reply(difficulty=5)}",  # a thought that never ends
        f"}}{{{{ {reply()}",
    ],
)
def test_what_is_read(text: str) -> None:
    assert read_tags(text) == TAGS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot tell.",
        "math, difficulty 3",
        reply()[:-1],
        reply()[1:],
        f"<think>{reply()}",
        f"[{json.dumps([1, 2])}]",
        str(VALUES),  # Python's spelling is never evaluated
        reply(needs_reasoning="yes"),
        reply(needs_reasoning=1),
        reply(difficulty="3"),
        reply(difficulty=3.0),
        reply(difficulty=True),
        reply(difficulty=0),
        reply(difficulty=6),
        reply(difficulty=None),
        reply(domain=""),
        reply(domain="x" * 41),
        reply(domain="math\nand more"),
        reply(domain="\ud800"),
        reply(how="Math"),
        reply(how="eval"),
        reply(how="none"),
        reply(checkable=False),
        json.dumps({key: value for key, value in VALUES.items() if key != "how"}),
        reply(difficulty=3).replace("3", "NaN"),
        reply(difficulty=3).replace("3", "9" * 5000),
        reply(domain=["math"]),
        json.dumps({"tags": "none"}),
    ],
)
def test_what_is_no_reply(text: str) -> None:
    assert read_tags(text) is None


def test_a_long_reply_takes_no_time() -> None:
    begun = time.process_time()
    for part in ("{", "{}", '{"a":', "[" * 50, "<think>"):
        read_tags(part * 100_000)
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "user", "content": "What is {1} + 1?"}], "[What is {1} + 1?]"),
        (
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
            "[system: Be brief.\n\nuser: Why?]",
        ),
        (
            [
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": None, "tool_calls": [{"name": "weather"}]},
                {"role": "tool", "content": "rain"},
            ],
            '[user: Weather?\n\nassistant: {"name": "weather"}\n\ntool: rain]',
        ),
    ],
)
def test_a_conversation_stands_in_its_place(messages: list[dict[str, Any]], said: str) -> None:
    assert tag_question("[{question}]", messages) == said
    assert said[1:-1] in tag_question(QUESTION, messages)


def test_the_example_of_the_question_can_be_read() -> None:
    assert read_tags(QUESTION) == TAGS


def test_a_template_without_a_place_is_refused() -> None:
    with pytest.raises(UserError, match=r"tagging\.template.*\{question\}"):
        tag_question("Tag it.", [{"role": "user", "content": "?"}])
