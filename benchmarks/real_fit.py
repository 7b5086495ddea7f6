"""Whether the documented settings fit: `katlit plan` of the three real stages, 7B on 8 GPUs and 40B on 64.

`python benchmarks/real_fit.py`, from the top of the repository; needs no GPU, no network and no weights. The
settings are those of docs/real.md, with the models' shapes in place of their names. Devices are of 80 GB, and
stage 3 is counted at its worst, with every rollout as long as the engine's context. The last line is a JSON
object: `peak_gib_<stage>_<size>` on each device, and `fits`, whether all do.
"""

import json
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from katlit.commands.plan.command import PlanCLI, Planner
from katlit.commands.plan.memory import Job, plan
from katlit.commands.plan.settings import Overrides, memory_size, read_job
from katlit.commands.trainer import run

MEMORY = "80"  # GB
SHAPE: dict[str, Any] = {
    "model_type": "qwen2", "num_key_value_heads": 8, "vocab_size": 152064, "tie_word_embeddings": False
}  # fmt: skip
MODELS = {
    "Qwen2.5-7B": SHAPE | {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
    "Qwen2.5-14B": SHAPE | {
        "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 48, "num_attention_heads": 40,
    },
    "Qwen2.5-32B, 80 layers": SHAPE | {
        "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 80, "num_attention_heads": 40,
    },
}  # fmt: skip
TEACHER = "Qwen2.5-14B"
FILES = {
    "distill": ("stage/distill", "backbone/qwen2.5-7b", "strategy/fsdp2", "real/distill"),
    "cold_start": ("stage/cold_start", "backbone/qwen2.5-7b", "strategy/fsdp2", "real/cold_start"),
    "step_srpo": ("stage/step_srpo", "backbone/qwen2.5-7b", "strategy/fsdp2", "real/step_srpo"),
}
# Model, and nodes of eight devices. What the larger one needs beside: a teacher in pieces, and a server on
# devices of its own for its rollouts.
SIZES = {"7b": ("Qwen2.5-7B", 1), "40b": ("Qwen2.5-32B, 80 layers", 8)}
MORE = {
    ("distill", "40b"): ["--model.init_args.teacher_placement=sharded"],
    ("step_srpo", "7b"): ["-c", "configs/rollout/vllm.yaml"],
    ("step_srpo", "40b"): ["-c", "configs/rollout/vllm_server.yaml"],
}


def words(stage: str, size: str, directory: Path) -> list[str]:
    """The command line that plans a stage.

    Args:
        stage: One of `FILES`.
        size: One of `SIZES`.
        directory: Where the shapes that stand for names are written.
    """
    model, nodes = SIZES[size]
    (directory / "config.json").write_text(json.dumps(MODELS[TEACHER]), encoding="utf-8")
    backbone = {"model": None, "init_from": None, "mtp_depth": 1, "config": MODELS[model]}
    arguments: dict[str, Any] = {"backbone": {"class_path": "katlit.model.Backbone", "init_args": backbone}}
    data: dict[str, Any] = {}
    if stage == "distill":
        arguments["teacher"] = str(directory)
        data = {"student_tokenizer": "none"}  # nothing is labelled
    if stage == "cold_start":
        data = {"student": "none", "labeller": {"init_args": {"student": "none"}}}
    shapes = directory / "shapes.yaml"
    shapes.write_text(json.dumps({"model": {"init_args": arguments}, "data": {"init_args": data}}))
    files = [f"configs/{name}.yaml" for name in FILES[stage]]
    chosen = [word for name in ("configs/base.yaml", *files, str(shapes)) for word in ("-c", name)]
    chosen += MORE.get((stage, size), [])
    return ["plan", *chosen, "--trainer.devices=8", f"--trainer.num_nodes={nodes}", f"--memory={MEMORY}"]


def job_of(stage: str, size: str) -> Job:
    """What `katlit plan` reads from the settings."""
    with tempfile.TemporaryDirectory() as directory:
        with redirect_stdout(StringIO()):
            read = run(words(stage, size, Path(directory)), PlanCLI, Planner)
        return read_job(read.model, read.config["plan"], Overrides(memory_size(MEMORY), on_gpu=True))


def main() -> None:
    """Plan all stages at both sizes."""
    found: dict[str, Any] = {}
    fits = True
    for size in SIZES:
        for stage in FILES:
            job = job_of(stage, size)
            planned = plan(job)
            fits &= planned.total <= job.memory
            found[f"peak_gib_{stage}_{size}"] = round(planned.total / 2**30, 1)
            parts = {name: round(number / 2**30, 1) for name, number in vars(planned).items() if number}
            print(stage, size, found[f"peak_gib_{stage}_{size}"], parts)
    print(json.dumps(found | {"fits": fits}))


if __name__ == "__main__":
    main()
