"""What `CleanedPrompts` finds among generated questions, at the size of the acceptance and a small one."""

import pytest

from benchmarks import cleaning


@pytest.mark.parametrize(
    ("share", "questions"),
    [(0.2, 900), pytest.param(1.0, cleaning.QUESTIONS, marks=pytest.mark.soak)],
)
def test_copies_are_found_and_little_else(share: float, questions: int) -> None:
    evaluation = cleaning.generated(1_000_000, cleaning.EVALUATED)
    found = cleaning.measure(cleaning.generated(1, share), evaluation, questions)
    assert found["questions"] == questions
    assert sum(found[f"found_{kind}"] for kind in ("duplicates", "near", "leaks")) / 3 >= 0.99
    assert found["false_removals"] < 0.005
    assert sum(found["removed_as_they_are"].values()) < 0.01 * questions
