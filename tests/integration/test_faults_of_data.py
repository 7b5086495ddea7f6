"""Faults of documents, prompts and what a run is resumed with: refused in one line, or obeyed and told."""

from pathlib import Path

import pytest
from killable import ROOT
from killable import fit as stage_3

from katlit.callbacks.checkpoint_files import checkpoints
from katlit.callbacks.rollout.checks import require_rollouts
from katlit.cli import main
from katlit.datamodules.jsonl import write_rows
from katlit.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def test_a_run_that_skipped_all_prompts_stops_and_one_that_skipped_some_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(
        UserError, match=r"nothing was trained on: all 6 prompts .* context of 30 tokens with 24"
    ):
        require_rollouts(6, 6, 30, 24)
    require_rollouts(6, 2, 30, 24)
    assert "2 of 6 prompts so far are too long" in caplog.text


OVER_BUDGET = {
    "all": ([30, 40], "batch_tokens: 24; all 2 think-on documents"),
    "all of a mode": ([30, 0], "batch_tokens: 24; all 1 think-on documents"),
}


@pytest.mark.parametrize("name", OVER_BUDGET)
def test_documents_over_the_budget_do_not_vanish(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lengths, line = OVER_BUDGET[name]
    rows = [
        {
            "id": str(number), "messages": [{"role": "user", "content": "1+1"}], "answer": "2",
            "regime": "on" if length else "off", "judge": "plain", "think": "1 " * length,
        }
        for number, length in enumerate(lengths)
    ]  # fmt: skip
    write_rows(tmp_path / "records.jsonl", rows)
    files = [f"-c={ROOT}/configs/{name}.yaml" for name in ("base", "stage/cold_start", "logger/none")]
    data = [f"--data.records_file={tmp_path / 'records.jsonl'}", "--data.batches.batch_tokens=24"]
    start = [f"--model.init_args.backbone.init_args.init_from={ROOT}/assets/student"]
    folder = [f"--trainer.default_root_dir={tmp_path / 'run'}", "--trainer.accelerator=cpu"]
    assert main(["fit", *files, *start, *data, *folder]) == 2
    assert f"katlit: error: data.batches.{line}" in capsys.readouterr().err
    assert not list(tmp_path.glob("run/*/*"))


ON_RESUME = {  # what is refused first: a run that goes on leaves one more checkpoint
    "other questions": (
        ["--data.init_args.train.init_args.seed=2"],
        2,
        "data.init_args.train: the checkpoint was written with 9 rows, and now some are others",
    ),
    "another learning rate": (
        ["--model.init_args.optimization.learning_rate=1.0e-4"],
        0,
        "optimization.learning_rate: the checkpoint has 0.0003; the run goes on with 0.0001",
    ),
}


@pytest.mark.slow
def test_what_is_otherwise_on_resume_is_refused_or_obeyed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(stage_3(tmp_path, "--trainer.max_steps=2")) == 0
    for name, (words, status, printed) in ON_RESUME.items():
        capsys.readouterr()
        found = main(stage_3(tmp_path, "--trainer.max_steps=3", "--ckpt_path=last", *words))
        assert found == status, name
        assert printed in (capsys.readouterr().err if status else caplog.text), name
        left = [path.name for path in checkpoints(tmp_path / "checkpoints")]
        assert left[-1] == f"step-0000000{2 if status else 3}.ckpt", name


@pytest.mark.slow
def test_stage_3_stops_where_no_prompt_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    engine = ["--trainer.callbacks.engine.max_context=28", "--checkpoint.every_n_steps=100"]
    assert main(stage_3(tmp_path, "--trainer.max_steps=2", *engine)) == 2
    assert "nothing was trained on: all 6 prompts so far are too long" in capsys.readouterr().err
    assert not any((tmp_path / "model").iterdir())
