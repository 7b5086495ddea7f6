import logging
from pathlib import Path
from typing import Any

import pytest
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from katlit.batch import Prompt
from katlit.datamodules import Curriculum, CurriculumStage, FilePrompts, PromptData
from katlit.datamodules.jsonl import write_rows
from katlit.datamodules.references import say_unverified, verifiable
from katlit.errors import UserError
from katlit.rewards import AccuracyReward

ROWS = [
    {"question": "1+1", "reference": 2},
    {"question": "2+2"},
    {"question": "3+3", "reference": "6", "verifier": "mtch"},
    {"question": "f", "reference": "print(2)", "verifier": "code"},
    {"question": "g", "reference": {"asserts": ["assert g(1) == 1"]}, "verifier": "code"},
    {"question": "4+4", "reference": "$$", "verifier": "math"},
]
GOOD = ["rows-0", "rows-4"]


class Judge(Callback):
    samples_in = frozenset({"fit", "test"})

    def reference_problem(self, prompt: Prompt) -> str | None:
        return AccuracyReward().reference_problem(prompt)


class Answerer(Callback):
    samples_in = frozenset({"predict"})


@pytest.fixture
def source(tmp_path: Path) -> FilePrompts:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    return FilePrompts(str(tmp_path / "rows.jsonl"))


def prepared(stage: str | None, callback: Callback, **settings: Any) -> PromptData:
    """Data as Lightning, or `katlit label`, which knows no stage, has it prepare itself."""
    data = PromptData(**settings)
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[callback])
    data.trainer.state.fn = None if stage is None else TrainerFn(stage)
    data.prepare_data()
    return data


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "katlit.datamodules.references"]


@pytest.mark.parametrize("stage", ["fit", "test", None])
def test_prompts_that_cannot_be_verified_are_left_out_and_named(
    source: FilePrompts, stage: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    data = prepared(stage, Judge(), train=source, test=source, batch_size=8)
    (line,) = told(caplog)
    assert line.startswith(f"data.init_args.{stage or 'fit'}: ".replace("fit", "train"))
    for part in (
        "4 of 6 prompts cannot be verified",
        "rows.jsonl:2: verifier 'match' needs a reference, which is empty",
        "rows.jsonl:3: verifier: 'mtch' is unknown",
        "rows.jsonl:4: prompt 'rows-3': verifier 'code' needs tests",
        "this one is not JSON",
        "; …",
    ):
        assert part in line
    loader = data.test_dataloader() if stage == "test" else data.train_dataloader()
    assert sorted(prompt["id"] for batch in loader for prompt in batch["prompts"]) == GOOD


def test_they_are_refused_where_yaml_says_so_and_where_no_others_are_left(source: FilePrompts) -> None:
    with pytest.raises(UserError, match=r"data\.init_args\.train: 4 of 6 .*rows\.jsonl:2: .*set .*: drop"):
        prepared("fit", Judge(), train=source, unverifiable="refuse")
    nothing = FilePrompts(source.path, columns={"reference": None, "verifier": None})
    with pytest.raises(UserError, match=r"data\.init_args\.test: 6 of 6 .*columns: {reference: answer}"):
        prepared("test", Judge(), test=nothing)
    parts = Curriculum([CurriculumStage(FilePrompts(source.path, limit=1)), CurriculumStage(nothing)])
    with pytest.raises(UserError, match=r"data\.init_args\.train: 6 of 6 "):
        prepared("fit", Judge(), train=parts)


def test_prompts_to_answer_need_no_reference(source: FilePrompts, caplog: pytest.LogCaptureFixture) -> None:
    data = prepared("predict", Answerer(), predict=source, unverifiable="refuse")
    assert sum(len(batch["prompts"]) for batch in data.predict_dataloader()) == 6
    assert told(caplog) == []


def test_what_is_verifiable_is_kept_in_silence(source: FilePrompts, caplog: pytest.LogCaptureFixture) -> None:
    prompts = source.load()
    assert verifiable(prompts, lambda prompt: None, source, "key", "refuse") == prompts
    say_unverified(prompts[:1], "key")
    assert told(caplog) == []
    say_unverified(prompts, "key")
    assert told(caplog) == ["key: 1 of 6 prompts have no reference; answers to them are kept unverified"]
    assert caplog.records[-1].levelno == logging.WARNING
