"""What ends a turn in templates of several families; a template's text does not depend on the day."""

from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from katlit.errors import UserError
from katlit.text.protocol import prepare_tokenizer
from katlit.text.rendering import needed_variables, render, turn_ends

ASK = [{"role": "user", "content": "?"}]
TURNS = "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] | trim }}CLOSE{% endfor %}"


def chat(template: str | None, *tokens: str, eos: str | None = None) -> Any:
    model = models.BPE({t: i for i, t in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|start|>", *tokens]})
    tokenizer.chat_template = template
    return tokenizer


def closed_by(text: str) -> str:
    return TURNS.replace("CLOSE", text)


@pytest.mark.parametrize(
    ("tokenizer", "ends"),
    [
        (chat(closed_by("<end_of_turn>\n"), "<end_of_turn>", eos="<eos>"), ["<end_of_turn>", "<eos>"]),
        (chat(closed_by("<|eot_id|>"), "<|eot_id|>", eos="<|eot_id|>"), ["<|eot_id|>"]),
        (
            chat(closed_by("<|end|>\n") + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}",
                 "<|end|>", eos="<|endoftext|>"),
            ["<|end|>", "<|endoftext|>"],
        ),
        (chat(closed_by("{{ eos_token }}"), eos="</s>"), ["</s>"]),
        (chat(closed_by("\n"), eos="</s>"), ["</s>"]),
        (chat(closed_by("<|im_end|>\n"), "<|im_end|>"), ["<|im_end|>"]),
        (chat("{% for t in tools %}{% endfor %}" + closed_by("<|im_end|>"), "<|im_end|>"), ["<|im_end|>"]),
        (chat("{{ raise_exception('no') }}", eos="</s>"), ["</s>"]),
        (chat("{{ messages[0]['content'] }}", "<|im_end|>", eos="</s>"), ["</s>"]),
        (chat(None, eos="</s>"), ["</s>"]),
        (chat(closed_by("\n")), []),
    ],
)  # fmt: skip
def test_the_template_says_first_what_ends_a_turn(tokenizer: Any, ends: list[str]) -> None:
    assert tokenizer.convert_ids_to_tokens(turn_ends(tokenizer)) == ends


def test_declared_ends_come_last_and_none_twice() -> None:
    tokenizer = chat(closed_by("<end_of_turn>\n"), "<end_of_turn>", eos="<eos>")
    first, second = turn_ends(tokenizer)
    assert turn_ends(tokenizer, [second, 7, first]) == [first, second, 7]


def test_our_own_template_closes_by_its_end() -> None:
    tokenizer = chat(closed_by("<|end|>"), "<|end|>", eos="</s>")
    prepare_tokenizer(tokenizer)
    assert turn_ends(tokenizer) == [tokenizer.convert_tokens_to_ids("<|im_end|>")]


def test_a_template_that_names_the_day_names_one_day() -> None:
    tokenizer = chat("{{ strftime_now('%d %b %Y') }} {{ messages[0]['content'] }}")
    assert render(tokenizer, ASK) == "26 Jul 2024 ?"


def test_what_a_template_needs_is_found_or_named() -> None:
    assert needed_variables(chat(closed_by("")), "t") == {}
    assert needed_variables(chat("{{ tools | length }}{{ messages[0]['content'] }}"), "t") == {"tools": []}
    with pytest.raises(UserError, match=r"t: its chat template refuses a single user turn.*\(only tools\)"):
        needed_variables(chat("{{ raise_exception('only tools') }}"), "t")
