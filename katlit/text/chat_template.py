r"""What a tokenizer gets for the protocol: markers, ChatML tokens, chat and response template (recipe §1).

The generation prompt ends in `<judge>\n`, or, where a caller switched thinking on or off, in a judge text and
the mode marker. The switches are `thinking` ("auto", "on", "off", true, false), `enable_thinking` and
`reasoning_effort` ("none" and "minimal" are off, all others on). Past assistant turns keep only their answer.
No default system turn, no beginning-of-text token: our choices.
"""

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from katlit.errors import UserError
from katlit.text.parser import MARKERS, TURN_END, TURN_START, Mode, unframe

PAD = "<|pad|>"

# Short, and without a full stop at the end, which some tokenizers would join with the line break after it.
FORCED_JUDGES = {
    Mode.THINK_ON: "The user asks for reasoning",
    Mode.THINK_OFF: "The user asks for a direct answer",
}
AFTER_JUDGE = "\n\n"  # between `</judge>` and the mode marker

# In Jinja as `answer_of` is in Python; only what other implementations of Jinja know as well.
_KEEP_ANSWER = r"""
{%- set after = content.split('</think>')[1:] | join('</think>') -%}
{%- if '<answer>' not in after -%}{%- set after = content -%}{%- endif -%}
{%- set content = after.split('<answer>')[1:] | join('<answer>') -%}
{%- if '</answer>' in content -%}
{%- set content = content.split('</answer>')[:-1] | join('</answer>') -%}
{%- endif -%}
{%- if content.startswith('\n') -%}{%- set content = content[1:] -%}{%- endif -%}
{%- if content.endswith('\n') -%}{%- set content = content[:-1] -%}{%- endif -%}
"""


def _forced(mode: Mode) -> str:
    prefill = f"{FORCED_JUDGES[mode]}\n</judge>{AFTER_JUDGE}{mode.marker}".replace("\n", r"\n")
    return f"{{%- if mode == '{mode.value}' -%}}{{{{- '{prefill}' -}}}}{{%- endif -%}}"


# How the switches of various clients name the mode, the most particular one first. vLLM turns every
# `reasoning_effort` but "none" into `enable_thinking`, so "minimal" has to be read before that.
_SWITCH = """
{%- set effort = reasoning_effort | default(none) -%}
{%- set enable = enable_thinking | default(none) -%}
{%- set mode = thinking | default(none) -%}
{%- if mode is none -%}
{%- if effort in ['none', 'minimal'] -%}{%- set mode = 'off' -%}
{%- elif enable is not none -%}{%- set mode = 'on' if enable else 'off' -%}
{%- else -%}{%- set mode = 'auto' if effort is none else 'on' -%}
{%- endif -%}
{%- elif mode is boolean -%}{%- set mode = 'on' if mode else 'off' -%}
{%- elif mode not in ['auto', 'on', 'off'] -%}
{{- raise_exception('thinking must be auto, on or off') -}}
{%- endif -%}
"""

CHAT_TEMPLATE = (
    _SWITCH.replace("\n", "") + "{%- for message in messages -%}"
    "{%- set content = message['content'] -%}"
    "{%- if message['role'] == 'assistant' and '<answer>' in content -%}"
    + _KEEP_ANSWER.strip()
    + "{%- endif -%}"
    + rf"{{{{- '{TURN_START}' + message['role'] + '\n' + content + '{TURN_END}\n' -}}}}"
    + "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    + rf"{{{{- '{TURN_START}assistant\n<judge>\n' -}}}}"
    + "".join(map(_forced, Mode))
    + "{%- endif -%}"
)

# How transformers' `parse_response` and vLLM's `--reasoning-parser hf` split a response into thinking and
# content. The judge belongs to neither; with think-off the thinking is empty and left out. `close` names the
# end of the turn too, since a server hands on the special token.
RESPONSE_TEMPLATE = {
    "start_anchor": f"{TURN_START}assistant\n",
    "fields": {
        "thinking": {
            "open_pattern": r"<judge>\n.*?</judge>\n\n(?:<think_on>\n<think>\n|<think_off>)",
            "close": ["\n</think>\n\n<answer>\n", "\n\n<answer>\n"],
        },
        "content": {"close": [f"\n</answer>{TURN_END}", "\n</answer>", TURN_END]},
    },
}


def answer_of(text: str) -> str:
    """Cut an assistant turn to the text inside `<answer>`; a turn without the marker is all answer.

    The answer starts after the thinking, which may speak of answers, and ends at the last `</answer>`.
    """
    if "<answer>" not in text:
        return text
    after = text.partition("</think>")[2]
    inside = (after if "<answer>" in after else text).partition("<answer>")[2]
    return unframe(inside.rpartition("</answer>")[0] if "</answer>" in inside else inside)


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> int:
    """Add markers, ChatML tokens, a pad token where there is none, and our templates, in place.

    Markers become added tokens that match verbatim and that `skip_special_tokens` leaves in the text, also
    where the tokenizer knew them as special ones. The end-of-sequence token becomes `<|im_end|>`, which is
    never the pad token. A second call changes nothing.

    Args:
        tokenizer: Any fast tokenizer; what it had keeps its id.

    Returns:
        How many token ids are new; they are the highest ones.

    Raises:
        UserError: where the tokenizer is not backed by the `tokenizers` library.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"tokenizer: {type(tokenizer).__name__} is no fast tokenizer; convert it to a tokenizer.json"
        )
    before = len(tokenizer)
    _add_markers(tokenizer)
    tokenizer.add_special_tokens({"eos_token": TURN_END})
    tokenizer.add_special_tokens({"extra_special_tokens": [TURN_START]}, replace_extra_special_tokens=False)
    if tokenizer.pad_token in (None, TURN_END):
        tokenizer.add_special_tokens({"pad_token": PAD})
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.response_template = RESPONSE_TEMPLATE
    return len(tokenizer) - before


def _add_markers(tokenizer: PreTrainedTokenizerBase) -> None:
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokenizer.add_tokens([AddedToken(marker, normalized=False, special=False) for marker in MARKERS])
    if special.isdisjoint(MARKERS):
        return
    extra = [token for token in tokenizer.extra_special_tokens if str(token) not in MARKERS]
    tokenizer.extra_special_tokens = extra
    # The flag is changed, but the library still skips the token in decoding until it is loaded anew.
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    tokenizer._tokenizer = backend  # noqa: SLF001


def require_prepared(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UserError for a tokenizer that `prepare_tokenizer` has not seen, or that was changed since."""
    name = f"tokenizer {tokenizer.name_or_path!r}"
    advice = "use a directory that katlit exported, or call katlit.text.protocol.prepare_tokenizer first"
    added = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
    missing = [marker for marker in MARKERS if marker not in added or added[marker].special]
    missing += [token for token in (TURN_START, TURN_END) if token not in added]
    if missing:
        raise UserError(f"{name}: {', '.join(missing)} missing as added tokens; {advice}")
    if tokenizer.eos_token != TURN_END or tokenizer.pad_token in (None, TURN_END):
        raise UserError(
            f"{name}: eos_token is {tokenizer.eos_token!r} and pad_token {tokenizer.pad_token!r}, "
            f"not {TURN_END!r} and another one; {advice}"
        )
    if tokenizer.chat_template != CHAT_TEMPLATE:
        raise UserError(f"{name}: its chat template is not katlit's; {advice}")
