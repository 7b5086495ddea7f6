"""Text that a model or its program wrote, made harmless for a terminal or short enough for one line."""

import unicodedata

_INVISIBLE = ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp")  # control, format (text direction), unassigned, …
_READ = "\n\t\\\u200c\u200d\u2060"  # line break, tab, backslash; joiners of letters
_MOST = 100  # characters of a short line


def escaped(text: str) -> str:
    r"""One line of printable characters; the others are spelled as Python would: `\x1b`, `\n`, `\u202e`.

    So no text can move the cursor, recolour or rename the window, hide what it says, or look like a line of
    our own. A backslash is doubled, so that what is read is what was written.
    """
    return "".join(map(_printable, text))


def escaped_lines(text: str, mark: str = "  | ") -> str:
    """The lines of a text, each behind a mark, escaped but for its line breaks."""
    return "\n".join(mark + escaped(line) for line in text.split("\n"))


def harmless(text: str) -> str:
    """A text for reading in a terminal: as it is but for control characters, spelled as `escaped` does.

    Joiners stay: Persian and emoji are written with them, and they move nothing.
    """
    return "".join(character if character in _READ else _printable(character) for character in text)


def short_line(text: str, most: int = _MOST) -> str:
    """The beginning of a text, all of it printable, as a part of one line."""
    return "".join(character if character.isprintable() else " " for character in text[:most]).strip()


def last_line(errors: bytes | bytearray) -> str:
    """The last line with anything in it, in which Python names an error, shortened."""
    lines = errors.decode("utf-8", "replace").split("\n")
    return short_line(next((line for line in reversed(lines) if line.strip()), ""))


def _printable(character: str) -> str:
    if character == "\\":
        return r"\\"
    if unicodedata.category(character) in _INVISIBLE:
        return character.encode("unicode_escape", "backslashreplace").decode()
    return character
