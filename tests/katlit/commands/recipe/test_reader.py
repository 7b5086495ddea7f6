"""Recipes: what they mean, and all of their mistakes with file and line."""

from pathlib import Path

import pytest

from katlit.commands.recipe.reader import read_recipe
from katlit.commands.recipe.steps import steps
from katlit.errors import UserError

ROOT = Path(__file__).parents[4]
GOOD = """\
model: assets/student
evaluate_base: true
teacher: assets/teacher
prompts: {path}
settings: [base.yaml]
evaluation: {{settings: [stage/evaluate.yaml, rollout/evaluate.yaml]}}
stages:
  distill: {{settings: [stage/distill.yaml], set: {{trainer.max_steps: 2}}}}
  cold_start: {{settings: [stage/cold_start.yaml]}}
  step_srpo: {{settings: [stage/step_srpo.yaml, rollout/vllm.yaml]}}
"""
BAD = """\
names: mine
seed: one
evaluate_base: "yes"
prompts: missing.jsonl
heldout: [1]
settings: [base.yaml, bsae.yaml]
evaluation: 3
stages:
  distil: {}
  step_srpo:
    settings: stage/step_srpo.yaml
    set: [1]
  cold_start: {sett: {}, set: {ckpt_path: last}}
"""


def written(folder: Path, text: str) -> Path:
    (folder / "prompts.jsonl").write_text('{"question": "1 + 1", "reference": "2"}\n')
    (folder / "mine.yaml").write_text(text.format(path=folder / "prompts.jsonl") if text == GOOD else text)
    return folder / "mine.yaml"


def test_a_recipe_becomes_commands(tmp_path: Path) -> None:
    recipe, mistakes = read_recipe(
        written(tmp_path, GOOD), ["seed=3", "stages.distill.set.trainer.max_steps=5"]
    )
    assert mistakes == []
    plan = {step.name: step for step in steps(recipe)}
    assert list(plan) == [
        "evaluate-base", "label-distill", "distill", "evaluate-distill", "label-cold_start", "cold_start",
        "evaluate-cold_start", "step_srpo", "evaluate-step_srpo",
    ]  # fmt: skip
    assert all("--seed_everything=3" in step.words for step in plan.values())
    distill = plan["distill"].words
    assert distill[:5] == ("fit", "-c", "base.yaml", "-c", "stage/distill.yaml")
    assert "--trainer.max_steps=5" in distill
    assert "--model.init_args.teacher=assets/teacher" in distill
    assert ("label", *distill[1:]) == plan["label-distill"].words  # so that fit finds the labels
    started = "--model.init_args.backbone.init_args.init_from=outputs/mine/{}/model"
    assert started.format("distill") in plan["cold_start"].words
    assert started.format("cold_start") in plan["step_srpo"].words
    assert started.format("step_srpo") in plan["evaluate-step_srpo"].words
    prompts = '{"class_path": "katlit.datamodules.FilePrompts", "init_args": {"path": "' + str(tmp_path)
    assert any(word.startswith(f"--data.init_args.train={prompts}") for word in plan["step_srpo"].words)


def test_what_starts_a_command_and_what_only_labelling_is_given(tmp_path: Path) -> None:
    text = GOOD.format(path=tmp_path / "prompts.jsonl").replace(": assets/teacher", ": endpoint:x")
    text = (
        text.replace("cold_start: {", "cold_start: {label: {launch: srun -N 1, set: {trainer.devices: 1}}, ")
        + "launch: srun -N 8\n"
    )
    path = written(tmp_path, GOOD)
    path.write_text(text.replace("evaluation: {", "evaluation: {launch: env A=1, "))
    recipe, mistakes = read_recipe(path)
    assert mistakes == []
    plan = {step.name: step for step in steps(recipe)}
    assert plan["evaluate-base"].launch == ("env", "A=1")
    assert plan["label-distill"].launch == plan["distill"].launch == ("srun", "-N", "8")
    assert plan["label-cold_start"].launch == ("srun", "-N", "1")
    beside = set(plan["label-cold_start"].words) - set(plan["cold_start"].words)
    assert beside == {"label", "--trainer.devices=1"}
    assert not any("judge_writer" in word for word in plan["cold_start"].words)  # an endpoint is no student's


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, BAD)
    _, mistakes = read_recipe(path)
    found = [mistake.removeprefix(f"{path}:") for mistake in mistakes]
    wanted = [
        (1, "names: no such key; the nearest is name"),
        (9, "stages.distil: no such key; the nearest is distill"),
        (8, "stages: the stages follow each other"), (1, "model: no model"), (2, "seed: 'one'"),
        (4, "prompts: no file 'missing.jsonl' here"), (5, "heldout: [1] is neither"),
        (6, "settings.1: settings file 'bsae.yaml' does not exist; did you mean base.yaml"),
        (7, "evaluation: 3 is no mapping"),
        (11, "stages.step_srpo.settings: 'stage/step_srpo.yaml' is no list"),
        (12, "stages.step_srpo.set: [1] is no mapping"), (13, "stages.cold_start.sett: no such key"),
        (13, "stages.cold_start.set.ckpt_path: is the recipe's own"), (3, "evaluate_base: 'yes' is neither"),
    ]  # fmt: skip
    assert len(found) == len(wanted)
    for line, words in wanted:
        assert any(mistake.startswith(f"{line}: {words}") for mistake in found), (line, words, found)


def test_a_launch_with_an_open_quotation_is_a_mistake(tmp_path: Path) -> None:
    path = written(tmp_path, 'model: student\nstages:\n  distill:\n    launch: "srun \'x"\n')
    _, (mistake,) = read_recipe(path)
    assert mistake.startswith(f"{path}:4: stages.distill.launch: ")
    assert "No closing quotation" in mistake


def test_changes_reach_whole_keys_of_settings_and_empty_stages(tmp_path: Path) -> None:
    path = written(tmp_path, "model: student\nstages: {distill: }\n")
    changes = ["stages.distill.set.trainer.x=a=b", "prompts.class_path=P", "prompts.init_args.dataset.path=z"]
    recipe, mistakes = read_recipe(path, [*changes, "set.when=2024-01-01"])
    assert mistakes == []
    assert recipe.stages["distill"].set == {"trainer.x": "a=b"}
    assert recipe.prompts == {"class_path": "P", "init_args": {"dataset": {"path": "z"}}}
    assert "--when=2024-01-01" in steps(recipe)[-1].words


@pytest.mark.parametrize("change", ["seed", "=1", "name.x=1", "name=[1"])
def test_a_change_that_is_none(tmp_path: Path, change: str) -> None:
    with pytest.raises(UserError, match="--set"):
        read_recipe(written(tmp_path, "name: mine\nmodel: student\nstages: {distill: {}}\n"), [change])


@pytest.mark.parametrize("path", sorted((ROOT / "configs/recipe").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_packaged_recipes_are_right(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recipe, mistakes = read_recipe(path)
    assert [mistake for mistake in mistakes if "no file" not in mistake] == []
    assert steps(recipe)
