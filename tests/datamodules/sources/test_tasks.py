from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from katlit.batch import Prompt
from katlit.datamodules.sources import tasks
from katlit.datamodules.sources.tasks import TaskFamily, TaskPrompts, in_heldout, task_entries
from katlit.errors import UserError

EASY = TaskFamily("sums", "basic_arithmetic", 1, 2.0, {"min_terms": 2, "max_terms": 2})
HARD = TaskFamily("sums", "basic_arithmetic", 2, 1.0, {"min_terms": 5, "max_terms": 5})
LEGS = TaskFamily("legs", "leg_counting", 1, 1.0, {"min_animals": 2, "max_animals": 3})
TINY = TaskFamily("tiny", "leg_counting", 1, 1.0, {"min_animals": 1, "max_animals": 1, "max_instances": 1})


def question(prompt: Prompt) -> str:
    return prompt["messages"][0]["content"]


def test_shares_fields_and_reproducibility() -> None:
    source = TaskPrompts([EASY, HARD, LEGS], size=101, seed=3)
    prompts = source.load()
    assert prompts == source.load()
    assert Counter((prompt["domain"], prompt["difficulty"]) for prompt in prompts) == {
        ("sums", 1): 51, ("sums", 2): 25, ("legs", 1): 25
    }  # fmt: skip
    assert len({question(prompt) for prompt in prompts}) == len({prompt["id"] for prompt in prompts}) == 101
    assert [prompt["domain"] for prompt in prompts] != sorted(prompt["domain"] for prompt in prompts)
    assert {prompt["verifier"] for prompt in prompts} == {"basic_arithmetic", "leg_counting"}


def test_a_seed_may_be_a_text() -> None:
    first, again, other = (
        [question(prompt) for prompt in TaskPrompts([HARD], size=20, seed=seed).load()]
        for seed in ("1-vote", "1-vote", "1-rl")
    )
    assert first == again
    assert len({*first} & {*other}) < 5


@pytest.mark.parametrize("name", ["gsm_symbolic", "list_functions", "word_ladder"])
def test_a_data_set_is_no_longer_than_it_needs_to_be(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import reasoning_gym

    create, sizes = reasoning_gym.create_dataset, []

    def created(dataset: str, size: int, **config: Any) -> Any:
        sizes.append(size)
        return create(dataset, size=min(size, 20_000), **config)

    monkeypatch.setattr(reasoning_gym, "create_dataset", created)
    assert len(TaskPrompts([TaskFamily(name, name, 1, 1.0)], size=20).load()) == 20
    assert max(sizes) <= 20_000


@pytest.mark.parametrize("name", ["basic_arithmetic", "gsm_symbolic"])
def test_a_longer_data_set_goes_on_where_a_shorter_one_ends(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = TaskFamily(name, name, 1, 1.0)
    whole = [entry["question"] for entry in islice(task_entries(family, "a"), 50)]
    monkeypatch.setattr(tasks, "_LENGTH", 2)
    assert [entry["question"] for entry in islice(task_entries(family, "a"), 50)] == whole


def test_a_data_set_that_can_be_no_longer_has_only_so_many_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_LENGTH", 40)
    monkeypatch.setattr(tasks, "_GROWTH", 1000)
    with pytest.raises(UserError, match=r"ladders level 1 has only \d\d different train questions, 500"):
        TaskPrompts([TaskFamily("ladders", "word_ladder", 1, 1.0)], size=500).load()


def test_references_score_full_marks() -> None:
    import reasoning_gym

    for prompt in TaskPrompts([EASY, LEGS], size=20).load():
        entry = {"question": question(prompt), "answer": prompt["reference"], "metadata": prompt["metadata"]}
        scorer = reasoning_gym.get_score_answer_fn(prompt["verifier"])
        assert scorer(prompt["reference"], entry) == 1.0
        assert scorer("nonsense", entry) < 1.0


def test_no_heldout_question_is_ever_trained_on() -> None:
    small = replace(EASY, config={"min_terms": 2, "max_terms": 2, "max_digits": 1})
    train = {question(prompt) for seed in range(4) for prompt in TaskPrompts([small], 150, seed).load()}
    heldout = {
        question(prompt) for seed in range(4) for prompt in TaskPrompts([small], 20, seed, "heldout").load()
    }
    assert train
    assert heldout
    assert not train & heldout
    assert all(in_heldout(text, 10) for text in heldout)


def test_heldout_share() -> None:
    assert sum(in_heldout(f"question {index}", 10) for index in range(5000)) / 5000 == pytest.approx(
        0.1, abs=0.02
    )


def test_an_exhausted_level_is_an_error_that_names_it() -> None:
    with pytest.raises(UserError, match=r"tiny level 1 has only \d+ different train questions, 500"):
        TaskPrompts([TINY], size=500).load()


def test_all_of_a_small_space_can_be_drawn() -> None:
    with pytest.raises(UserError) as caught:
        TaskPrompts([TINY], size=500).load()
    count = int(str(caught.value).split("only ")[1].split()[0])
    assert len(TaskPrompts([TINY], size=count, seed=9).load()) == count


@pytest.mark.parametrize(
    ("family", "size", "message"),
    [
        (replace(EASY, dataset="no_such_task"), 5, "sums level 1, data set 'no_such_task'"),
        (replace(EASY, config={"min_term": 2}), 5, "min_term"),
        (replace(EASY, config={"min_terms": 5, "max_terms": 2}), 5, "max_terms"),
        (EASY, 0, "data set is empty: size=0"),
        (replace(EASY, share=0.0), 5, "shares"),
    ],
)
def test_wrong_settings(family: TaskFamily, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TaskPrompts([family], size).load()


def test_no_families() -> None:
    with pytest.raises(UserError, match="empty"):
        TaskPrompts([], 5).load()
