"""What is read from templates and replies about how a model thinks; pure functions."""

from typing import Any

import pytest
from jsonargparse import ArgumentParser

from katlit.datamodules.dialects.habits import (
    Habit,
    ThinkingSettings,
    habit_of,
    instruct,
    merge_system,
    read_template,
    split_steps,
)
from katlit.errors import UserError

SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1"}
ASSISTANT = {"role": "assistant", "content": "2"}
TURNS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def with_template(fast: Any, template: str, *tokens: str) -> Any:
    tokenizer = fast("byte-small")
    tokenizer.add_tokens(list(tokens))
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "habit", "certain", "on"),
    [
        (TURNS + "<think>\n", "always", True, {}),
        (TURNS + "{% if enable_thinking %}<think>{% endif %}", "switch", True, {"enable_thinking": True}),
        (TURNS + "{% if not thinking %}</think>{% endif %}", "switch", True, {"thinking": True}),
        (TURNS + "{{ enable_thinking }}<think>", "always", True, {"enable_thinking": True}),
        ("{{ reasoning_effort }}" + TURNS, "switch", False, {"reasoning_effort": "high"}),
        (
            "{% if reasoning_effort not in ['low', 'high'] %}{{ raise_exception('unknown') }}{% endif %}"
            "{{ reasoning_effort }}" + TURNS,
            "switch", False, {"reasoning_effort": "high"},
        ),
        (TURNS, "never", False, {}),
    ],
)  # fmt: skip
def test_what_a_template_tells(
    fast: Any, template: str, habit: Habit, certain: bool, on: dict[str, Any]
) -> None:
    if "unknown" in template:  # it refuses a prompt without its variable, too
        template = "{% set reasoning_effort = reasoning_effort | default('low') %}" + template
    found = read_template(with_template(fast, template), "t", ThinkingSettings())
    assert (found.habit, found.certain, found.on) == (habit, certain, on)
    assert found.on != found.off or not on


def test_a_mark_in_the_vocabulary_makes_a_thinking_model_the_better_guess(fast: Any) -> None:
    found = read_template(with_template(fast, TURNS, "<think>", "</think>"), "t", ThinkingSettings())
    assert (found.habit, found.certain) == ("always", False)


def test_what_the_user_says_is_certain(fast: Any) -> None:
    tokenizer = with_template(fast, "{{ depth }}" + TURNS + "<think>")
    found = read_template(tokenizer, "t", ThinkingSettings("switch", {"depth": 9}, {"depth": 0}))
    assert (found.habit, found.certain, found.on, found.off) == ("switch", True, {"depth": 9}, {"depth": 0})
    assert read_template(tokenizer, "t", ThinkingSettings("never")).habit == "never"
    with pytest.raises(
        UserError, match=r"thinking\.habit: switch, .* all values of level; give other thinking\.variables_on"
    ):
        read_template(tokenizer, "t", ThinkingSettings("switch", {"level": 1}, {"level": 0}))


def test_settings_are_read_from_yaml_as_they_are_written() -> None:
    """`on` and `off` would be truth values as keys."""
    parser = ArgumentParser()
    parser.add_argument("--thinking", type=ThinkingSettings)
    text = "thinking: {habit: switch, variables_on: {depth: high}, variables_off: {depth: none}}"
    read = parser.instantiate_classes(parser.parse_string(text)).thinking
    assert read == ThinkingSettings("switch", {"depth": "high"}, {"depth": "none"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"opening": " "}, r"thinking\.opening:  ; give some text"),
        ({"marker": "Result:"}, r"thinking\.instruction: .*; give one with the marker 'Result:'"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ThinkingSettings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("template", "system"),
    [
        (TURNS, True),
        ("{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + TURNS, False),
        ("{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}", False),
    ],
)
def test_system_turns_that_a_template_refuses_or_drops_are_seen(
    fast: Any, template: str, system: bool
) -> None:
    assert read_template(with_template(fast, template), "t", ThinkingSettings()).system is system


def test_system_turns_move_into_the_user_turn_after_them() -> None:
    merged = {"role": "user", "content": "Be brief.\n\n1+1"}
    assert merge_system([SYSTEM, USER]) == [merged]
    assert merge_system([USER, ASSISTANT, SYSTEM, USER]) == [USER, ASSISTANT, merged]
    assert merge_system([USER, ASSISTANT]) == [USER, ASSISTANT]
    assert merge_system([SYSTEM]) == [{"role": "user", "content": "Be brief."}]


def test_an_instruction_follows_the_last_question() -> None:
    turns = instruct([USER, ASSISTANT, USER], "Think.")
    assert [turn["content"] for turn in turns] == ["1+1", "2", "1+1\n\nThink."]
    assert instruct([SYSTEM], "Think.") == [SYSTEM]


@pytest.mark.parametrize(
    ("on", "off", "switches", "habit"),
    [
        ([True] * 4, [False] * 4, True, "switch"),
        ([True] * 4, [True] * 4, True, "always"),
        ([True, True, False, False], [False] * 4, False, "always"),
        ([True, False, False, False], [False] * 4, True, "never"),
    ],
)
def test_replies_decide(on: list[bool], off: list[bool], switches: bool, habit: Habit) -> None:
    assert habit_of(on, off, switches=switches) == habit


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1 and 1 is 2.\n\nFinal answer:\n2", ("1 and 1 is 2.", "2")),
        ("1 and 1 is 2.\n**Final answer: 2**", ("1 and 1 is 2.", "2")),
        ("1 and 1 is 2.\n**Final Answer:** **2**", ("1 and 1 is 2.", "**2**")),
        ("1 and 1 is 2.\n\n### final  answer:\n2\nor two", ("1 and 1 is 2.", "2\nor two")),
        ("The final answer: 3? No.\n**Final answer**: 2", ("The final answer: 3? No.", "2")),
        ("Final answer: 2", ("", "2")),
        ("1 and 1 is 2. So the answer is 2.", ("1 and 1 is 2.", "So the answer is 2.")),
        (
            "The answer is one?\nNo.\n**Therefore, the final answer is 2**",
            ("The answer is one?\nNo.", "**Therefore, the final answer is 2**"),
        ),
        ("1 and 1 is 2.\n#### 2", ("1 and 1 is 2.", "#### 2")),
        ("#### Step 1\n1 and 1\n#### Step 2\nSo 2.", None),  # headings
        ("#### Step 1\n1 and 1\n#### 2\n", ("#### Step 1\n1 and 1", "#### 2")),
        ("1 and 1 is 2, and the answer is 2.", None),
        ("So the final answer is 2.", None),
        ("2", None),
    ],
)
def test_reasoning_is_parted_from_the_answer(text: str, parts: tuple[str, str] | None) -> None:
    assert split_steps(text, "Final answer:") == parts
