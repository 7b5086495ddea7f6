"""Worked solutions against plain arithmetic, and what the small models are trained on."""

import json
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from tinymodel import write_tokenizer

from katlit.datamodules.loader import EpochLoader
from katlit.datamodules.pretraining.solutions import result, solve, thinking
from katlit.datamodules.pretraining.worked import WorkedData, WorkedLevel
from katlit.datamodules.sources.tasks import TaskFamily, in_heldout, task_entries
from katlit.errors import UserError
from katlit.text.protocol import Protocol

SUMS = TaskFamily("sums", "basic_arithmetic", 1, 0.5, {
    "min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 2, "operators": ["+", "-"],
    "allow_parentheses": False, "allow_negation": False,
})  # fmt: skip
LEGS = TaskFamily("legs", "leg_counting", 1, 0.5, {"min_animals": 1, "max_animals": 3, "max_instances": 40})


@pytest.mark.parametrize("task", [SUMS, LEGS])
def test_every_line_is_true_and_the_last_is_the_answer(task: TaskFamily) -> None:
    entries = task_entries(task, "test")
    for _ in range(300):
        entry = next(entries)
        lines = solve(task.dataset, entry["metadata"])
        assert result(lines) == entry["answer"]
        for line in lines:
            left, operator, right, equals, value = line.split()
            a, b = int(left), int(right)
            assert equals == "="
            assert int(value) == {"+": a + b, "-": a - b, "*": a * b}[operator]
        assert thinking(lines).split("\ncheck\n") == ["\n".join(lines)] * 2


def test_other_tasks_have_no_solutions() -> None:
    with pytest.raises(UserError, match="no worked solutions for data set 'gcd'"):
        solve("gcd", {})


def data_of(tmp_path: Path, style: Any) -> tuple[WorkedData, Protocol]:
    levels = [WorkedLevel(SUMS, 0.3), WorkedLevel(LEGS, 0.9)]
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    data = WorkedData(tokenizer, levels, style, documents=60, validation_documents=20, batch_tokens=2048)
    data.setup("fit")
    return data, data._protocol


def texts(loader: EpochLoader[Any, Any], protocol: Protocol) -> list[tuple[str, str]]:
    """Prompt and trained part of each document."""
    pairs = []
    for batch in loader:
        for ids, mask, positions in zip(
            batch["input_ids"], batch["loss_mask"], batch["position_ids"], strict=True
        ):
            end = int(positions.diff().lt(0).nonzero()[0]) + 1 if (positions.diff() < 0).any() else len(ids)
            start = int(mask.long().argmax())
            assert mask[start:end].all()
            pairs.append((protocol.decode(ids[:start].tolist()), protocol.decode(ids[start:end].tolist())))
    return pairs


@pytest.mark.parametrize("style", ["protocol", "chat", "plain"])
def test_documents(tmp_path: Path, style: str) -> None:
    data, protocol = data_of(tmp_path, style)
    loader = data.train_dataloader()
    pairs = texts(loader, protocol)
    assert len(pairs) == 60
    assert pairs == texts(data.train_dataloader(), protocol)
    loader.set_epoch(1)
    assert pairs != texts(loader, protocol)
    for prompt, reply in pairs:
        assert reply.endswith("<|im_end|>")
        assert ("<judge>" in prompt + reply) == (style == "protocol")
        assert prompt.startswith("<|im_start|>user\n") == (style != "plain")
    if style == "protocol":
        modes = {"<think_on>" if "<think_on>" in prompt + reply else "<think_off>" for prompt, reply in pairs}
        assert modes == {"<think_on>", "<think_off>"}
        assert {"<think_" in prompt for prompt, _ in pairs} == {True, False}  # forced and judged
    else:
        assert {"Steps:" in reply for _, reply in pairs} == {True, False}


def test_in_other_words_only_the_solution_and_the_end_are_trained_on(tmp_path: Path) -> None:
    data, protocol = data_of(tmp_path, "wordings")
    documents = list(data._draw("train", 0))
    headings, kinds = set[str](), set[tuple[bool, bool]]()
    for document in documents:
        tokens = zip(document.token_ids, document.loss_mask, strict=True)
        parts = [
            (trained, protocol.decode([id_ for id_, _ in part]))
            for trained, part in groupby(tokens, itemgetter(1))
        ]
        (_, prompt), *_ = parts
        learnt = "\n".join(text for trained, text in parts if trained).removesuffix("<|im_end|>").strip()
        *steps, answer = learnt.splitlines()
        asked = "JSON" in prompt.partition("<|im_end|>")[0]
        value = int(json.loads(answer)["answer"] if asked else answer)
        assert parts[-1][0]
        assert all(in_other_words(text) for trained, text in parts[1:] if not trained)
        assert set("\n".join(steps)) <= set("0123456789+-*= check\n")
        assert prompt.startswith("<|im_start|>user\n")
        assert not steps or (steps[-1].endswith(f"= {value}") and "check" in steps)
        assert in_other_words(prompt.partition("assistant\n")[2])
        headings.add(prompt.partition("assistant\n")[2])
        kinds.add((asked, bool(steps)))
    assert len(headings) > 55
    assert kinds == {(True, True), (True, False), (False, True), (False, False)}


def in_other_words(text: str) -> bool:
    """Whether nothing in it can be taken for a part of a solution."""
    return not set(text) & set("0123456789=+-*{}")


def test_held_out_questions_are_only_validated_on(tmp_path: Path) -> None:
    data, protocol = data_of(tmp_path, "plain")
    train, heldout = (texts(loader, protocol) for loader in (data.train_dataloader(), data.val_dataloader()))
    assert not any(in_heldout(prompt.removesuffix("\n"), 20) for prompt, _ in train)
    assert all(in_heldout(prompt.removesuffix("\n"), 20) for prompt, _ in heldout)
