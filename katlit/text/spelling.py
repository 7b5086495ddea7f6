"""What a token's spelling in a vocabulary stands for, as bytes of text."""

from functools import lru_cache

from transformers.convert_slow_tokenizer import bytes_to_unicode

_BYTE_OF_LETTER = {letter: byte for byte, letter in bytes_to_unicode().items()}
METASPACE = "▁"


@lru_cache(2**18)  # a vocabulary; each token is met again and again
def byte_level(token: str) -> bytes | None:
    """Read a token of a byte-level vocabulary, whose letters are bytes (`Ġ` a space); None if it is none."""
    values = [_BYTE_OF_LETTER.get(letter) for letter in token]
    return None if None in values else bytes(value for value in values if value is not None)


def sentence_piece(token: str) -> bytes:
    """Read a token of a SentencePiece vocabulary: `▁` is a space, `<0x0A>` a byte."""
    if is_byte(token):
        return bytes.fromhex(token[3:5])
    return token.replace(METASPACE, " ").encode()


def is_byte(token: str) -> bool:
    """Whether a token is spelled as a byte, `<0x0A>`."""
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")
