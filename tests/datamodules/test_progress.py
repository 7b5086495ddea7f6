import logging
from itertools import accumulate
from types import SimpleNamespace

import pytest

from katlit.datamodules import progress
from katlit.datamodules.progress import reported


def test_a_line_comes_every_ten_seconds_with_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = accumulate([0.0, 0.0, *[4.0] * 10])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with caplog.at_level(logging.INFO, "katlit"):
        assert list(reported("abcdefg", "letters read")) == [*"abcdefg"]
    assert caplog.messages == [
        "letters read: 3 of 7, 0.2 a second, 0:00:16 left",
        "letters read: 6 of 7, 0.2 a second, 0:00:04 left",
    ]
