"""A mistake in a command line or a settings file is one line that names key, value and mend, and status 2."""

import logging
import os
import shlex
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from katlit.cli import main
from katlit.commands.mistakes import check_trainer
from katlit.errors import UserError

ROOT = Path(__file__).parents[2]
BASE = "-c configs/base.yaml --trainer.logger=false"
MODEL = "--model.init_args.backbone.init_args.init_from=assets/student"
STAGE1 = (
    f"fit {BASE} -c configs/stage/distill.yaml --model.init_args.teacher=assets/teacher "
    "--data.init_args.student_tokenizer=assets/student"
)
STAGE2 = f"fit {BASE} -c configs/stage/cold_start.yaml {MODEL}"
BARE3 = f"fit {BASE} -c configs/stage/step_srpo.yaml {MODEL}"
STAGE3 = f"{BARE3} -c configs/rollout/hf.yaml"
EVALUATE = f"test {BASE} -c configs/stage/evaluate.yaml {MODEL}"
FILE = "--data.init_args.train=katlit.datamodules.FilePrompts --data.init_args.train.path"
DATA = "--data.init_args"
OPTIMIZATION = "--model.init_args.optimization"
AGGREGATION = "--model.init_args.aggregation"
STRATEGY = "-c configs/strategy"
BACKBONE = "--model.init_args.backbone.init_args"
TASKS = "--data.init_args.train=katlit.datamodules.TaskPrompts --data.init_args.train.families"

CORES = f"{os.cpu_count()} at most"

# Words of the command line, and what the line must say.
TABLE = [
    # the command line itself
    ("", ["no command given", "fit", "katlit --help"]),
    ("fit", ["data, model: no value", "-c base.yaml -c stage/distill.yaml", "katlit configs"]),
    (f"fit {BASE} -c configs/stage/distill.yaml", ["data.init_args.student_tokenizer: no value is given"]),
    ("fitt", ["'fitt'", "choose one of", "fit"]),
    (f"{STAGE3} --nonsense=3", ["unrecognized arguments: --nonsense=3; choose one of callbacks, checkpoint"]),
    (f"{STAGE3} nonsense", ["unrecognized arguments", "nonsense", "begins with --"]),
    (f"{STAGE3} --trainer.max_stepz=3", ["--trainer.max_stepz=3", "nearest is max_steps of trainer"]),
    (f"{STAGE3} --traner.max_steps=3", ["--traner.max_steps=3", "the nearest is trainer"]),
    (f"{STAGE3} {OPTIMIZATION}.learning_rat=1", ["optimization.learning_rat", "nearest is learning_rate"]),
    (f"{STAGE3} --seed_everything=abc", ["seed_everything", "abc", "int"]),
    (f"{STAGE3} {BACKBONE}.init_from=null", ["backbone.init_args.init_from", "null", "YAML file"]),
    (f"{STAGE3} --model.backbone.init_from null", ["model.backbone.init_from", "null", "YAML file"]),
    # settings files
    (f"{STAGE3} -c missing.yaml", ["missing.yaml", "does not exist", "katlit configs"]),
    (f"{STAGE3} -c folder", ["folder"]),
    (f"{STAGE3} -c empty.yaml", ["'empty.yaml'", "no keys", "trainer"]),
    (f"{STAGE3} -c list.yaml", ["'list.yaml'", "no keys", "trainer"]),
    (f"{STAGE3} -c nope.yaml", ["trainer.max_steps", "${trainer.nope}", "whole key"]),
    (f"{STAGE3} -c open.yaml", ["open.yaml", "not YAML", "line"]),
    (f"{STAGE3} -c key.yaml", ["trainer.max_stepz", "no such key", "nearest is max_steps of trainer"]),
    (f"{STAGE3} -c group.yaml", ["optimization.learning_rat", "Optimization", "nearest is learning_rate"]),
    # the trainer
    (f"{STAGE3} --trainer.max_steps=3.5", ["trainer.max_steps", "3.5", "int"]),
    (f"{STAGE3} --trainer.max_steps=-7", ["trainer.max_steps", "-7", "non-negative"]),
    (f"{STAGE3} --trainer.max_time=yesterday", ["trainer.max_time", "yesterday", "DD:HH:MM:SS"]),
    (f"{STAGE3} --trainer.strategy=fsdp2", ["trainer.strategy", "fsdp2", "-c configs/strategy/fsdp2.yaml"]),
    (f"{STAGE3} --model.init_args.estimator=process", ["estimator", "nearest is katlit.advantages.Process"]),
    (f"{STAGE3} {AGGREGATION}.length=0", ["aggregation.length", "0", "at least 1"]),
    (f"{STAGE3} {AGGREGATION}.judge_weight=-1", ["aggregation.judge_weight", "-1", "0 or more"]),
    (f"{STAGE3} --trainer.strategy=fast", ["trainer.strategy", "fast", "ddp"]),
    (f"{STAGE3} {STRATEGY}/deepspeed_z3.yaml --trainer.strategy.stage=4",
     ["trainer.strategy.init_args.stage: Expected one of 1, 2, 3", "4"]),
    (f"{STAGE3} {STRATEGY}/deepspeed_z3.yaml --trainer.strategy.offload_optimizer=maybe",
     ["trainer.strategy.init_args.offload_optimizer", "bool", "maybe"]),
    (f"{STAGE3} {STRATEGY}/fsdp2_tp.yaml --trainer.strategy.tensor_parallel_size=two",
     ["trainer.strategy.init_args.tensor_parallel_size", "int", "two"]),
    (f"{STAGE3} {STRATEGY}/fsdp2_tp.yaml --trainer.strategy.tensr_parallel_size=2",
     ["trainer.strategy.init_args.tensr_parallel_size", "nearest is tensor_parallel_size"]),
    (f"{STAGE3} --trainer.precision=bf16-mixd", ["trainer.precision", "bf16-mixd", "'bf16-mixed'", "'32'"]),
    (f"{STAGE3} --trainer.accelerator=abacus", ["trainer.accelerator", "abacus", "cuda"]),
    (f"{STAGE3} --trainer.accelerator=cpu --trainer.devices=-3", ["trainer.devices", "-3", "int > 0"]),
    (f"{STAGE3} --trainer.accelerator=gpu --trainer.devices=9999", ["trainer.", "gpu"]),
    (f"{STAGE3} --trainer.accelerator=cpu --trainer.devices=9999", ["trainer.devices", "9999", CORES]),
    (f"{STAGE3} --trainer.num_nodes=0", ["trainer.num_nodes", "0", "positive"]),
    (f"{STAGE3} {FILE}=good.jsonl --data.train.limit=abc", ["Expected int or null. Got value: abc"]),
    (f"{STAGE3} --trainer.limit_train_batches=-1", ["trainer.limit_train_batches", "-1", "[0.0, 1.0]"]),
    (f"{STAGE3} --trainer.accumulate_grad_batches=0", ["accumulate_grad_batches", "0", "at least 1"]),
    (f"{STAGE3} --trainer.gradient_clip_val=-1", ["trainer.gradient_clip_val", "-1", "0 or more"]),
    (f"{STAGE3} --trainer.default_root_dir=file/x", ["trainer.default_root_dir", "file/x", "choose"]),
    (f"{STAGE3} --ckpt_path=gone.ckpt", ["ckpt_path", "gone.ckpt", "does not exist", "give"]),
    (f"{STAGE3} --checkpoint.every_n_steps=0", ["checkpoint", "every_n_steps", "0", "at least 1"]),
    (f"{STAGE3} --trainer.logger=refusing.Logger", ["trainer.logger", "Logger", "pip install nowhere"]),
    # callbacks
    (f"{BARE3} {FILE}=good.jsonl", ["trainer.callbacks", "prompts of fit", "-c configs/rollout/vllm.yaml"]),
    (EVALUATE, ["trainer.callbacks", "prompts of test", "-c configs/rollout/evaluate.yaml"]),
    (f"{STAGE3} -c configs/rollout/hf.yaml", ["trainer.callbacks", "RolloutSampler", "only one file"]),
    (f"{BARE3} -c samples.yaml", ["trainer.callbacks[0]", "samples 1", "at least 2"]),
    (f"{BARE3} -c extra_rounds.yaml", ["trainer.callbacks[0]", "extra_rounds: 0", "at least 1"]),
    (f"{BARE3} -c forced_share.yaml", ["trainer.callbacks[0]", "forced_share 2.0", "from 0 to 1"]),
    (f"{BARE3} -c max_unjudged_share.yaml", ["max_unjudged_share: -1.0", "from 0 to 1"]),
    (f"{BARE3} -c row_tokens.yaml", ["trainer.callbacks[0]", "row_tokens: 0", "at least 1"]),
    (f"{BARE3} -c sampling.yaml", ["sampling.max_tokens: 8192", "max_context", "lower max_tokens"]),
    (f"{BARE3} -c reward.yaml", ["reward", "'sum(words)'", "MLflow", "letters"]),
    (f"{BARE3} -c sampl.yaml", ["callbacks.init_args.sampl", "RolloutSampler", "nearest is samples"]),
    (f"{BARE3} -c engine.yaml", ["init_args.engine", "HfEngin", "nearest is katlit.engines.HFEngine"]),
    (f"{BARE3} -c configs/rollout/vllm.yaml --trainer.callbacks.engine.kv_cache_gib=3",
     ["engine.init_args.kv_cache_gib", "VLLMEngine", "it is options.kv_cache_gib"]),
    (f"{STAGE3} --trainer.callbacks.reward.rewards.accuracy.init_args.threshold=0.4",
     ["reward.init_args.rewards: 'accuracy.init_args.threshold'", "in a mapping", "YAML file"]),
    (f"{BARE3} -c configs/rollout/vllm.yaml --trainer.callbacks.engine.options.max_num_batched_tokens=10",
     ["].init_args.engine.init_args.options.max_num_batched_tokens: 10", "at least 8192"]),
    # the model
    (f"{STAGE3} --model=katlit.modules.Nope", ["model", "'Nope'", "katlit.modules.ColdStartSFT, katlit.m"]),
    (f"{STAGE3} --model=stepSRP", ["model", "stepSRP", "nearest is katlit.modules.StepSRPO"]),
    (f"{STAGE3} --model=katlit.datamodules.PromptData", ["subclass of LightningModule", "modules.StepSRPO"]),
    (f"{STAGE3} --model.init_args.colour=red", ["init_args.colour", "StepSRPO", "choose one of aggregation"]),
    (f"{STAGE3} --model.kl_wieght=1", ["model.init_args.kl_wieght", "StepSRPO", "nearest is kl_weight"]),
    (f"{STAGE3} {BACKBONE}.mtp_dept=1", ["backbone.init_args.mtp_dept", "Backbone", "nearest is mtp_depth"]),
    (f"{STAGE3} --trainer.logger=lightning.pytorch.loggers.CSVLoger", ["trainer.logger", "s.CSVLogger"]),
    (f"{STAGE3} --model.init_args.kl_weight=-1", ["model.init_args.kl_weight", "-1", "0 or more"]),
    (f"{STAGE3} --model.init_args.temperature=0", ["model.init_args.temperature", "0.0", "above 0"]),
    (f"{STAGE2} --model.init_args.judge_weight=-1", ["model.init_args.judge_weight", "-1", "above 0"]),
    (f"{STAGE2} --model.init_args.mtp_weight=-1", ["model.init_args.mtp_weight", "-1", "0 or more"]),
    (f"{STAGE2} {OPTIMIZATION}.learning_rate=-1", ["optimization.learning_rate", "-1", "0 or more"]),
    (f"{STAGE2} {BACKBONE}.lora.rank=0", ["error: model.init_args.backbone.init_args.lora: rank 0"]),
    (f"{STAGE2} {OPTIMIZATION}.beta1=1", ["optimization.beta1", "1.0", "below 1"]),
    (f"{STAGE2} {OPTIMIZATION}.min_ratio=3", ["optimization.min_ratio", "3.0", "from 0 to 1"]),
    (f"{STAGE2} {OPTIMIZATION}.schedule=cosin", ["optimization.schedule", "cosin", "'cosine', 'linear'"]),
    (f"{STAGE1} --model.init_args.kd=kl", ["model.init_args.kd", "kl", "'uld', 'jsd', 'none'"]),
    (f"{STAGE1} --model.init_args.uld_matching=all", ["uld_matching", "all", "'rank', 'hybrid'"]),
    (f"{STAGE1} --model.init_args.beta=2", ["model.init_args.beta", "2.0", "from 0"]),
    (f"{STAGE1} --model.init_args.temperature=0", ["model.init_args.temperature", "0.0", "above 0"]),
    (f"{STAGE1} --model.init_args.kd_weight=-1", ["model.init_args.kd_weight", "-1", "0 or more"]),
    (f"{STAGE1} --model.init_args.mtp_weight=-1", ["model.init_args.mtp_weight", "-1", "0 or more"]),
    (f"{STAGE1} {BACKBONE}.mtp_depth=-1", ["backbone.init_args.mtp_depth", "-1", "0 or more, or null"]),
    (f"{STAGE3} {FILE}=good.jsonl {BACKBONE}.init_from=folder", ["init_from", "'folder'", "tokenizer.json"]),
    # the data
    (f"{STAGE3} --data=katlit.datamodules.Nope", ["'Nope'", "katlit.datamodules.PromptData"]),
    (f"{STAGE3} {DATA}.train=nowhere.Thing", ["data.init_args.train", "'nowhere'", "FilePrompts"]),
    (f"{STAGE3} --model.learning_rate=3", ["init_args.learning_rate", "it is optimization.learning_rate"]),
    (f"{STAGE2} {DATA}.sampling.max_tokns=3", ["sampling.max_tokns", "nearest is max_tokens"]),
    (STAGE3, ["no training prompts", "data.init_args.train"]),
    (f"{STAGE3} {DATA}.batch_size=0", ["data.init_args.batch_size", "0", "at least 1"]),
    (f"{STAGE3} {DATA}.updates=0", ["data.init_args.updates", "0", "at least 1"]),
    (f"{STAGE3} {DATA}.batch_size=few", ["data.init_args.batch_size", "few", "int"]),
    (f"{STAGE3} {FILE}=missing.jsonl", ["missing.jsonl", "no such file", "give the path"]),
    (f"{STAGE3} {FILE}=empty.jsonl", ["empty.jsonl", "at least one JSON object"]),
    (f"{STAGE3} {FILE}=broken.jsonl", ["broken.jsonl:2", "malformed JSON"]),
    (f"{STAGE3} {FILE}=solved.jsonl", ["solved.jsonl:1", "ends with a turn", "cut_last_reply: true"]),
    (f"{STAGE3} {FILE}=bare.jsonl", ["2 of 2 prompts", "bare.jsonl:1, bare.jsonl:2", "is empty", "columns"]),
    (f"{STAGE3} {TASKS}=nowhere.yaml", ["families", "nowhere.yaml", "No such file"]),
    (STAGE2, ["nothing to label", "give prompts"]),
    (f"{STAGE2} {DATA}.records_file=missing.jsonl", ["missing.jsonl", "give the path"]),
    (f"{STAGE2} {DATA}.sampling.temperature=-1", ["sampling.temperature", "-1", "0.01"]),
    (f"{STAGE2} {DATA}.sampling.max_tokens=0", ["sampling.max_tokens", "0", "at least 1"]),
    (f"{STAGE2} {FILE[:-5].replace('train', 'prompts')}.path=good.jsonl {DATA}.sampling.max_tokens=8192",
     ["sampling.max_tokens", "8192", "max_context"]),
    (f"{STAGE2} {DATA}.labeller.init_args.samples=few", ["labeller.init_args.samples", "few", "int"]),
    (f"{STAGE2} {DATA}.labeller.init_args.samples=0", ["labeller.init_args.samples", "0", "at least 1"]),
    (f"{STAGE2} {DATA}.labeller.init_args.forced=2", ["labeller.init_args.forced", "2.0", "from 0 to 1"]),
    (f"{STAGE2} {DATA}.batches.validation_share=2", ["validation_share", "2.0", "below 1"]),
    (f"{STAGE1} {DATA}.labeller.init_args.tries=0", ["labeller.init_args.tries", "0", "at least 1"]),
    (f"{STAGE1} {DATA}.labeller.init_args.think_share=1", ["think_share", "1.0", "between 0 and 1"]),
    (f"{STAGE1} {DATA}.labeller.init_args.think_share=null", ["think_share", "null", "YAML file"]),
]  # fmt: skip

# Of the one sampler: a list of callbacks can only be replaced as a whole.
SAMPLERS = {
    "samples": 1, "extra_rounds": 0, "forced_share": 2, "max_unjudged_share": -1, "row_tokens": 0, "sampl": 3,
    "engine": {"class_path": "katlit.engines.HfEngin"}, "sampling": {"max_tokens": 8192},
    "reward": {
        "rewards": {"accuracy": {"class_path": "katlit.rewards.AccuracyReward"},
                    "sum(words)": {"class_path": "katlit.rewards.FormatReward"}},
        "weights": {"accuracy": 1.0, "sum(words)": 0.1},
    },
}  # fmt: skip
FILES = {
    "file": "",
    "empty.yaml": "",
    "list.yaml": "- trainer\n- model\n",
    "nope.yaml": "trainer:\n  max_steps: ${trainer.nope}\n",
    "key.yaml": "trainer:\n  max_stepz: 3\n",
    "group.yaml": "model:\n  init_args:\n    optimization:\n      learning_rat: 3\n",
    "open.yaml": "trainer:\n  max_steps: [\n",
    "empty.jsonl": "",
    "good.jsonl": '{"prompt": "1+1", "reference": "2"}\n',
    "bare.jsonl": '{"prompt": "1+1"}\n{"prompt": "2+2"}\n',
    "solved.jsonl": '{"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "2"}]}\n',
    "broken.jsonl": '{"prompt": "1+1", "reference": "2"}\n{"prompt": "1+1"\n',
    "refusing.py": "from lightning.pytorch.loggers import CSVLogger as Base\n\n\nclass Logger(Base):\n"
    "    def __init__(self) -> None:\n        raise ModuleNotFoundError('pip install nowhere')\n",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the settings of the repository, and with files that are wrong."""
    place = tmp_path_factory.mktemp("mistakes")
    for name in ("configs", "assets"):
        (place / name).symlink_to(ROOT / name)
    (place / "folder").mkdir()
    for name, text in FILES.items():
        (place / name).write_text(text)
    for name, value in SAMPLERS.items():
        settings = yaml.safe_load((ROOT / "configs/rollout/hf.yaml").read_text())["trainer"]
        (sampler,) = settings["callbacks+"]
        sampler["init_args"][name] = value
        (place / f"{name}.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [sampler]}}))
    return place


@pytest.mark.parametrize(("words", "named"), TABLE, ids=[words[-60:] for words, _ in TABLE])
def test_a_mistake_is_one_line(
    words: str,
    named: list[str],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    monkeypatch.setattr(logging, "raiseExceptions", False)  # Lightning logs to the last test's stderr
    assert main(shlex.split(words)) == 2
    error = capsys.readouterr().err
    (line,) = [line for line in error.splitlines() if line.startswith("katlit: error: ")]
    assert error.endswith(f"{line}\n")
    assert "Traceback" not in error
    assert [text for text in named if text not in line] == [], line


def test_two_processes_without_labels_are_told_of_katlit_label(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any of them starts; vLLM in one of them would wait for the other, which waits for it."""
    monkeypatch.chdir(place)
    files = ("base", "stage/distill", "demo/distill", "strategy/ddp", "strategy/cpu", "logger/none")
    assert main(["fit", *(word for name in files for word in ("-c", f"{name}.yaml"))]) == 2
    assert "run the same command with label in place of fit first" in capsys.readouterr().err


@pytest.mark.parametrize(("devices", "gpus", "told"), [
    (3, 2, "trainer.devices: 3; give 2 at most, the gpus of this machine"),
    ("-1", 2, None),
    ([0, 2], 2, r"trainer.devices: \[0, 2\]; give places below 2"),
    ([1], 2, None),
    ("auto", 0, "trainer.accelerator: gpu; give cpu"),
])  # fmt: skip
def test_gpus_are_counted(
    devices: object, gpus: int, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    settings = {
        "accumulate_grad_batches": 1, "gradient_clip_val": None, "accelerator": "gpu", "devices": devices
    }  # fmt: skip
    with pytest.raises(UserError, match=told) if told else nullcontext():
        check_trainer(settings)


def test_the_strategies_of_ours_are_files() -> None:
    from katlit.commands.mistakes import OUR_STRATEGIES

    files = {path.stem for path in (ROOT / "configs/strategy").glob("*.yaml")}
    assert files - {"ddp"} == set(OUR_STRATEGIES)
