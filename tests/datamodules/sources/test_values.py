from typing import Any

import pytest

from katlit.datamodules.sources.values import (
    LEVELS,
    as_difficulty,
    as_domain,
    as_list,
    as_object,
    as_reference,
    as_text,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" 72 ", " 72 "), (72, "72"), (72.0, "72"), (-0.5, "-0.5"), (1e22, "10000000000000000000000"),
        (1e-7, "0.0000001"), (True, "true"), (["72"], "72"), ([72], "72"),
        (["1", "2"], None), ([], None), ({}, None), (float("nan"), None), (float("inf"), None), (b"72", None),
    ],
)  # fmt: skip
def test_texts(value: Any, text: str | None) -> None:
    assert as_text(value) == text


def test_references_may_be_objects() -> None:
    assert as_reference({"asserts": ["f(1) == 'é'"]}) == '{"asserts": ["f(1) == \'é\'"]}'
    assert as_reference(7) == "7"


def test_domains_may_be_lists() -> None:
    assert as_domain(["Algebra", "Number Theory"]) == "Algebra, Number Theory"
    assert as_domain("math") == "math"
    assert as_domain(["a", {}]) is None


@pytest.mark.parametrize(
    ("value", "level"),
    [
        (3, 3), (3.0, 3), (4.5, 5), (-1, -1), ("3", 3), (" 4.5 ", 5), ("Level 5", 5), ("level2", 2),
        ("Hard", 3), ("olympiad", None), ("", None), ("Level ?", None), (True, None), ([3], None),
        (float("nan"), None), (float("inf"), None), (10**40, None), ("9" * 40, None),
    ],
)  # fmt: skip
def test_difficulties(value: Any, level: int | None) -> None:
    assert as_difficulty(value, LEVELS) == level


def test_objects_and_lists_may_be_json_in_a_text() -> None:
    assert as_object('{"a": 1}') == as_object({"a": 1}) == {"a": 1}
    assert as_object("[1]") is as_object("{") is as_object("[" * 100_000) is None
    assert as_list("[1]") == as_list([1]) == [1]
    assert as_list("{}") is as_list("hi") is None
