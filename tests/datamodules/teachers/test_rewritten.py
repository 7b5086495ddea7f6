import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from katlit.batch import Prompt
from katlit.datamodules import DistillData, DualRegime, FilePrompts
from katlit.datamodules.dialects.ours import KatlitDialect
from katlit.datamodules.jsonl import write_rows
from katlit.datamodules.records import Record, read_records
from katlit.datamodules.teachers.part import encode_pair
from katlit.errors import UserError
from katlit.text.protocol import Mode, Protocol

RECORD = Record(
    id="d", messages=[{"role": "user", "content": "1+2"}], regime=Mode.THINK_OFF, judge="j", answer="3"
)


def test_what_the_teacher_did_not_say_is_trained_without_it(protocols: dict[str, Protocol]) -> None:
    dialect = KatlitDialect(protocols["byte-small"])
    own = encode_pair(RECORD, dialect, dialect)
    assert own.pairs
    assert encode_pair(replace(RECORD, rewritten=True), dialect, dialect) == replace(own, pairs=[])


def test_a_share_of_a_teachers_records_asks_for_an_object(
    models_root: Path, tmp_path: Path, sums: list[Prompt], make_engine: Any
) -> None:
    write_rows(tmp_path / "prompts.jsonl", (dict(prompt) for prompt in sums))
    teacher = str(models_root / "ours-characters")
    data = DistillData(
        student_tokenizer=str(models_root / "ours"),
        teacher=teacher,
        prompts=FilePrompts(str(tmp_path / "prompts.jsonl")),
        engine=make_engine(),
        labeller=DualRegime(teacher, json_share=1.0),
        cache_dir=str(tmp_path / "cache"),
    )
    data.prepare_data()
    records = read_records(data.records_path())
    own = [record for record in records if not record.rewritten]
    asking = [record for record in records if record.rewritten]
    assert [json.loads(record.answer) for record in asking] == [{"answer": int(r.answer)} for r in own]

    data.setup("fit")
    targets = {False: 0, True: 0}
    for record, document in zip(records, data.encode(records), strict=True):
        targets[record.rewritten] += sum(document.loss_mask)
    assert data.unpaired_share == pytest.approx(targets[True] / sum(targets.values()))

    batch = data.build([[number] for number in range(len(records))])
    assert len(batch["teacher_input_ids"]) == len(own)  # it reads no others


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(UserError, match="json_share"):
        DualRegime("teacher", json_share=share)
