import pytest

from katlit.commands.recipe.steps import STAGES
from katlit.commands.recipe.story import Story, clock, table, what

FIGURES = {"accuracy": 0.12345, "mean_tokens": 25.909000396728516, "think_rate": 0.0}


def test_a_step_has_a_heading_and_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    story = Story(3)
    story.skip("evaluate-base")
    story.begin("distill")
    story.end("distill", 192.4, "out/distill/model")
    assert capsys.readouterr().out.splitlines() == [
        "evaluate-base: done before",
        "",
        f"[2/3] distill: {what('distill')}",
        "[2/3] distill: done in 0:03:12, see out/distill/model",
    ]


def test_every_step_has_words_of_its_own() -> None:
    names = [*STAGES, "label-distill", "label-cold_start", "evaluate-base", "evaluate-distill"]
    assert len(set(map(what, names))) == len(names)
    assert all(len(what(name)) < 110 for name in names)
    assert "after distill" in what("evaluate-distill")
    assert clock(3600) == "1:00:00"


def test_the_table_has_before_and_after_in_few_digits() -> None:
    after = FIGURES | {"accuracy": 0.5, "think_rate": 1.0}
    history = {"base": {"auto": FIGURES}, "distill": {"auto": {}}, "step_srpo": {"auto": after, "on": after}}
    assert table(history).splitlines() == [
        "from base to step_srpo:",
        "policy        accuracy        tokens    think rate",
        "  auto  0.123 -> 0.500  25.9 -> 25.9  0.00 -> 1.00",
    ]
    assert table({"distill": {"auto": FIGURES}}).splitlines() == [
        "distill:",
        "policy  accuracy  tokens  think rate",
        "  auto     0.123    25.9        0.00",
    ]
    assert table({}) == ""
