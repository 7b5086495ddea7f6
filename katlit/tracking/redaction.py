"""Settings and command lines without their secrets: what any tracker, file or message may see."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

REDACTED = "***"

# A tokenizer's own tokens are no secrets, and a config.yaml without its pad_token would not run again.
_SECRET_KEY = re.compile(
    r"(?<![a-z])(passw(or)?d|passphrase|secret|credentials?|authorization|key|"
    r"(?<!pad_)(?<!eos_)(?<!bos_)(?<!unk_)(?<!mask_)(?<!stop_)token)(?![a-z])",
    re.IGNORECASE,
)
_URI_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


def redact(value: Any, key: str = "") -> Any:
    """A copy of nested settings in which no secret is left.

    Strings under a key with the word password, token, secret, key or the like become `***`; numbers (a token
    limit) and longer words (`tokenizer`) stay. `user:password@` is cut from every URI.

    Args:
        value: Mappings, sequences and plain values, as a YAML file holds them.
        key: The key that `value` stands under.
    """
    if isinstance(value, Mapping):
        return {name: redact(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item, key) for item in value]
    if not isinstance(value, str):
        return value
    if value and _SECRET_KEY.search(key):
        return REDACTED
    return _URI_CREDENTIALS.sub(f"{REDACTED}@", value)


def redact_command(arguments: Sequence[str]) -> str:
    """A command line as one string without secrets: `--a.token=x` and `--a.token x` alike."""
    words: list[str] = []
    option = ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            words.append(redact(argument, option))
            option = ""
        elif equals:
            words.append(f"{name}={redact(value, name)}")
            option = ""
        else:
            words.append(argument)
            option = argument
    return " ".join(words)
