"""Programs as answers, tests of them, and what the reward says."""

import json

from katlit.rewards import CodeReward, Sample, Verdict
from katlit.text.protocol import Mode, ParsedResponse

SQUARE = {"asserts": ["assert f(2) == 4", "assert f(-3) == 9"]}
QUIET = {"inputs": [""], "outputs": ["0\n"]}  # for programs that try much, and print what they got, or 0
ECHO = {"inputs": ["1\n", "2\n"], "outputs": ["1\n", "2\n"]}


def sample(tests: object, program: str | None) -> Sample:
    prompt = {
        "id": "p1",
        "messages": [{"role": "user", "content": "?"}],
        "reference": tests if isinstance(tests, str) else json.dumps(tests),
        "verifier": "code",
        "domain": "code",
        "difficulty": 1,
        "metadata": {},
    }
    return Sample(prompt, ParsedResponse("easy", Mode.THINK_OFF, "", program, None), tokens=1)


def verdict(tests: object, program: str | None, **options: float) -> Verdict:
    return CodeReward(**options)([sample(tests, program)])[0]
