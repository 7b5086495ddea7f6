"""Text that a model or its program wrote, as a part of one line."""

_MOST = 100  # characters


def short_line(text: str, most: int = _MOST) -> str:
    """The beginning of a text, all of it printable."""
    return "".join(character if character.isprintable() else " " for character in text[:most]).strip()


def last_line(errors: bytes | bytearray) -> str:
    """The last line with anything in it, in which Python names an error, shortened."""
    lines = errors.decode("utf-8", "replace").split("\n")
    return short_line(next((line for line in reversed(lines) if line.strip()), ""))
