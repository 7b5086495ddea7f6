"""The report: right figures, a picture, and one clear error for bad input."""

import json
from pathlib import Path
from typing import Any

import pytest

from katlit.cli import main
from katlit.metrics.evaluation import Answered, summarize


def evaluation(tokens: int, correct: bool) -> dict[str, Any]:
    responses = [
        Answered(f"p{n}", "sums", n % 2, policy, "on" if policy == "on" else "off", correct or n == 0,
                 2 * tokens if policy == "on" else tokens, True, False)
        for n in range(4) for policy in ("auto", "on", "off")
    ]  # fmt: skip
    about = {"seed": 1, "num_prompts": 4, "skipped": 0, "engine": "hf", "versions": {"torch": "2"}}
    return summarize(responses, resamples=50) | about  # type: ignore[arg-type]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for name, content in {"a": evaluation(20, False), "b": evaluation(10, True)}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return [f"--stage=cold_start={tmp_path}/a.json", f"--stage=step_srpo={tmp_path}/b.json"]


def test_the_report(tmp_path: Path, files: list[str]) -> None:
    output = tmp_path / "report"
    assert main(["report", f"--output={output}", *files, "--seconds=label=12.5", "--seed=3"]) == 0
    results = json.loads((output / "report.json").read_text())
    assert results["policies"]["auto"]["accuracy"] == 1
    assert results["before_rl"]["auto"]["accuracy"] == 0.25
    assert results["headline"]["token_ratio"] == 0.5
    assert results["stages"] == {"label": 12.5, "distill": 0, "cold_start": 0, "step_srpo": 0, "evaluate": 0}
    assert results["seed"] == 3
    assert [(row["family"], row["difficulty"], row["policy"]) for row in results["by_difficulty"]] == [
        ("sums", 0, "auto"),
        ("sums", 1, "auto"),
    ]
    assert list(results["history"]) == ["cold_start", "step_srpo"]
    assert (output / "pareto.png").read_bytes().startswith(b"\x89PNG")
    text = (output / "report.md").read_text()
    assert "uses **50%** of the tokens" in text
    assert "| step_srpo | auto | 1.000 (1.000 to 1.000) | 10.0 | 0.00 | 1.000 |" in text
    assert "| label | 12 |" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such evaluation"),
        ('{\n"a": ', "line 2: not JSON"),
        ("[]", "lacks policies, headline"),
        (json.dumps(evaluation(3, True) | {"headline": None}), "lacks headline"),
    ],
)
def test_bad_evaluations(
    tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    output = tmp_path / "report"
    assert main(["report", f"--output={output}", *files, f"--stage=last={path}"]) == 2
    error = capsys.readouterr().err
    assert str(path) in error
    assert message in error
    assert error.count("\n") == 1
    assert not output.exists()


def test_seconds_must_be_numbers(
    tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", f"--output={tmp_path}/r", *files, "--seconds=label=soon"]) == 2
    assert "--seconds label=soon: not a number" in capsys.readouterr().err
