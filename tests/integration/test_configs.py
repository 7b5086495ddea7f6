"""Every settings file under `configs/` and `assets/`, in the compositions that the demo and the docs name."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import yaml

from katlit.cli import main
from katlit.commands.recipe.reader import read_recipe
from katlit.commands.recipe.steps import report_words, steps
from katlit.datamodules import FilePrompts, PromptData
from katlit.rewards import AccuracyReward, CompositeReward, Sample
from katlit.text.protocol import Mode, ParsedResponse

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
DOCS = [
    ROOT / name
    for name in (
        "README.md", "docs/real.md", "docs/rewards.md", "docs/stage3.md", "docs/data.md", "docs/hardware.md",
        "docs/factory.md", "assets/README.md",
    )
]  # fmt: skip


def documented() -> list[str]:
    """The katlit commands of the docs, shell variables filled in."""
    found = []
    for page in DOCS:
        text = page.read_text()
        variables = dict(re.findall(r'^([A-Z]+)="(.*)"$', text, re.MULTILINE))
        # a line of its own, what SLURM's script is given, or the module that torchrun starts
        for line in re.findall(r"^(?:sbatch docs/slurm.sh|    katlit.cli|katlit) (.*)$", text, re.MULTILINE):
            command = f"katlit {line.partition(' # ')[0]}"
            for name, value in variables.items():
                command = command.replace(f"${name}", value)
            found.append(" ".join(command.split()))
    return found


DEMO, _ = read_recipe(CONFIGS / "recipe/demo.yaml")


def demo() -> list[str]:
    return [shlex.join(["katlit", *step.words]) for step in steps(DEMO)]


COMPOSED = sorted({c for c in [*documented(), *demo()] if " -c " in c})


@pytest.fixture(autouse=True)
def _at_the_top(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("command", COMPOSED)
def test_a_command_parses_and_its_printed_form_means_the_same(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in shlex.split(command)[1:] if word != "--print_config"]
    assert main([*words, "--print_config"]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(printed)
    assert main([words[0], "-c", str(tmp_path / "printed.yaml"), "--print_config"]) == 0
    assert capsys.readouterr().out == printed
    settings = yaml.safe_load(printed)
    assert settings["model"]["class_path"].startswith("katlit.modules.")
    assert settings["data"]["class_path"].startswith("katlit.datamodules.")


@pytest.mark.parametrize("name", ["profile", "overfit"])
@pytest.mark.parametrize("demo", [(), ("-c", "demo/cold_start.yaml")])
def test_a_model_of_a_debug_run_is_not_where_the_next_stage_reads(
    name: str, demo: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["-c", "base.yaml", "-c", "stage/cold_start.yaml", *demo, "-c", f"debug/{name}.yaml"]
    assert main(["fit", *files, "--print_config"]) == 0
    trainer = yaml.safe_load(capsys.readouterr().out)["trainer"]
    assert trainer["default_root_dir"] == f"outputs/{name}"
    exports = [one for one in trainer["callbacks"] if one["class_path"].endswith("ExportModel")]
    assert [one["init_args"]["directory"] for one in exports] == [f"outputs/{name}/model"]


def test_no_settings_file_is_left_out() -> None:
    used = {word for command in COMPOSED for word in shlex.split(command)}
    for path in (CONFIGS / "recipe").glob("*.yaml"):
        used |= {word for step in steps(read_recipe(path)[0]) for word in step.words}
    kinds = ("stage", "backbone", "rollout", "demo", "plan", "real", "teacher", "factory")
    files = {str(path.relative_to(CONFIGS)) for kind in kinds for path in (CONFIGS / kind).glob("*.yaml")}
    files |= {str(path.relative_to(ROOT)) for path in (ROOT / "assets").glob("*.yaml")}
    assert files - used == {"demo/levels.yaml", "rollout/hf.yaml"}


def test_the_reference_engine_fits_into_the_place_of_vllm(capsys: pytest.CaptureFixture[str]) -> None:
    words = "fit -c base.yaml -c stage/step_srpo.yaml -c rollout/hf.yaml --print_config"
    assert main(words.split()) == 0
    assert "katlit.engines.HFEngine" in capsys.readouterr().out


def test_the_documented_rewards_are_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [text for text in blocks("yaml") if text.startswith("reward:")]
    overlay = yaml.safe_load(Path("configs/rollout/hf.yaml").read_text())
    settings = overlay["trainer"]["callbacks+"][0]["init_args"]
    settings |= yaml.safe_load(block)
    rewards = settings["reward"]["init_args"]
    rewards["rewards"]["own"] = {"class_path": "tinyrollouts.FirstLetter"}
    rewards["weights"]["own"] = 0.3
    (tmp_path / "rewards.yaml").write_text(yaml.safe_dump(overlay))
    files = ["configs/base.yaml", "configs/stage/step_srpo.yaml", str(tmp_path / "rewards.yaml")]
    words = [word for name in files for word in ("-c", name)]
    assert main(["fit", *words, "--print_config"]) == 0, capsys.readouterr().err
    callbacks = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]
    (sampler,) = [one["init_args"] for one in callbacks if one["class_path"].endswith("RolloutSampler")]
    built = jsonargparse.ArgumentParser()
    built.add_argument("--reward", type=CompositeReward)
    reward = built.instantiate_classes(built.parse_object({"reward": sampler["reward"]})).reward
    assert [type(one).__name__ for one in reward.rewards.values()] == [
        "AccuracyReward", "FormatReward", "LanguageReward", "FirstLetter",
    ]  # fmt: skip
    assert reward.weights["own"] == 0.3
    assert sampler["max_unjudged_share"] == 0.1


def blocks(language: str) -> list[str]:
    """The examples of docs/real.md, docs/rewards.md and docs/stage3.md."""
    text = "\n".join(page.read_text() for page in DOCS[1:4])
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


EXAMPLES = [yaml.safe_load(block) for block in blocks("yaml")]
OVERLAYS = [example for example in EXAMPLES if example.keys() <= {"trainer", "model", "data"}]
SAMPLERS = [example for example in EXAMPLES if example not in OVERLAYS]  # their `init_args`


def test_the_documented_knobs_are_there() -> None:
    words = " ".join(blocks("yaml"))
    for knob in (
        "Curriculum", "history", "estimator", "aggregation", "streams", "judge_weight", "kl_weight",
        "on_flat_groups", "extra_rounds", "reference_after",
    ):  # fmt: skip
        assert f"{knob}:" in words or f".{knob}\n" in words, knob


@pytest.mark.parametrize("example", [*OVERLAYS, *SAMPLERS], ids=lambda example: "-".join(example))
def test_documented_settings_are_taken_as_they_stand(
    example: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sampler = yaml.safe_load(Path("configs/rollout/hf.yaml").read_text())
    if example in SAMPLERS:
        sampler["trainer"]["callbacks+"][0]["init_args"] |= example
    stage = "distill" if "thinking" in example.get("data", {}).get("init_args", {}) else "step_srpo"
    files = ["configs/base.yaml", f"configs/stage/{stage}.yaml", f"configs/real/{stage}.yaml"]
    for name, settings in (("sampler", sampler), ("example", example if example in OVERLAYS else {})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        files.append(str(tmp_path / f"{name}.yaml"))
    words = [word for name in files for word in ("-c", name)]
    assert main(["fit", *words, "--print_config"]) == 0, capsys.readouterr().err
    printed = yaml.safe_load(capsys.readouterr().out)
    place = printed if example in OVERLAYS else printed["trainer"]["callbacks"][-1]["init_args"]
    assert holds(place, example)


def holds(whole: Any, part: Any) -> bool:
    """Whether all of nested settings is part of others."""
    if isinstance(part, dict):
        return all(name in whole and holds(whole[name], value) for name, value in part.items())
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(holds, whole, part))
    return bool(whole == part)


ANSWERS = {"36": 1, r"\boxed{36}": 1, "The answer is 36.": 1, "So it costs $36.00$.": 1, "35": 0}


@pytest.mark.parametrize("stage", ["distill", "cold_start", "step_srpo", "evaluate"])
def test_right_answers_to_the_documented_prompts_are_right(stage: str, tmp_path: Path) -> None:
    (line,) = [block for block in blocks("json") if '"prompt"' in block]
    settings = yaml.safe_load(Path(f"configs/real/{stage}.yaml").read_text())["data"]["init_args"]
    (source,) = [value for value in settings.values() if "class_path" in value]
    assert correct(source, line, tmp_path) == ANSWERS


def test_right_answers_to_gsm8k_are_right(tmp_path: Path) -> None:
    data = [one["data"]["init_args"] for one in OVERLAYS if "data" in one]
    sources = [one["train"] for one in data if "train" in one]
    (source,) = [one for one in sources if one["init_args"].get("path") == "openai/gsm8k"]
    row = {"question": "A book …", "answer": "3 * 12 = <<3*12=36>>36 dollars\n#### 36"}
    assert correct(source, json.dumps(row), tmp_path) == ANSWERS


def correct(source: dict[str, Any], line: str, directory: Path) -> dict[str, float | None]:
    """The accuracy of some answers to the prompt of a line."""
    assert source["class_path"] == "katlit.datamodules.FilePrompts"
    (directory / "prompts.jsonl").write_text(line)
    (prompt,) = FilePrompts(**source["init_args"] | {"path": str(directory / "prompts.jsonl")}).load()
    parsed = [ParsedResponse("easy", Mode.THINK_OFF, "", answer, None) for answer in ANSWERS]
    reward = AccuracyReward()
    verdicts = reward([Sample(prompt, one, tokens=1) for one in parsed])
    reward.close()
    return {answer: verdict.value for answer, verdict in zip(ANSWERS, verdicts, strict=True)}


def test_the_documented_replay_asks_for_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [shlex.split(line) for line in documented() if line.startswith("katlit replay")]
    folders = [words[2].removeprefix("--run=") for words in found]
    assert sorted(folders) == ["outputs/demo/step_srpo", "outputs/step_srpo"]
    monkeypatch.chdir(tmp_path)
    for words, folder in zip(found, folders, strict=True):
        assert main(words[1:]) == 2
        assert f"no {folder}/config.yaml" in capsys.readouterr().err


def test_the_demo_has_the_rollout_that_the_readme_replays(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = [line for line in documented() if line.startswith("katlit replay --run=outputs/demo")]
    step, prompt_id, index = line.partition("--rollout=")[2].split("/")
    (reinforce,) = (step for step in steps(DEMO) if step.name == "step_srpo")
    assert main([*reinforce.words, "--print_config"]) == 0
    settings = yaml.safe_load(capsys.readouterr().out)
    (sampler,) = [one for one in settings["trainer"]["callbacks"] if one["class_path"].endswith("Sampler")]
    assert int(index) < sampler["init_args"]["samples"]
    assert step == "0"  # whose weights are there without a checkpoint
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--data", type=PromptData)
    data = parser.instantiate_classes(parser.parse_object({"data": settings["data"]["init_args"]})).data
    data.setup("fit")
    assert prompt_id == next(iter(data.train_dataloader()))["prompts"][0]["id"]


def test_help_of_the_documented_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--help"]) == 0
    shown = capsys.readouterr().out
    for word in report_words(DEMO, {"label": 1.0})[1:]:
        assert word.partition("=")[0] in shown


PHASES = {
    "teacher_warm": None, "teacher_levels": "teacher_warm", "teacher": "teacher_levels",
    "student_warm": None, "student_plain": "student_warm", "student_chat": "student_plain",
    "student_words": "student_chat", "student": "student_words",
}  # fmt: skip


@pytest.mark.parametrize("name", PHASES)
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_training_of_an_asset_starts(
    name: str, tmp_path: Path, new_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "outputs").mkdir()
    shutil.copy(new_database, tmp_path / "outputs/mlflow.db")
    (tmp_path / "assets").mkdir()
    for item in ("tokenizers", *(f"{phase}.yaml" for phase in PHASES)):
        (tmp_path / "assets" / item).symlink_to(ROOT / "assets" / item)
    before = PHASES[name]
    if before is not None:
        (tmp_path / f"outputs/assets/{before}").mkdir(parents=True)
        (tmp_path / f"outputs/assets/{before}/model").symlink_to(ROOT / "assets" / name.partition("_")[0])
    monkeypatch.chdir(tmp_path)
    small = ["--trainer.max_steps=1", "--data.init_args.documents=40", "--trainer.limit_val_batches=0"]
    assert main(["fit", "-c", "configs/base.yaml", "-c", f"assets/{name}.yaml", *small]) == 0
    exported = tmp_path / ("assets" if name in ("teacher", "student") else f"outputs/assets/{name}")
    assert (exported / (name if exported.name == "assets" else "model") / "model.safetensors").is_file()


def test_the_assets_are_small() -> None:
    folder = ROOT / "assets"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size <= 6_000_000
