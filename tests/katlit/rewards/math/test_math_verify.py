"""Math-Verify's own tables as an oracle; where `MathReward` says otherwise, the reason stands here.

The rows are the pairs and expectations of huggingface/Math-Verify, tests/test_all.py, test_boxed.py,
test_numina_cases.py, test_open_thoughts.py, test_strict.py and test_yujianll.py at 5d148cf (Apache 2.0), in
that order; of a long text, the end.
"""

import json
from pathlib import Path

import pytest

from katlit.rewards import MathReward
from tests.katlit.rewards.math.test_math import sample

TABLE = Path(__file__).with_name("math_verify_pairs.jsonl")
COMMA = "a comma is no decimal point: 1,22 are two numbers"
SEVERAL = "a sentence with 10 and 1,000.99m²; a letter directly after a number is a variable"
OUTSIDE = "a line break in a formula changes nothing"
ROUNDED = "a decimal of less than six digits is no fraction: 0.33 is not 1/3"
DISAGREEMENTS = {
    5: COMMA,
    6: COMMA,
    7: COMMA,
    15: SEVERAL,
    16: SEVERAL,
    17: COMMA,
    31: OUTSIDE,
    32: OUTSIDE,
    35: r"$ \frac{1}{2} \$ = \frac{10}{9} $ says that 1/2 is 10/9",
    133: ROUNDED,
    139: ROUNDED,
    172: "boxes 200 and 255, and then says 10,455",
    187: "an inequality is an interval both ways",
    218: "the reference's box is never closed",
    252: "boxes are one list, whatever stands between them",
    254: "f(x) is not f(y); expected only where strict=False",
    264: "1 - 1/e is not 1 + 1/e",
}


@pytest.mark.slow
def test_math_verify_and_we_disagree_where_we_say_so(reward: MathReward) -> None:
    rows = [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 269
    verdicts = reward([sample(row["reference"], row["answer"]) for row in rows])
    pairs = enumerate(zip(rows, verdicts, strict=True))
    assert {index for index, (row, verdict) in pairs if verdict.value != row["right"]} == set(DISAGREEMENTS)
