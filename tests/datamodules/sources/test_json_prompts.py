from dataclasses import dataclass, field
from typing import Any

import pytest

from katlit.batch import Prompt
from katlit.datamodules import JSONPrompts, PromptSource
from katlit.datamodules.json_requests import REQUESTS
from katlit.errors import UserError

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def prompt_of(number: int, **more: Any) -> Prompt:
    values: dict[str, Any] = {
        "id": f"q{number}",
        "messages": [{"role": "user", "content": f"How much is {number} + 1?"}],
        "reference": str(number + 1),
        "verifier": "match",
        "domain": "",
        "difficulty": 0,
        "metadata": {},
    }
    return Prompt(**values | more)


@dataclass
class Given(PromptSource):
    prompts: list[Prompt] = field(default_factory=list)

    def load(self) -> list[Prompt]:
        return self.prompts


def test_a_share_asks_in_the_last_question_by_seed_and_query() -> None:
    prompts = [prompt_of(number) for number in range(400)]
    found = JSONPrompts(Given(prompts), 0.25, seed=3).load()
    asking = {old["id"]: new for old, new in zip(prompts, found, strict=True) if old != new}
    assert len(asking) == pytest.approx(100, abs=25)
    for old, new in zip(prompts, found, strict=True):
        assert {**new, "messages": old["messages"]} == old
        if old["id"] in asking:
            question = old["messages"][0]["content"]
            (request,) = [line for line in new["messages"][0]["content"].split("\n") if line != question]
            assert request in REQUESTS
    alone = [JSONPrompts(Given([prompt]), 0.25, seed=3).load()[0] for prompt in prompts]
    assert alone == found
    assert JSONPrompts(Given(prompts), 0.25, seed=4).load() != found
    assert JSONPrompts(Given(prompts), 0.0).load() == prompts


def test_calls_and_questions_for_an_object_stay_as_they_are() -> None:
    prompts = [
        prompt_of(1, tools=[TOOL]),
        prompt_of(2, reference=' {"a": 1}'),
        prompt_of(3, verifier="code", reference='["assert f(1) == 2"]'),
        prompt_of(4, verifier="tool_calls", reference="[]"),
    ]
    assert JSONPrompts(Given(prompts), 1.0).load() == Given(prompts).read()


def test_it_is_named_after_its_source_and_refuses_what_is_no_share() -> None:
    source = Given([prompt_of(1)])
    wrapped = JSONPrompts(source)
    assert (wrapped.name, wrapped.place("q1")) == (source.name, source.place("q1"))
    with pytest.raises(UserError, match=r"JSONPrompts.share: 2"):
        JSONPrompts(source, 2)
