"""A source of the user's own, in every stage that reads prompts."""

from typing import Any

import pytest

from katlit.batch import Prompt
from katlit.datamodules import CleanedPrompts, PromptData
from katlit.datamodules.sources.base import PromptSource
from katlit.errors import UserError


class Own(PromptSource):
    """A source of the user's own: prompts as its data set has them."""

    def __init__(self, *prompts: Prompt) -> None:
        self.prompts = list(prompts)

    def load(self) -> list[Prompt]:
        return self.prompts


def test_a_source_of_ones_own_is_held_to_what_files_are(sums: list[Prompt]) -> None:
    call = {"function": {"name": "add", "arguments": '{"a": 1}'}}
    turns = [
        *sums[0]["messages"],
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": 2},
    ]
    prompt: Prompt = {**sums[0], "messages": turns, "tools": [{"name": "add"}], "reference": " "}
    for stage in ("train", "validation", "test", "predict"):
        data = PromptData(**{"train": Own(sums[1])} | {stage: Own(prompt)})
        name = "fit" if stage in ("train", "validation") else stage
        data.setup(name)
        (read,) = data._stages[0] if stage == "train" else data._loaded[stage]
        assert read["tools"] == [{"type": "function", "function": {"name": "add"}}]
        assert read["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
        assert read["messages"][2]["content"] == "2"
        assert read["reference"] == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "1+2"}, "^Own: id '1.2' appears twice; ids must differ"),
        ({"messages": [{"role": "bot", "content": "1"}]}, "^Own: turn 1 of 'messages': its role is 'bot'"),
        ({"tools": "add"}, "^Own: field 'tools': it must be a list of tools"),
    ],
)
def test_what_such_a_source_has_wrong_is_named(
    sums: list[Prompt], change: dict[str, str], message: str
) -> None:
    wrong: Any = sums[0] | change
    own = Own(wrong, sums[1])
    for source in own, CleanedPrompts(own), CleanedPrompts(Own(sums[2]), [own]):
        with pytest.raises(UserError, match=message):
            PromptData(train=source).setup("fit")
    del wrong["metadata"]
    with pytest.raises(UserError, match=r"^Own: prompt 1 lacks \['metadata'\]; see katlit\.batch\.Prompt"):
        PromptData(test=Own(wrong)).setup("test")
