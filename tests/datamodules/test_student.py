from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from katlit.datamodules import ColdStartData, DistillData, WorkedData
from katlit.datamodules.records import Record, write_records
from katlit.errors import UserError
from katlit.model import Backbone
from katlit.modules import ColdStartSFT
from katlit.text.protocol import Mode

MAKE: dict[str, Callable[[str, str], Any]] = {
    "data.student": lambda tokenizer, records: ColdStartData(tokenizer, records_file=records),
    "data.student_tokenizer": lambda tokenizer, records: DistillData(
        tokenizer, tokenizer, records_file=records
    ),
    "data.tokenizer": lambda tokenizer, records: WorkedData(tokenizer, []),
}


@pytest.mark.parametrize("key", MAKE)
def test_data_and_model_share_a_tokenizer(tmp_path: Path, models_root: Path, key: str) -> None:
    ours, plain = str(models_root / "ours"), str(models_root / "plain")
    messages = [{"role": "user", "content": "2 + 2"}]
    records = [
        Record(id=f"{number}", messages=messages, regime=Mode.THINK_OFF, judge="one step", answer="4")
        for number in range(2)
    ]
    write_records(tmp_path / "records.jsonl", records)
    data = MAKE[key](ours, str(tmp_path / "records.jsonl"))
    backbone = Backbone(model=ours, tokenizer=plain)
    data.trainer = SimpleNamespace(lightning_module=ColdStartSFT(backbone))
    with pytest.raises(UserError, match=rf"^{key}: '.*ours' has <judge> as token \d+, .*plain' as \d+; set"):
        data.setup("fit")
    data.trainer.lightning_module = ColdStartSFT(Backbone(model=plain, tokenizer=ours))
    data.setup("fit")
