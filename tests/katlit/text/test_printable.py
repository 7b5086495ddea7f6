import unicodedata

import pytest

from katlit.text.printable import escaped, escaped_lines, harmless


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1 + 1 = 2, naïve, 思考, 🙂", "1 + 1 = 2, naïve, 思考, 🙂"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b31m\x85", r"\x9b31m\x85"),  # the one-byte spelling of the same
        ("a\rb\x08\tc\n", r"a\rb\x08\tc\n"),
        ("right\u202eleft\u2066\u200b\ufeff", r"right\u202eleft\u2066\u200b\ufeff"),
        ("a\u2028b\ud800\U000e0041", r"a\u2028b\ud800\U000e0041"),
        (r"\x1b", r"\\x1b"),  # what was written so, and what was escaped, look different
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_no_character_at_all_reaches_a_terminal_as_a_command() -> None:
    for number in range(0x110000):
        assert not {unicodedata.category(c) for c in escaped(chr(number))} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_lines_of_a_model_are_told_from_ours() -> None:
    assert escaped_lines("a\nrewards\x1b\n") == "  | a\n  | rewards\\x1b\n  | "


def test_a_text_for_reading_keeps_its_lines_and_joiners() -> None:
    text = "\tمی\u200cخواهم\\\n👩\u200d👧 <\u2060judge>"
    assert harmless(text + "\x1b[2J\r\u202e\u200b") == text + r"\x1b[2J\r\u202e\u200b"
