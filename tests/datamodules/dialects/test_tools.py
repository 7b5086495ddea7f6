from pathlib import Path
from typing import Any

import pytest

from katlit.datamodules.dialects.alignment import pair_targets
from katlit.datamodules.dialects.dialects import PlainDialect, choose_dialect
from katlit.datamodules.dialects.habits import ThinkingSettings
from katlit.errors import UserError
from katlit.model.pretrained import load_tokenizer
from katlit.text.protocol import Mode, Response

ASK = {"role": "user", "content": "5 - 3"}
TOOLS = [{"type": "function", "function": {"name": "subtract", "parameters": {}}}]
CALL = {"name": "subtract", "arguments": {"left": 5}}
CALLED = [
    ASK,
    {"role": "assistant", "content": "", "tool_calls": [{"id": "call00000", "function": CALL}]},
    {"role": "tool", "content": "2", "name": "subtract", "tool_call_id": "call00000"},
]

OFFERS = "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}"
TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}CALLS\n{% endfor %}[assistant]"
HERMES = (
    "{% for c in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}"
)
# Explains the form with another call, as Qwen2.5's does.
EXPLAINED = "<tool_call>\n{name: …}\n</tool_call>\n"
OTHER = "{% for c in m.tool_calls or [] %}[{{ c.function.name }}({{ c.function.arguments }})]{% endfor %}"
XML = "{% for c in m.tool_calls or [] %}<tool_call>\n<function={{ c.function.name }}></tool_call>{% endfor %}"
REFUSES = "{% if messages[-1].role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"


def dialect_of(models_root: Path, template: str) -> PlainDialect:
    tokenizer: Any = load_tokenizer(str(models_root / "plain"), "model")
    tokenizer.chat_template = template
    dialect = choose_dialect(tokenizer, "plain")
    assert isinstance(dialect, PlainDialect)
    return dialect


def test_a_template_gets_the_tools(models_root: Path) -> None:
    dialect = dialect_of(models_root, OFFERS + EXPLAINED + TURNS.replace("CALLS", HERMES))
    dialect.check([([ASK], TOOLS), (CALLED, TOOLS), ([ASK], None)])
    for ids in (dialect.encode_prompt(CALLED, "on", TOOLS), dialect.encode_prompt([ASK], "off", TOOLS)):
        assert '"name": "subtract", "parameters"' in dialect.tokenizer.decode(ids)
    text = dialect.tokenizer.decode(dialect.encode_prompt(CALLED, "on", TOOLS))
    assert '<tool_call>\n{"name": "subtract", "arguments": {"left": 5}}\n</tool_call>[tool]2' in text
    assert "subtract" not in dialect.tokenizer.decode(dialect.encode_prompt([ASK], "on"))


BLOCK = '<tool_call>\n{"name": "subtract", "arguments": {"left": 5}}\n</tool_call>'


QUOTES = BLOCK.replace("5", '"in <tool_call> and </tool_call> tags"')


@pytest.mark.parametrize(
    ("reply", "answer", "violation"),
    [
        (BLOCK, BLOCK, None),
        (f"I subtract.\n\n{BLOCK}\n", f"I subtract.\n{BLOCK}", None),
        (f"{BLOCK}\n\n{BLOCK}", f"{BLOCK}\n{BLOCK}", None),
        (BLOCK.replace("\n", ""), BLOCK, None),
        ("It is 2.\n", "It is 2.", None),
        (BLOCK.replace("}}", "}"), BLOCK.replace("}}", "}"), "malformed_tool_call"),
        (BLOCK.removesuffix("\n</tool_call>"), BLOCK.removesuffix("\n</tool_call>"), "unclosed_tool_call"),
        (BLOCK.replace("subtract", "add"), BLOCK.replace("subtract", "add"), "unknown_tool"),
        ("Calls begin with <tool_call>, then JSON.", "Calls begin with <tool_call>, then JSON.", None),
        ("<tool_call>subtract(5)</tool_call>", "<tool_call>subtract(5)</tool_call>", "malformed_tool_call"),
        (QUOTES, QUOTES, None),
        (QUOTES.replace("\n", ""), QUOTES, None),
        ('<tool_call>{"name": 1', '<tool_call>\n{"name": 1', "unclosed_tool_call"),
        (f"{BLOCK}\nThere.", f"{BLOCK}\nThere.", "text_after_tool_call"),
    ],
)
def test_calls_in_replies_are_read_in_our_form(
    models_root: Path, reply: str, answer: str, violation: str | None
) -> None:
    dialect = dialect_of(models_root, OFFERS + TURNS.replace("CALLS", HERMES))
    ids = dialect.tokenizer(f"{reply}[end]")["input_ids"]
    read = dialect.read(ids, "off", truncated=False, tools=TOOLS)
    assert (read.answer, read.violation and read.violation.value) == (answer, violation)
    assert dialect.read(ids, "off", truncated=False).answer == reply.strip()
    assert dialect.read(ids, "off", truncated=True, tools=TOOLS).violation == "truncated"


@pytest.mark.parametrize(
    ("reply", "think", "answer"),
    [
        (f"I subtract.\n{BLOCK}", "I subtract.", BLOCK),
        (f"I subtract.\n\nFinal answer:\n{BLOCK}", "I subtract.", BLOCK),
        (BLOCK, "", BLOCK),
    ],
)
def test_what_a_model_without_thoughts_says_before_its_calls_is_its_thought(
    models_root: Path, reply: str, think: str, answer: str
) -> None:
    tokenizer = dialect_of(models_root, OFFERS + TURNS.replace("CALLS", HERMES)).tokenizer
    dialect = PlainDialect(tokenizer, "{question}", thinking=ThinkingSettings("never"))
    read = dialect.read(tokenizer(f"{reply}[end]")["input_ids"], "on", truncated=False, tools=TOOLS)
    assert (read.think, read.answer, read.valid) == (think, answer, True)
    assert read.mode is (Mode.THINK_ON if think else Mode.THINK_OFF)


def test_the_tags_of_calls_are_the_tokens_that_the_model_has(models_root: Path) -> None:
    dialect = dialect_of(models_root, OFFERS + TURNS.replace("CALLS", HERMES))
    dialect.tokenizer.add_tokens(["<tool_call>", "</tool_call>"])
    student = choose_dialect(load_tokenizer(str(models_root / "ours"), "model"), "ours")

    def answer_of(side: Any, answer: str) -> Any:
        (piece,) = (
            one
            for one in side.lay_out(Response("j", Mode.THINK_OFF, answer))
            if one.name == "<answer> content" and one.text == answer
        )
        return piece

    answer = f"über\n{BLOCK}\n{BLOCK}"
    theirs, ours = answer_of(dialect, answer), answer_of(student, answer)
    assert [token for token in theirs.tokens if "tool" in token] == 2 * ["<tool_call>", "</tool_call>"]
    assert dialect.tokenizer.decode(theirs.token_ids) == answer
    assert None not in theirs.starts
    for left, right in pair_targets([ours], [theirs]):
        assert ours.starts[left] == theirs.starts[right]
    tags = [place for place, token in enumerate(theirs.tokens) if "tool" in token]
    assert set(tags) <= {right for _, right in pair_targets([ours], [theirs])}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (TURNS.replace("CALLS", HERMES), "its chat template knows no tools"),
        (OFFERS + TURNS.replace("CALLS", ""), "its chat template does not write calls"),
        (OFFERS + TURNS.replace("CALLS", OTHER), "its chat template does not write calls"),
        (OFFERS + TURNS.replace("CALLS", XML), "its chat template does not write calls"),
        (OFFERS + REFUSES + TURNS.replace("CALLS", HERMES), "its chat template does not write calls"),
    ],
)
def test_a_template_that_knows_no_tools_is_named(models_root: Path, template: str, message: str) -> None:
    dialect = dialect_of(models_root, template)
    dialect.check([([ASK], None), ([ASK], [])])
    with pytest.raises(UserError, match=f"plain: {message}"):
        dialect.check([([ASK], None), ([ASK], TOOLS)])
