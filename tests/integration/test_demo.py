"""The demo's own commands, in order and on real parts (vLLM, MLflow), but with a few prompts and steps."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from mlflow import MlflowClient

from katlit.callbacks.samples import COLUMNS
from katlit.rollout.record_files import read_records

ROOT = Path(__file__).parents[2]
KATLIT = [sys.executable, "-m", "katlit.cli"]
SMALL = {
    "stages.distill.set": {"trainer.max_steps": 2, "data.init_args.prompts.init_args.size": 40},
    # after two steps the student solves nothing, and there would be nothing to vote on
    "stages.cold_start.set": {
        "trainer.max_steps": 2,
        "data.init_args.prompts.init_args.size": 40,
        "model.init_args.backbone.init_args.init_from": "assets/teacher",
    },
    "stages.step_srpo.set": {
        "trainer.max_steps": 3,
        "data.init_args.train.init_args.source.init_args.size": 40,
        "data.init_args.batch_size": 4,
    },
    "evaluation.set": {"data.init_args.test.init_args.size": 24},
}
STEPS = [
    "evaluate-base", "label-distill", "distill", "evaluate-distill", "label-cold_start", "cold_start",
    "evaluate-cold_start", "step_srpo", "evaluate-step_srpo",
]  # fmt: skip

# One metric of each kind that a stage 3 is watched by.
TRACKED = [
    "reward/accuracy", "reward/format", "rollout/reward", "rollout/accuracy", "rollout/think_rate",
    "rollout/mean_tokens", "rollout/truncated", "rollout/unjudged", "rollout/logprob_gap", "train/loss",
    "train/entropy", "train/clip_share", "train/ratio", "train/importance_weight",
    "train/effective_sample_share", "train/reward_on", "train/reward_off", "throughput/rollout_share",
    "throughput/reward_share", "throughput/sync_share", "throughput/forward_backward_share",
    "throughput/tokens_per_second", "modes/one_mode_groups", "modes/entropy", "history/prompts",
    "history/solved", "history/active",
]  # fmt: skip
BY_DIFFICULTY = "modes/think_rate/difficulty-"


# What no reader of the log needs; `-v` brings it.
NOISE = [
    "it/s]", "Loading weights", "NUMA", "weights_only", "Setting accelerator", "GPU available", "Seed set",
    "Test metric", "Params", "Trainer.fit", "INFO", "Tip:", "Warning",
]  # fmt: skip
MOST_LINES = 8 * len(STEPS) + 20


def recipe() -> list[str]:
    """The demo with the settings that make its stages small."""
    small = [f"{part}.{key}={value}" for part, values in SMALL.items() for key, value in values.items()]
    return ["run", "recipe/demo.yaml", *(word for change in small for word in ("--set", change))]


def katlit(folder: Path, words: list[str]) -> str:
    """Run one command; what it printed."""
    done = subprocess.run(
        [*KATLIT, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-6000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(1500)
def test_the_recipe_from_end_to_end(tmp_path: Path) -> None:
    for folder in ("configs", "assets"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    printed = katlit(tmp_path, recipe())
    assert printed.count("\n$ katlit ") == len(STEPS) + 2  # the report and the card
    assert [word for word in NOISE if word in printed] == []
    # Lines of progress, more of them on a slow machine.
    waited = re.compile(r"vLLM starts: .*|.* left|.* yet")
    lines = [line for line in printed.splitlines() if not waited.fullmatch(line)]
    assert len(lines) < MOST_LINES, printed
    assert "policy        accuracy        tokens    think rate\n" in printed
    demo = tmp_path / "outputs/demo"
    again = katlit(tmp_path, recipe())
    assert [line.partition(":")[0] for line in again.splitlines() if line.endswith(": done before")] == STEPS
    assert "$ katlit " not in again
    report = json.loads((demo / "report.json").read_text())
    page = (demo / "report.html").read_text()
    for part in (
        "Training: step_srpo",
        "think rate by difficulty",
        "difficulty 1<",  # a curve of its own
        "questions got a label",
        "after cold_start",
    ):
        assert part in page
    assert page.count("reference answer: ") == 10
    assert report["engine"] == "vllm"
    assert report["num_prompts"] == 24
    assert list(report["history"]) == ["base", "distill", "cold_start", "step_srpo"]
    assert report["policies"]["on"]["think_rate"] == 1
    client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
    experiment = client.get_experiment_by_name("katlit-demo")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {"distill", "cold-start", "step-srpo", "evaluate-step_srpo"} <= runs.keys()
    reinforced = runs["step-srpo"]
    gaps = client.get_metric_history(reinforced.info.run_id, "rollout/logprob_gap")
    assert len(gaps) == 3
    assert all(gap.value < 1e-4 for gap in gaps)
    for name in TRACKED:
        assert len(client.get_metric_history(reinforced.info.run_id, name)) == 3, name
    sections = {name.partition("/")[0] for name in reinforced.data.metrics if "/" in name}
    assert sections == {"a glance", "history", "modes", "reward", "rollout", "throughput", "train"}
    rates = [value for name, value in reinforced.data.metrics.items() if name.startswith(BY_DIFFICULTY)]
    assert len(rates) > 1
    assert all(0 <= rate <= 1 for rate in rates)
    assert {name for name in reinforced.data.metrics if "/" not in name} <= {"epoch"}
    table = json.loads(Path(client.download_artifacts(reinforced.info.run_id, "rollouts.json")).read_text())
    assert table["columns"] == ["step", *COLUMNS]
    assert {row[0] for row in table["data"]} == {1}
    assert all(len(row) == len(table["columns"]) for row in table["data"])
    parent = runs["demo seed 1"].info.run_id
    assert "report.html" in {artifact.path for artifact in client.list_artifacts(parent)}
    stored = {artifact.path for artifact in client.list_artifacts(reinforced.info.run_id)}
    assert {"config.yaml", "rollouts.json", "model"} <= stored
    (traces,) = (demo / "cache").glob("traces-*.jsonl")
    name = json.loads(traces.read_text().partition("\n")[0])["id"]
    assert re.search(r"\n(?:thinker|answerer) ", katlit(tmp_path, ["trace", name]))
    for record in read_records(demo / "step_srpo/rollouts", 0)[::40]:
        name = f"0/{record['prompt_id']}/{record['index']}"
        shown = katlit(tmp_path, ["replay", "--run=outputs/demo/step_srpo", f"--rollout={name}"])
        assert f"the same {len(record['token_ids'])} tokens" in shown
        assert shown.count("as trained on") == 2


@pytest.mark.soak
@pytest.mark.vllm
@pytest.mark.timeout(14_400)
def test_the_demo_killed_at_ten_random_moments_reports_what_it_does_undisturbed(tmp_path: Path) -> None:
    reports, seconds, started = [], 0.0, time.monotonic()
    for name, kills in (("undisturbed", 0), ("killed", 10)):
        folder = tmp_path / name
        folder.mkdir()
        for part in ("configs", "assets"):
            (folder / part).symlink_to(ROOT / part)
        random = Random(1)
        for _ in range(kills):
            run = subprocess.Popen([*KATLIT, "run", "recipe/demo.yaml"], cwd=folder, start_new_session=True)
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(random.uniform(5, seconds / 6))
            with contextlib.suppress(ProcessLookupError):  # done already
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        katlit(folder, ["run", "recipe/demo.yaml"])
        seconds = seconds or time.monotonic() - started
        report = json.loads((folder / "outputs/demo/report.json").read_text())
        reports.append({key: value for key, value in report.items() if key != "stages"})
    assert reports[0] == reports[1]
