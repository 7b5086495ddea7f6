from pathlib import Path

import pytest

from katlit.datamodules import Curriculum, CurriculumStage, FilePrompts, PromptData
from katlit.datamodules.jsonl import write_rows
from katlit.errors import UserError


@pytest.mark.parametrize("epochs", [[], [1, 0]])
def test_a_curriculum_without_epochs_is_refused(epochs: list[int]) -> None:
    with pytest.raises(UserError, match="each of at least one epoch"):
        Curriculum([CurriculumStage(FilePrompts("rows.jsonl"), number) for number in epochs])


def test_one_id_for_two_questions_of_a_curriculum_is_refused(tmp_path: Path) -> None:
    files = {
        "first/rows.jsonl": "0",
        "math/train.jsonl": "1+1",
        "code/train.jsonl": "print 2",
        "again/train.jsonl": "1+1",
    }
    for name, question in files.items():
        (tmp_path / name).parent.mkdir()
        write_rows(tmp_path / name, [{"question": question, "reference": "2"}])
    first, math, code, again = (CurriculumStage(FilePrompts(str(tmp_path / name))) for name in files)
    both = r"stages\[1\] \(.*math/train.jsonl\) .* stages\[2\] \(.*code/train.jsonl\)"
    with pytest.raises(UserError, match=rf"id 'train-0' .* {both}"):
        PromptData(train=Curriculum([first, math, code])).setup("fit")
    assert [len(prompts) for prompts in Curriculum([math, again]).load()] == [1, 1]  # the same question
    row = {"question": "1+1", "reference": "2", "tools": [{"name": "add"}]}
    write_rows(tmp_path / "again/train.jsonl", [row])
    with pytest.raises(UserError, match="id 'train-0' is one question in"):
        Curriculum([math, again]).load()
