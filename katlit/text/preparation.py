"""What a tokenizer gets for the protocol: markers, chat tokens, chat and response template."""

import json
import re
from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders
from transformers import PreTrainedTokenizerBase

from katlit.errors import UserError
from katlit.text.chat_template import chat_template
from katlit.text.encoder import parts_of
from katlit.text.forgery import escapes, shield
from katlit.text.parser import MARK_SIGN, MARKERS, MARKS, TURN_END, TURN_START
from katlit.text.response_template import RESPONSE_TEMPLATE
from katlit.text.tool_calls import TOOL_TAGS

PAD = "<|pad|>"
_SIGNING = decoders.Replace(Regex(f"^(?=(?:{'|'.join(map(re.escape, MARKS))})$)"), MARK_SIGN)


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> int:
    """Add markers, ChatML tokens, a pad token where there is none, and our templates, in place.

    Markers become added tokens that match verbatim and that `skip_special_tokens` leaves in the text, also
    where the tokenizer knew them as special ones; so do tags of tools that it knew. The end-of-sequence token
    becomes `<|im_end|>`, which is never the pad token. Decoding puts an invisible sign before each marker and
    chat token, by which the response template tells one from its spelling. A second call changes nothing.

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
    _sign_marks(tokenizer.backend_tokenizer)
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


def _sign_marks(backend: Tokenizer) -> None:
    own = _plain_decoder(backend)
    if own is not None:  # without a decoder, tokens are joined by spaces, and a template has little to go by
        backend.decoder = decoders.Sequence([_SIGNING, own])


def _plain_decoder(backend: Tokenizer) -> decoders.Decoder | None:
    """The tokenizer's decoder without our signs."""
    settings = parts_of(backend)
    found = settings["decoder"]
    steps = found["decoders"] if found and found["type"] == "Sequence" else []
    if not steps or steps[0].get("content") != MARK_SIGN:
        return backend.decoder
    (settings["decoder"],) = steps[1:]
    return Tokenizer.from_str(json.dumps(settings)).decoder


class Decoder:
    """Turns ids into text as a prepared tokenizer does, but without signs.

    Args:
        backend: The tokenizer.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._decoder = _plain_decoder(backend)

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids into text; special tokens are shown."""
        found = map(self._backend.id_to_token, ids)
        tokens = [token for token in found if token is not None]
        return " ".join(tokens) if self._decoder is None else str(self._decoder.decode(tokens))


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
