"""What a chat template makes of a conversation, and what ends a turn in it; pure functions."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import TemplateError

from katlit.errors import UserError

# What templates raise of their own accord, and for conversations or variables that they do not expect.
TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError)

# Templates that name the day must not make other prompts, and other caches, of the same question tomorrow.
_DAY = datetime(2024, 7, 26, tzinfo=UTC)  # the one that Llama 3.1's template falls back to
_ANSWER = "Forty-two"  # of a finished turn; nothing that a template would cut or escape


def render(tokenizer: Any, messages: Sequence[Any], *, generate: bool = True, **variables: Any) -> str:
    """Render a conversation by the tokenizer's chat template; the same text on every day.

    Args:
        tokenizer: One with a chat template.
        messages: The turns.
        generate: End where the model takes over, else with the last turn.
        variables: Further variables of the template.
    """
    return str(
        tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=generate,
            tokenize=False,
            **{"strftime_now": _DAY.strftime} | variables,
        )
    )


def needed_variables(tokenizer: Any, name: str) -> dict[str, Any]:
    """Find what a template must be given to render one user turn: nothing, or an empty list of tools.

    Args:
        tokenizer: One with a chat template.
        name: Whose it is, for the message.

    Raises:
        UserError: where it refuses both.
    """
    refusal: Exception | None = None
    attempts: list[dict[str, Any]] = [{}, {"tools": []}]
    for variables in attempts:
        try:
            render(tokenizer, [{"role": "user", "content": "?"}], **variables)
        except TEMPLATE_ERRORS as error:
            refusal = refusal or error
        else:
            return variables
    raise UserError(
        f"{name}: its chat template refuses a single user turn, with and without an empty list of tools "
        f"({refusal}); use another model, or mend its chat_template.jinja"
    )


def turn_ends(tokenizer: Any, declared: Sequence[int] = ()) -> list[int]:
    """Find every token that ends a turn of the assistant.

    Args:
        tokenizer: Any fast tokenizer.
        declared: Ends that the model's generation settings name beside it.

    Returns:
        First the token that the chat template closes a finished turn with, which may differ from the
        tokenizer's end of sequence; then that one; then what is declared. None twice; empty where none is
        known.
    """
    found = [_closing(tokenizer), tokenizer.eos_token_id, *declared]
    return list(dict.fromkeys(token for token in found if token is not None))


def _closing(tokenizer: Any) -> int | None:
    """The first token of its own that the template writes after an answer."""
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = render(tokenizer, turns, generate=False, **needed_variables(tokenizer, "template"))
    except (UserError, *TEMPLATE_ERRORS):
        return None
    _, found, after = text.rpartition(_ANSWER)
    added = tokenizer.added_tokens_decoder
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if found else []
    return next((token for token in ids if token in added and added[token].content.strip()), None)
