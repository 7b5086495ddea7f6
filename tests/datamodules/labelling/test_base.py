"""A labeller of the user's own, named in YAML."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from katlit.batch import Prompt
from katlit.datamodules import Labeller
from katlit.datamodules.base import LabelledData
from katlit.datamodules.jsonl import write_rows
from katlit.datamodules.labelling.chat_model import ChatModel
from katlit.datamodules.records import Record, read_records
from katlit.rewards import Reward
from katlit.text.protocol import Mode


class Parrot(Labeller):
    """Says "2", without thinking and without a model."""

    def __init__(self, word: str) -> None:
        self.word = word

    def models(self) -> list[str]:
        return []

    def settings(self) -> dict[str, Any]:
        return {"word": self.word}

    def label(self, prompts: Sequence[Prompt], models: Sequence[ChatModel], accuracy: Reward) -> list[Record]:
        assert not models
        return [
            Record(id=p["id"], messages=p["messages"], regime=Mode.THINK_OFF, judge=self.word, answer="2")
            for p in prompts
        ]


def parsed(root: Path, student: str, word: str) -> LabelledData[Any]:
    parser = ArgumentParser()
    parser.add_subclass_arguments(LabelledData, "data")
    arguments = {
        "student_tokenizer": student,
        "teacher": student,
        "cache_dir": str(root / "cache"),
        "prompts": {
            "class_path": "katlit.datamodules.FilePrompts",
            "init_args": {"path": str(root / "p.jsonl")},
        },
        "engine": {"class_path": "katlit.engines.HFEngine", "init_args": {"max_context": 1100}},
        "labeller": {"class_path": f"{__name__}.Parrot", "init_args": {"word": word}},
    }
    settings = {"data": {"class_path": "katlit.datamodules.DistillData", "init_args": arguments}}
    made = parser.instantiate_classes(parser.parse_object(settings)).data
    assert isinstance(made, LabelledData)
    return made


def test_a_labeller_of_ones_own_is_named_by_its_class(tmp_path: Path, models_root: Path) -> None:
    write_rows(tmp_path / "p.jsonl", [{"question": f"{i}+1", "reference": f"{i + 1}"} for i in range(3)])
    student = str(models_root / "ours")
    first = parsed(tmp_path, student, "hello")
    first.prepare_data()
    assert {record.judge for record in read_records(first.records_path())} == {"hello"}
    assert parsed(tmp_path, student, "hello").records_path() == first.records_path()
    assert parsed(tmp_path, student, "goodbye").records_path() != first.records_path()


def test_its_records_have_the_tools_of_their_prompts(tmp_path: Path, models_root: Path) -> None:
    write_rows(tmp_path / "p.jsonl", [{"question": "1+1", "tools": [{"name": "add"}]}, {"question": "2+2"}])
    data = parsed(tmp_path, str(models_root / "ours"), "hello")
    data.prepare_data()
    tools = [[tool["function"]["name"] for tool in one.tools] for one in read_records(data.records_path())]
    assert tools == [["add"], []]
