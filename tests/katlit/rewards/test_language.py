"""Letters are counted by script in little time, however long a text is."""

import unicodedata
from types import SimpleNamespace

import pytest

from katlit.rewards import language


def test_each_letter_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []

    def name(letter: str, default: str) -> str:
        looked_up.append(letter)
        return unicodedata.name(letter, default)

    language._script.cache_clear()
    monkeypatch.setattr(language, "unicodedata", SimpleNamespace(name=name, normalize=unicodedata.normalize))
    assert language.letters_by_script("да a " * 5000 + "нет ab") == {"CYRILLIC": 10_003, "LATIN": 2}
    assert sorted(looked_up) == sorted("данетab")
