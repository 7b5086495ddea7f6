"""What an engine is asked: the turns of a prompt with the tools that it offers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinymodel import tiny_backbone
from tinyrollouts import prompt

from katlit.batch import Prompt
from katlit.engines.base import Completion, SamplingParameters
from katlit.rewards import CompositeReward
from katlit.rollout.requests import RolloutSettings, answers, requests_of

PLAIN = prompt(0)
CALL = {"id": "call00000", "type": "function", "function": {"name": "add", "arguments": {"a": 17}}}
LOOP: Prompt = {
    **prompt(1),
    "messages": [
        *PLAIN["messages"],
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "it is 18", "tool_call_id": "call00000", "name": "add"},
    ],
    "tools": [{"type": "function", "function": {"name": "add", "description": "Adds up."}}],
}


class Silent:
    """Keeps what it was asked."""

    max_context = 4096

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def fits(self, prompt_ids: Sequence[int], new: int) -> bool:
        return len(prompt_ids) + new < self.max_context

    def generate(self, prompts: Sequence[list[int]], *_: object) -> list[Completion]:
        self.asked += prompts
        return [Completion([1], [0.0], "stop") for _ in prompts]


def test_tools_calls_and_results_are_asked_with(tmp_path: Path) -> None:
    protocol, engine = tiny_backbone(tmp_path).protocol, Silent()
    silent: Any = engine
    sampling = SamplingParameters(max_tokens=8)
    settings = RolloutSettings(CompositeReward(), sampling, 0)
    requests = requests_of(silent, protocol, [PLAIN, LOOP], ["on", "auto"], settings, "0")
    answers(silent, protocol, [PLAIN, LOOP], {"auto": "predict"}, sampling, 0)
    asked = [request.prompt_ids for request in requests] + engine.asked
    for text in map(protocol.decode, [*asked[2:4], asked[5]]):
        for part in ("Adds up.", '{"name": "add", "arguments": {"a": 17}}', "it is 18"):
            assert part in text
    assert not any("Adds up." in protocol.decode(ids) for ids in [*asked[:2], asked[4]])
