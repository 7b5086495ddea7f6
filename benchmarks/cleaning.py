"""How many planted copies `CleanedPrompts` finds, and what it takes out wrongly.

`python benchmarks/cleaning.py QUESTIONS [EVALUATION]`, from the top of the repository; both are files that
`FilePrompts` reads. Without names it takes questions of 17 families of reasoning-gym, a third of them word
problems, 5,000 in all; they share long templates, so some are near duplicates before any is planted.
What it takes out of the questions as they are is printed first, to be looked at. Then copies are planted
among what is left: 50 duplicates (other case, white space, punctuation), 50 near duplicates (a word
replaced, left out or doubled, two swapped, a polite phrase before or after it), and 50 questions of the
evaluation, as they are, in other words around them, or changed as near duplicates are.

The last line is a JSON object: `removed_as_they_are`, how many of each kind were taken out at first; the
shares found of each kind; `false_removals`, the share of other questions that were taken out; and `seconds`.
"""

import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from katlit.batch import Prompt
from katlit.datamodules import CleanedPrompts, FilePrompts, PromptSource

PLANTED = 50
QUESTIONS = 5000  # in all, with what is planted
FAMILIES = {"gsm_symbolic": 1500} | dict.fromkeys(
    (
        "aiw", "basic_arithmetic", "calendar_arithmetic", "chain_sum", "decimal_arithmetic", "dice",
        "family_relationships", "knights_knaves", "leg_counting", "letter_counting", "needle_haystack",
        "number_sorting", "sentence_reordering", "simple_geometry", "syllogism", "time_intervals",
    ),
    230,
)  # fmt: skip
EVALUATED = 0.08  # of these
LONG_ENOUGH = 20  # words; of a short question one word may be all that matters
BEFORE = ("Please answer this question. ", "I need help with my homework: ", "Q: ")
AFTER = (" Show your work.", " Thank you!", " Give only the number.")


class Given(PromptSource):
    """Prompts that are there already."""

    def __init__(self, prompts: list[Prompt]) -> None:
        self.prompts = prompts

    def load(self) -> list[Prompt]:
        """Return them."""
        return self.prompts


def generated(seed: int, share: float) -> list[Prompt]:
    """Questions of all families, each once; seeds must lie far apart, for a family counts on from them."""
    import reasoning_gym

    found: dict[str, Prompt] = {}
    for family, number in FAMILIES.items():
        for row in reasoning_gym.create_dataset(family, size=round(number * share), seed=seed):
            prompt = Prompt(
                id=f"{seed}-{len(found)}", messages=[{"role": "user", "content": row["question"]}],
                reference=str(row["answer"]), verifier="match", domain=family, difficulty=1, metadata={},
            )  # fmt: skip
            found.setdefault(row["question"], prompt)
    return list(found.values())


def restyled(text: str, draw: random.Random) -> str:
    """The same words in another case, with other white space and punctuation."""
    changed = draw.choice([text.upper, text.lower, text.title])()
    return "  " + changed.replace(". ", ".\n").rstrip("?.") + draw.choice(["", "!", " ?"])


def edited(text: str, draw: random.Random) -> str:
    """The text with one word other than before, or a phrase around it; its numbers stay."""
    words = text.split(" ")
    place = draw.choice([n for n, word in enumerate(words[:-1]) if word.isalpha() and words[n + 1].isalpha()])
    changes: list[Callable[[], list[str]]] = [
        lambda: [*words[:place], "altogether", *words[place + 1 :]],
        lambda: [*words[:place], *words[place + 1 :]],
        lambda: [*words[: place + 1], *words[place:]],
        lambda: [*words[:place], words[place + 1], words[place], *words[place + 2 :]],
        lambda: [draw.choice(BEFORE) + words[0], *words[1:]],
        lambda: [*words[:-1], words[-1] + draw.choice(AFTER)],
    ]
    return " ".join(draw.choice(changes)())


def copies(
    prompts: list[Prompt], kind: str, change: Callable[[str, random.Random], str], draw: random.Random
) -> list[Prompt]:
    """Copies of some of the longer prompts, each changed."""
    long = [prompt for prompt in prompts if len(prompt["messages"][-1]["content"].split()) >= LONG_ENOUGH]
    chosen = draw.sample(long, PLANTED)
    return [
        prompt | {"id": f"{kind}-{n}", "messages": [{"role": "user", "content": change(text(prompt), draw)}]}
        for n, prompt in enumerate(chosen)
    ]


def text(prompt: Prompt) -> str:
    """What the user asks."""
    return str(prompt["messages"][-1]["content"])


def leaked(question: str, draw: random.Random) -> str:
    """A question of an evaluation as it turns up elsewhere."""
    around = f"Solve the following problem step by step.\n\n{question}\n\nWrite the answer in a box."
    return draw.choice([question, around, restyled(question, draw), edited(question, draw)])


def measure(prompts: list[Prompt], evaluation: list[Prompt], questions: int | None = None) -> dict[str, Any]:
    """Clean as they are, then with what is planted; so many in all, if there are that many."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "removed.jsonl"

        def cleaned(given: list[Prompt]) -> tuple[list[Prompt], list[dict[str, Any]]]:
            source = CleanedPrompts(Given(given), [Given(evaluation)], report=str(report))
            return source.load(), [json.loads(line) for line in report.read_text("utf-8").splitlines()]

        clean, removed = cleaned(prompts)
        as_they_are = dict(Counter(removal["reason"] for removal in removed))
        by_id = {prompt["id"]: text(prompt) for prompt in prompts}
        for removal in removed:
            print(f"{removal['reason']} ({removal['share']}): {by_id[removal['id']]!r}")
        clean = clean[: None if questions is None else questions - 3 * PLANTED]
        draw = random.Random(0)  # noqa: S311 (not for secrets)
        planted = {
            "duplicates": copies(clean, "duplicates", restyled, draw),
            "near": copies(clean, "near", edited, draw),
            "leaks": copies(evaluation, "leaks", leaked, draw),
        }
        mixed = clean + [prompt for kind in planted.values() for prompt in kind]
        begun = time.perf_counter()
        _, removed = cleaned(mixed)
        seconds = time.perf_counter() - begun
    gone = {removal["id"] for removal in removed}
    found: dict[str, Any] = {"questions": len(mixed), "removed_as_they_are": as_they_are}
    for kind, prompts_of_kind in planted.items():
        found[f"found_{kind}"] = sum(prompt["id"] in gone for prompt in prompts_of_kind) / PLANTED
    found["false_removals"] = sum(prompt["id"] in gone for prompt in clean) / len(clean)
    return found | {"seconds": seconds}


def main() -> None:
    """Measure, and print."""
    files = [FilePrompts(path).load() for path in sys.argv[1:3]]
    if len(files) == 1:
        files = [files[0][100:], files[0][:100]]
    if files:
        print(json.dumps(measure(files[0], files[1])))
    else:
        print(json.dumps(measure(generated(1, 1.0), generated(1_000_000, EVALUATED), QUESTIONS)))


if __name__ == "__main__":
    main()
