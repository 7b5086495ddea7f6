"""What a tokenizer gets for the protocol: markers, chat tokens, chat and response template."""

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from katlit.errors import UserError
from katlit.text.chat_template import chat_template
from katlit.text.forgery import escapes, shield
from katlit.text.parser import MARKERS, TURN_END, TURN_START
from katlit.text.response_template import RESPONSE_TEMPLATE
from katlit.text.tool_calls import TOOL_TAGS

PAD = "<|pad|>"


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> int:
    """Add markers, ChatML tokens, a pad token where there is none, and our templates, in place.

    Markers become added tokens that match verbatim and that `skip_special_tokens` leaves in the text, also
    where the tokenizer knew them as special ones; so do tags of tools that it knew. The end-of-sequence token
    becomes `<|im_end|>`, which is never the pad token. A second call changes nothing.

    Args:
        tokenizer: Any fast tokenizer; what it had keeps its id.

    Returns:
        How many token ids are new; they are the highest ones.

    Raises:
        UserError: where the tokenizer is not backed by the `tokenizers` library, or has special tokens that
            no template can keep out of a text.
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
    shield(tokenizer)
    tokenizer.chat_template = chat_template(escapes(tokenizer))
    tokenizer.response_template = RESPONSE_TEMPLATE
    return len(tokenizer) - before


def _add_markers(tokenizer: PreTrainedTokenizerBase) -> None:
    added = tokenizer.added_tokens_decoder.values()
    special = {token.content for token in added if token.special}
    visible = [*MARKERS, *(token.content for token in added if token.content in TOOL_TAGS)]
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in visible])
    if special.isdisjoint(visible):
        return
    extra = [token for token in tokenizer.extra_special_tokens if str(token) not in visible]
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
    if tokenizer.chat_template != chat_template(escapes(tokenizer)):
        raise UserError(f"{name}: its chat template is not katlit's; {advice}")
