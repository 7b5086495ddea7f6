"""Text that a model wrote, made harmless for a terminal."""

import unicodedata

_INVISIBLE = ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp")  # control, format (text direction), unassigned, …


def escaped(text: str) -> str:
    r"""One line of printable characters; the others are spelled as Python would: `\x1b`, `\n`, `\u202e`.

    So no text can move the cursor, recolour or rename the window, hide what it says, or look like a line of
    our own. A backslash is doubled, so that what is read is what was written.
    """
    return "".join(map(_printable, text))


def escaped_lines(text: str, mark: str = "  | ") -> str:
    """The lines of a text, each behind a mark, escaped but for its line breaks."""
    return "\n".join(mark + escaped(line) for line in text.split("\n"))


def _printable(character: str) -> str:
    if character == "\\":
        return r"\\"
    if unicodedata.category(character) in _INVISIBLE:
        return character.encode("unicode_escape", "backslashreplace").decode()
    return character
