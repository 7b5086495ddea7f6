"""Two teachers that think differently are each spoken to in their own way."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
from chatfamilies import FAMILIES, Actor, Family, chat, save, thinks_in_brackets

from katlit.batch import Prompt
from katlit.datamodules import DistillData, DualRegime, FilePrompts
from katlit.datamodules.dialects.habits import ThinkingSettings
from katlit.datamodules.jsonl import write_rows
from katlit.datamodules.records import read_records
from katlit.datamodules.teachers.thinking import TeacherThinking
from katlit.engines.base import SamplingParameters
from katlit.errors import UserError
from katlit.text.protocol import Mode

OFF = FAMILIES["switched by enable_thinking"]
ON = Family(chat("<|im_end|>"), thinks_in_brackets, "always")
BRACKETS = ThinkingSettings("always", opening="[THINK]", closing="[/THINK]")


class Two(Actor):
    """Two families behind one engine; which one, the directory says."""

    def __init__(self) -> None:
        super().__init__(OFF)

    def start(self, model_directory: Path) -> None:
        super().start(model_directory)
        self.family = {"off": OFF, "on": ON}[model_directory.name]


@pytest.fixture
def build(
    tmp_path: Path, models_root: Path, make_prompt: Callable[..., Prompt]
) -> Callable[..., DistillData]:
    prompts = [make_prompt(f"{left}+{right}") for left in range(1, 5) for right in (1, 2)]
    write_rows(tmp_path / "prompts.jsonl", (dict(prompt) for prompt in prompts))
    for name, family in (("off", OFF), ("on", ON)):
        save(family, tmp_path / name)
    both = {"think_off": str(tmp_path / "off"), "think_on": str(tmp_path / "on")}

    def make(thinking: TeacherThinking, teacher: Any = both) -> DistillData:
        return DistillData(
            str(models_root / "ours"),
            teacher,
            FilePrompts(str(tmp_path / "prompts.jsonl")),
            Two(),
            labeller=DualRegime(teacher, ballots=1),
            sampling=SamplingParameters(max_tokens=200),
            thinking=thinking,
            cache_dir=str(tmp_path / "cache"),
        )

    return make


def test_each_teacher_labels_and_is_encoded_in_its_own_way(build: Any) -> None:
    data = build(TeacherThinking(think_on=BRACKETS))
    data.prepare_data()
    records = read_records(data.records_path())
    assert [record.regime for record in records] == 4 * [Mode.THINK_OFF] + 4 * [Mode.THINK_ON]
    assert all(("I add" in record.think) == (record.regime is Mode.THINK_ON) for record in records)
    assert not any("THINK" in record.think + record.answer for record in records)
    data.setup("fit")
    found = {}
    for part in data._parts:
        dialect = data.dialect_of(part.teacher.name, part.teacher.key)
        texts = {dialect.tokenizer.decode(one.teacher.token_ids) for one in part.documents.values()}
        found[part.teacher.modes] = set(re.findall(r".?THINK.|.?think.", "".join(texts)))
    assert found == {
        (Mode.THINK_OFF,): {"<think>", "/think>"}, (Mode.THINK_ON,): {"[THINK]", "/THINK]"},
    }  # fmt: skip


def test_what_is_said_of_one_teacher_is_in_the_key_and_changes_nothing_of_the_other(build: Any) -> None:
    said = [
        TeacherThinking(think_on=BRACKETS),
        TeacherThinking(think_on=BRACKETS, think_off=ThinkingSettings("switch")),
        TeacherThinking(**vars(BRACKETS), think_off=ThinkingSettings("switch")),
        TeacherThinking(think_on=ThinkingSettings("never")),
        TeacherThinking(think_on=BRACKETS, think_off=ThinkingSettings("always")),
    ]
    paths = [build(thinking).records_path() for thinking in said]
    assert paths[0] == paths[1] == paths[2]
    assert len(set(paths)) == 3


@pytest.mark.parametrize(("teacher", "named"), [("off", "only '.*off'"), (None, "none")])
def test_one_teacher_has_no_two_ways(build: Any, tmp_path: Path, teacher: str | None, named: str) -> None:
    with pytest.raises(UserError, match=rf"data\.thinking\.think_on: .*data\.teacher names {named}; say it"):
        build(TeacherThinking(think_on=BRACKETS), teacher and str(tmp_path / teacher))


def test_the_settings_are_read_from_yaml() -> None:
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--thinking", type=TeacherThinking)
    text = "thinking: {opening: '[A]', think_off: {habit: switch, variables_off: {depth: none}}}"
    read = parser.instantiate_classes(parser.parse_string(text)).thinking
    own = ThinkingSettings("switch", variables_off={"depth": "none"})
    assert read == TeacherThinking(opening="[A]", think_off=own)
