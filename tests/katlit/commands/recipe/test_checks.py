"""`katlit run --plan`: all mistakes of a recipe in one go, and whether the packaged ones fit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from katlit.cli import main
from katlit.commands.recipe.reader import read_recipe
from katlit.commands.recipe.steps import steps
from katlit.commands.settings_files import settings_file

ROOT = Path(__file__).parents[4]
RECIPE = """\
modell: student
model: student
prompts: missing.jsonl
settings: [base.yaml, bsae.yaml]
set: {trainer.max_steps: much}
stages:
  distil: {}
  step_srpo:
    settings: [stage/step_srpo.yaml, rollout/vllm.yaml, own.yaml]
    set:
      callbacks.RolloutSampler.engine.options.max_num_seq: 3
      checkpoint.every_n_step: 3
      callbacks.RolloutSampler.engine.options.max_num_batched_tokens: 0
"""
OWN = """\
trainer:
  max_stepz: 3
  callbacks+:
    - class_path: katlit.callbacks.ModeWatch
      init_args: {patiens: 3}
    - class_path: katlit.callbacks.SampleTabel
model:
  init_args:
    estimator: {class_path: katlit.advantages.Proces}
    backbone: {init_args: {depth: {layers: 3, order: [1]}}}
data:
  init_args:
    batch_size: many
    train: {class_path: katlit.datamodules.FilePrompts, init_args: {path: nope.jsonl}}
    validation: {class_path: katlit.datamodules.FilePrompts, init_args: {path: 1.0e-3, splitt: x}}
callbacks: {CorrectWatch: {stepz: 5}}
"""
PLANTED = [
    ("mine.yaml:1: ", "modell: no such key; the nearest is model"),
    ("mine.yaml:3: ", "prompts: no file 'missing.jsonl' here"),
    ("mine.yaml:4: ", "settings file 'bsae.yaml' does not exist; did you mean base.yaml"),
    ("mine.yaml:5: ", "trainer.max_steps: Expected int. Got value: much"),
    ("mine.yaml:7: ", "stages.distil: no such key; the nearest is distill"),
    ("mine.yaml:11: ", "VLLMOptions has no such key; the nearest is max_num_seqs"),
    ("mine.yaml:12: ", "checkpoint.every_n_step: no such key; the nearest is every_n_steps"),
    ("mine.yaml:10: ", "data.init_args.updatez: PromptData has no such key; the nearest is updates"),
    ("mine.yaml:13: ", "max_num_batched_tokens"),
    ("own.yaml:2: ", "trainer.max_stepz: katlit fit has no such key; the nearest is max_steps"),
    ("own.yaml:5: ", "ModeWatch has no such key; the nearest is patience"),
    ("own.yaml:6: ", "the nearest is katlit.callbacks.SampleTable"),
    ("own.yaml:9: ", "the nearest is katlit.advantages.Process"),
    ("own.yaml:10: ", "give one of the two, or set depth to null"),
    ("own.yaml:13: ", "data.init_args.batch_size: Expected int. Got value: many"),
    ("own.yaml:14: ", "no file 'nope.jsonl' here"),
    ("own.yaml:15: ", "path: Expected str. Got value: 0.001"),
    ("own.yaml:15: ", "FilePrompts has no such key; the nearest is split"),
    ("own.yaml:16: ", "CorrectWatch has no such key; the nearest is steps"),
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_mistakes_are_told_in_one_go(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "mine.yaml").write_text(RECIPE)
    (place / "own.yaml").write_text(OWN)
    change = "stages.step_srpo.set.data.init_args.updatez=2"
    assert main(["run", "mine.yaml", "--plan", "--set", change]) == 2
    *told, last = capsys.readouterr().err.splitlines()
    for where, what in PLANTED:
        assert [one for one in told if one.startswith(where) and what in one], (where, what, told)
    assert len(told) == len(PLANTED), told
    assert last == f"katlit: error: mine.yaml: {len(PLANTED)} mistakes, named above"


QWEN: dict[str, Any] = {"model_type": "qwen2", "num_key_value_heads": 8, "vocab_size": 152064}
SMALL = QWEN | {
    "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
    "num_key_value_heads": 2, "vocab_size": 151936,
}  # fmt: skip
MODELS = {  # their shapes, in place of their names on the hub
    "Qwen/Qwen2.5-1.5B": SMALL | {"tie_word_embeddings": True},
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": SMALL,
    "Qwen/Qwen2.5-7B": QWEN | {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": QWEN | {
        "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 48, "num_attention_heads": 40,
    },
    "Qwen/Qwen2.5-32B": QWEN | {
        "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40,
    },
    "HuggingFaceTB/SmolLM2-135M-Instruct": {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
    },
}  # fmt: skip


def bring(place: Path) -> None:
    """What a user has: questions, and models, of which there are but the shapes here."""
    (place / "data").mkdir()
    for name in ("prompts", "heldout"):
        (place / f"data/{name}.jsonl").write_text('{"prompt": "1 + 1", "reference": "2"}\n')
    for name, shape in MODELS.items():
        (place / name).mkdir(parents=True)
        (place / name / "config.json").write_text(json.dumps(shape))
        if shape["vocab_size"] < 100_000:  # markers might make it larger
            for file in (ROOT / "assets/student").glob("tokenizer*"):
                shutil.copy(file, place / name)


@pytest.mark.slow
def test_what_init_writes_fits(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bring(place)
    assert main(["init", "--hardware=laptop", "--output=mine.yaml"]) == 0, capsys.readouterr().err
    require_fits("mine.yaml", "mine", capsys)
    assert not (place / "outputs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one-gpu-1.5b", "node-7b", "cluster-40b"])
def test_a_packaged_recipe_fits(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bring(place)
    require_fits(f"recipe/{name}.yaml", name, capsys)


def test_no_step_is_started_on_the_node_of_the_rollout_server() -> None:
    recipe, mistakes = read_recipe(settings_file("recipe/cluster-40b.yaml"), [])
    last = [step for step in steps(recipe) if step.name in ("step_srpo", "evaluate-step_srpo")]
    assert ["--exclude=node8" in step.launch for step in last] == [True, True], mistakes
    assert any("http://node8:" in word for word in last[0].words)


def require_fits(recipe: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether `--plan` says that each stage fits, what it reads and what it writes."""
    assert main(["run", recipe, "--plan"]) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert shown.count("\n  fits: ") == 3, shown
    assert "cannot be planned" not in shown
    for text in ("label-distill (to do)", "  reads ", f"  writes outputs/{name}/step_srpo/model/config.json"):
        assert text in shown
