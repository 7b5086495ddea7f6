"""Trains stages by the command line on ready-made batches; started by torchrun, or alone.

`python parity_worker.py OUTPUT merged|parts STAGE,… WORDS…`: WORDS go to every `katlit fit`.
"""

import os
import sys
from pathlib import Path

import torch

from katlit.cli import main

ROOT = Path(__file__).parents[2]
CLASSES = {"sft": "ColdStartSFT", "distill": "DistillMTP", "srpo": "StepSRPO"}


def command(stage: str, output: Path, merged: bool, words: list[str]) -> list[str]:
    backbone = "--model.init_args.backbone.init_args"
    model = [f"--model=modules.{CLASSES[stage]}", f"{backbone}.init_from={output}/start/model"]
    if stage == "distill":
        model += [f"{backbone}.mtp_depth=1", f"--model.init_args.teacher={output}/teacher/model"]
    if stage == "srpo":
        model += ["--model.init_args.kl_weight=0.1", "--model.init_args.streams=separate"]
        model += ["--model.init_args.aggregation=sequence"]
    ranks, parts = int(os.environ.get("WORLD_SIZE", "1")), 1 if merged else 4
    folder = output / stage
    return [
        "fit", "-c", str(ROOT / "configs/base.yaml"), *model,
        "--model.init_args.optimization.learning_rate=0.01",
        "--data=fixedbatches.FixedBatches", f"--data.stage={stage}", f"--data.merged={merged}",
        "--trainer.max_steps=5", "--trainer.logger=false", f"--trainer.default_root_dir={folder}",
        f"--trainer.accumulate_grad_batches={parts // ranks}",
        "--trainer.callbacks+=collect.Collect", f"--trainer.callbacks.path={folder}/log.jsonl",
        "--trainer.callbacks+=katlit.callbacks.export.ExportModel",
        f"--trainer.callbacks.directory={folder}/model", *words,
    ]  # fmt: skip


if __name__ == "__main__":
    output, merged, stages, *words = sys.argv[1:]
    torch.set_num_threads(1)
    for stage in stages.split(","):
        (Path(output) / stage).mkdir(parents=True, exist_ok=True)
        status = main(command(stage, Path(output), merged == "merged", words))
        if status:
            sys.exit(status)
