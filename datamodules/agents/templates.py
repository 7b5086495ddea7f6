"""What the agents are told: templates with placeholders, and the defaults; all the words are our choice."""

import re
from collections.abc import Mapping, Sequence

from katlit.batch import Prompt
from katlit.datamodules.tool_turns import Turn
from katlit.errors import UserError

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")

SOLVER = """{question}

Work out a solution in a few lines and end with the answer."""

THINKER = """{question}

Below is a draft of a solution. It may be wrong, or leave out steps.
<draft>
{draft}
</draft>
Objections to it: {objections}

Solve the question yourself, from its beginning. Take from the draft what is right, correct what is not, and
write out each step that it leaves out. Whoever reads your solution knows no draft and no objections, so do
not mention them."""

CRITIC = """Judge a solution.

<question>
{question}
</question>
<reasoning>
{think}
</reasoning>
<answer>
{answer}
</answer>

{rubric}

Reply with one line of JSON and nothing else:
{"score": a whole number from 1 to 5, "reasons": "what has to be mended, in one or two sentences"}"""

RUBRIC = """5: the answer is correct, complete and what was asked for; each step of the reasoning follows.
4: the answer is correct; a step could be clearer.
3: the answer may be correct, but steps are missing or do not follow.
2: an error changes the answer, or a part of the question is left out.
1: it does not answer the question."""

WRITER = """{question}

Does this question need several steps of reasoning? The right reply is: {decision}.
Write that reply as one short sentence that begins with "{decision}," and tells why from the kind of question.
Do not answer the question and do not calculate."""


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put values in the places of a template; what looks like a placeholder within a value stays.

    Args:
        template: Text with places such as `{question}`; other braces are text.
        values: What goes into them.
    """
    return _PLACEHOLDER.sub(lambda found: values[found[1]], template)


def check_template(template: str, key: str, known: Sequence[str], needed: Sequence[str]) -> None:
    """Refuse a template with places that nothing goes into, or without those that it cannot do without.

    Raises:
        UserError: naming the setting and the placeholder.
    """
    found = set(_PLACEHOLDER.findall(template))
    if unknown := sorted(found - set(known)):
        raise UserError(f"{key}: {{{unknown[0]}}} is no placeholder; known: {_listed(known)}")
    if missing := [name for name in needed if name not in found]:
        raise UserError(f"{key}: it lacks {{{missing[0]}}}, so the model would not see it; put it in")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)


def conversation_text(prompt: Prompt) -> str:
    """Return a prompt as one text: its question, or all turns where there are several."""
    turns = prompt["messages"]
    if len(turns) == 1:
        return str(turns[0]["content"])
    return "\n\n".join(f"{turn['role'].capitalize()}: {_said(turn)}" for turn in turns)


def _said(turn: Turn) -> str:
    calls = [
        f"(calls {call['function']['name']} with {call['function']['arguments']})"
        for call in turn.get("tool_calls", [])
    ]
    return "\n".join(filter(None, [turn.get("content") or "", *calls]))
