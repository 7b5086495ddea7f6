from pathlib import Path
from typing import Any

import pytest

from katlit.datamodules.dialects.dialects import PlainDialect, choose_dialect
from katlit.errors import UserError
from katlit.model.pretrained import load_tokenizer

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
