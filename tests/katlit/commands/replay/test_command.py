"""`katlit replay` on a folder as a run leaves it; whole runs are replayed by the tests of integration."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import killable
import pytest
import yaml
from tinyrecord import record

from katlit.cli import main
from katlit.rollout.record_files import read_records, record_file, write_records

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an engine that joined a server; rank 1 has the first prompt of rank 0 again."""
    folder = tmp_path_factory.mktemp("run")
    files = ["base", "stage/step_srpo", "rollout/vllm_server"]
    words = [
        *(f"-c={ROOT}/configs/{name}.yaml" for name in files),
        f"--model.init_args.backbone.init_args.init_from={ROOT}/assets/teacher",
        "--trainer.callbacks.engine.url=http://127.0.0.1:9",
    ]
    with pytest.MonkeyPatch.context() as patch, (folder / "config.yaml").open("w") as file:
        patch.setattr("sys.stdout", file)
        assert main(["fit", *words, "--print_config"]) == 0
    (folder / "rollouts").mkdir()
    for rank in range(2):
        records = [record(step=0, policy_step=0, rank=rank, group=0)]
        write_records(record_file(folder / "rollouts", 0, rank), records)
    return folder


def test_a_server_that_was_joined_keeps_its_weights(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", f"--run={run}", "--rollout=0/set/p/0"]) == 2
    error = capsys.readouterr().err
    assert f"{run}/config.yaml: the engine joins http://127.0.0.1:9" in error
    assert "--only_show" in error


@pytest.mark.parametrize("copy", range(3))
def test_a_copy_of_a_repeated_prompt_is_chosen(
    run: Path, copy: int, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["replay", f"--run={run}", "--rollout=0/set/p/0", "--only_show", f"--copy={copy}"]
    assert main(words) == (2 if copy == 2 else 0)
    shown = capsys.readouterr()
    if copy == 2:
        assert "--copy: 2; of this rollout there are 2, from 0" in shown.err
    else:
        assert f"*   {copy}  rank {copy}, group 0\n" in shown.out
        assert "the step has the prompt 2 times" in shown.out


def _with_callbacks(run: Path, folder: Path, change: Callable[[Any], Any]) -> Path:
    """The run with other callbacks in its settings."""
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["trainer"]["callbacks"] = change(settings["trainer"]["callbacks"])
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "rollouts").symlink_to(run / "rollouts")
    return folder


def test_what_a_constructor_refuses_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_rows(callbacks: Any) -> Any:
        sampler = next(one for one in callbacks if one["class_path"].endswith("RolloutSampler"))
        sampler["init_args"]["row_tokens"] = 0
        return callbacks

    folder = _with_callbacks(run, tmp_path, no_rows)
    assert main(["replay", f"--run={folder}", "--rollout=0/set/p/0"]) == 2
    error = capsys.readouterr().err
    assert "katlit: error: trainer.callbacks[" in error
    assert "row_tokens: 0" in error
    assert "Traceback" not in error


def test_a_single_callback_need_be_no_list(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def only_log(callbacks: Any) -> Any:
        return next(one for one in callbacks if one["class_path"].endswith("RolloutLog"))

    folder = _with_callbacks(run, tmp_path, only_log)
    assert main(["replay", f"--run={folder}", "--rollout=0/set/p/0"]) == 2
    assert "names no katlit.callbacks.RolloutSampler" in capsys.readouterr().err


def fit(folder: Path, estimator: str, *more: str) -> int:
    """Two steps with an estimator of somebody else's."""
    words = ("--trainer.max_steps=2", f"--model.init_args.estimator=tinyestimator.{estimator}", *more)
    return main(killable.fit(folder, *words))


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_an_estimator_of_ones_own_is_trained_with_and_explains_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert fit(tmp_path, "Shorter", "--model.init_args.estimator.init_args.scale=0.5") == 0
    settings = yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]["init_args"]["estimator"]
    assert settings == {"class_path": "tinyestimator.Shorter", "init_args": {"scale": 0.5}}
    capsys.readouterr()
    for step in range(2):
        one = read_records(tmp_path / "rollouts", step)[0]
        name = f"{step}/{one['prompt_id']}/{one['index']}"
        assert main(["replay", f"--run={tmp_path}", f"--rollout={name}", "--only_show"]) == 0
        shown = capsys.readouterr().out
        assert "advantages by Shorter: judge = answer = scale * tokens spared\n" in shown
        assert f"  tokens of the response: {len(one['token_ids'])}\n" in shown
        assert "  tokens spared: " in shown
        assert "mean of the group" not in shown
        assert shown.count(", as trained on") == 2


def test_advantages_of_another_shape_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert fit(tmp_path, "OneColumn") == 2
    assert "model.estimator: OneColumn gives advantages of shape [12] for 12" in capsys.readouterr().err
