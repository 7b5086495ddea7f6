from collections.abc import Callable
from typing import Any

import pytest

from katlit.batch import Prompt
from katlit.datamodules.labelling.chat_model import ChatModel, Reply
from katlit.datamodules.labelling.rejections import Reason
from katlit.datamodules.labelling.replies import accept
from katlit.rewards import Reward
from katlit.text.protocol import Mode, ParsedResponse, Violation

ON, OFF = Mode.THINK_ON, Mode.THINK_OFF


@pytest.mark.parametrize(
    ("asked", "mode", "think", "answer", "reason"),
    [
        (ON, ON, "1+1 = 2", "2", None),
        (OFF, OFF, "", "2", None),
        (ON, ON, "", "2", Reason.MODE),  # by its marks it thinks, and has no word of a thought
        (ON, ON, " \n", "2", Reason.MODE),
        (OFF, ON, "1+1 = 2", "2", Reason.MODE),
        (ON, ON, "1+1 = 2", "", Reason.MALFORMED),
        (OFF, OFF, "", " \n", Reason.MALFORMED),
    ],
)
@pytest.mark.parametrize("reference", ["2", ""])
def test_a_thought_and_an_answer_have_words(
    talk: Callable[[Any], ChatModel],
    make_engine: Any,
    make_prompt: Callable[..., Prompt],
    accuracy: Reward,
    asked: Mode,
    mode: Mode,
    think: str,
    answer: str,
    reason: Reason | None,
    reference: str,
) -> None:
    """Where nothing can be verified, the shortest of all would else be the one that says nothing."""
    model = talk(make_engine())
    reply = Reply(ParsedResponse("j", mode, think, answer, None), [[1], "stop"], tokens=1, truncated=False)
    kept = accept(make_prompt("1+1", reference), [reply], asked, model, accuracy)
    assert kept == ([reply] if reason is None else [])
    assert dict(model.rejections.counts) == ({} if reason is None else {(reason, asked): 1})


def test_what_the_protocol_finds_comes_first(
    talk: Callable[[Any], ChatModel], make_engine: Any, make_prompt: Callable[..., Prompt], accuracy: Reward
) -> None:
    model = talk(make_engine())
    parsed = [
        ParsedResponse("j", ON, "", None, Violation.UNCLOSED_THINK),
        ParsedResponse("j", ON, "t", "", None),
    ]
    replies = [Reply(one, [[1], "stop"], tokens=1, truncated=False) for one in parsed]
    assert accept(make_prompt("1+1"), replies, ON, model, accuracy) == []
    assert [row["why"] for row in model.rejections.rows] == ["unclosed_think", "it is empty"]
    assert model.rejections.counts == {(Reason.MALFORMED, ON): 2}
