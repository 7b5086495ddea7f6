"""Whether an answer calls the tools that the reference calls, with the same arguments."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from katlit.batch import Prompt
from katlit.errors import UserError
from katlit.rewards.base import Reward, Sample, Verdict
from katlit.rewards.match import empty_reference
from katlit.text.printable import short_line
from katlit.text.tool_calls import ToolCall, split_answer, tool_names


class ToolCallReward(Reward):
    """1 where the answer makes the reference's calls of tools, each with equal arguments, else 0.

    The order of calls and of the keys of their arguments does not count, nor does text before the calls; 1
    and 1.0 are equal, 1 and true are not. The reference is JSON: one call or a list of them, of `name` and
    `arguments` or in OpenAI's form; an empty list means that no tool is to be called. Malformed calls, and
    calls of tools that are not offered, are wrong.
    """

    def reference_problem(self, prompt: Prompt) -> str | None:
        """See `Reward`."""
        if problem := empty_reference(prompt):
            return problem
        calls = read_calls(prompt["reference"])
        if calls is None:
            return f"its reference is no JSON of calls of tools: {short_line(prompt['reference'], 80)!r}"
        offered = tool_names(prompt.get("tools"))
        unknown = [call.name for call in calls if offered is not None and call.name not in offered]
        return f"its reference calls {unknown[0]!r:.80}, which the prompt does not offer" if unknown else None

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        """See `Reward`."""
        return [self._verdict(sample) for sample in samples]

    def _verdict(self, sample: Sample) -> Verdict:
        if problem := self.reference_problem(sample.prompt):
            raise UserError(f"prompt {sample.prompt['id']!r}: {problem}; mend it or leave the prompt out")
        if sample.answer is None:
            return Verdict(0.0, "no answer")
        _, made, fault = split_answer(sample.answer, tool_names(sample.prompt.get("tools")))
        if fault is not None:
            return Verdict(0.0, fault.value)
        wanted = read_calls(sample.prompt["reference"]) or []
        if Counter(call.name for call in made) != Counter(call.name for call in wanted):
            return Verdict(0.0, f"it calls {_named(made)}, not {_named(wanted)}")
        if Counter(map(_key, made)) != Counter(map(_key, wanted)):
            return Verdict(0.0, "arguments differ from the reference's")
        return Verdict(1.0, "the reference's calls")


def read_calls(reference: str) -> list[ToolCall] | None:
    """The calls that a reference names; None where it is no JSON of calls."""
    found = _from_json(reference)
    calls = [_call(one) for one in (found if isinstance(found, list) else [found])]
    read = [call for call in calls if call is not None]
    return read if len(read) == len(calls) else None


def _call(value: Any) -> ToolCall | None:
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict):
        return None
    name, arguments = function.get("name"), function.get("arguments")
    arguments = _from_json(arguments) if isinstance(arguments, str) else arguments
    return ToolCall(name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _named(calls: Sequence[ToolCall]) -> str:
    return ", ".join(call.name for call in calls) or "no tool"


def _key(call: ToolCall) -> str:
    """A text that equal calls have in common."""
    try:
        return json.dumps([call.name, _plain(call.arguments)], sort_keys=True)
    except RecursionError:
        return f"nested too deeply: {id(call)}"


def _plain(value: Any) -> Any:
    """Numbers as JSON means them: 1.0 is 1."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: _plain(part) for key, part in value.items()}
        case list():
            return [_plain(part) for part in value]
    return value
