"""What katlit or TRL makes of the demo's student in a number of steps; no benchmark by itself.

`python benchmarks/_reward.py ours`, or `trl`. The student counts the legs of animals in its own way, without
the protocol's markers; a response whose last number is the right one earns 1. Both sides go through the
same prompts in the same order, with as many rollouts each, the same loss (`benchmarks/_grpo.py`), AdamW,
constant learning rate and clipping of gradients, and leave cut responses out. Each has its own loop: the
`hf` engine, the rollout callback and `StepSRPO` here, `GRPOTrainer` and its `generate` there. The result
is then sampled on held-out prompts by the same engine from the same seeds. The last line is a JSON object.
"""

import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _grpo import CLIP_HIGH, CLIP_LOW, load_theirs
from lightning.pytorch import Trainer

from katlit.advantages import GRPO
from katlit.batch import Prompt, RolloutBatch
from katlit.callbacks.rollout.sampler import RolloutSampler
from katlit.datamodules.loader import EpochLoader
from katlit.datamodules.sources.tasks import TaskFamily, TaskPrompts
from katlit.engines import HFEngine, SamplingParameters
from katlit.model.backbone import Backbone
from katlit.model.pretrained import load_tokenizer
from katlit.modules import StepSRPO
from katlit.rewards import CompositeReward, Reward, Sample, Verdict
from katlit.stage.optimization import Optimization
from katlit.text.protocol import Protocol

START = Path("assets/student")
STEPS, PROMPTS, ROLLOUTS = 25, 16, 8
HELD_OUT = 768
LEARNING_RATE, BETA2, CLIP_NORM = 3e-4, 0.999, 1.0
MAX_TOKENS = 96
NUMBER = re.compile(r"\d+")


def is_right(text: str, reference: str) -> float:
    """1 where the last number of the text is the reference, else 0."""
    return float(NUMBER.findall(text)[-1:] == [reference])


class RightAnswer(Reward):
    """Reads all that the student writes."""

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        """See `Reward`."""
        values = [is_right(sample.text, sample.prompt["reference"]) for sample in samples]
        return [Verdict(value, "") for value in values]


def questions() -> tuple[list[Prompt], list[Prompt]]:
    """To train on and held out."""
    animals = {"min_animals": 1, "max_animals": 1, "max_instances": 40}
    family = TaskFamily("legs", "leg_counting", 1, 1.0, animals)
    found = TaskPrompts([family], STEPS * PROMPTS + HELD_OUT).load()
    return found[: STEPS * PROMPTS], found[STEPS * PROMPTS :]


def accuracy(model: Path, prompts: list[Prompt], protocol: Protocol) -> float:
    """Share of right answers, one sample a prompt."""
    engine = HFEngine(max_context=512)
    engine.start(model)
    sampling = SamplingParameters(max_tokens=MAX_TOKENS, stop_token_ids=[protocol.end_id])
    ids = [protocol.encode_prompt(prompt["messages"], "auto") for prompt in prompts]
    texts = [protocol.decode(one.token_ids) for one in engine.generate(ids, sampling, range(len(ids)))]
    right = [is_right(text, prompt["reference"]) for text, prompt in zip(texts, prompts, strict=True)]
    return sum(right) / len(right)


def prepare(directory: Path) -> Path:
    """The student with the markers that it never met drawn anew, so that both sides start alike."""
    backbone = Backbone(model=str(START))
    backbone.materialize()
    backbone.export(directory)
    return directory


def train_ours(start: Path, prompts: list[Prompt], output: Path) -> None:
    """Stage 3, by Lightning's trainer."""
    stage = StepSRPO(
        Backbone(init_from=str(start)), Optimization(LEARNING_RATE, beta2=BETA2), estimator=GRPO(),
        clip_low=CLIP_LOW, clip_high=CLIP_HIGH,
    )  # fmt: skip
    sampler = RolloutSampler(
        HFEngine(max_context=512), CompositeReward({"accuracy": RightAnswer()}, {"accuracy": 1.0}),
        SamplingParameters(max_tokens=MAX_TOKENS), samples=ROLLOUTS, forced_share=0.0,
    )  # fmt: skip
    batches = [prompts[start : start + PROMPTS] for start in range(0, len(prompts), PROMPTS)]
    loader: EpochLoader[list[Prompt], RolloutBatch] = EpochLoader(
        lambda _: batches, lambda part: {"prompts": part}
    )
    Trainer(
        accelerator="cpu", max_steps=STEPS, gradient_clip_val=CLIP_NORM, callbacks=[sampler], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=output,
    ).fit(stage, loader)  # fmt: skip
    stage.backbone.export(output / "model")


def train_theirs(start: Path, prompts: list[Prompt], output: Path, protocol: Protocol) -> None:
    """TRL's trainer, with the text of the same prompts."""
    from datasets import Dataset

    ids = [protocol.encode_prompt(prompt["messages"], "auto") for prompt in prompts]
    texts = [protocol.decode(each) for each in ids]
    if protocol.tokenizer(texts)["input_ids"] != ids:
        raise RuntimeError("the text of a prompt gives other tokens than the prompt has")
    data = Dataset.from_dict({"prompt": texts, "reference": [prompt["reference"] for prompt in prompts]})

    def reward(completions: list[str], reference: list[str], **_: Any) -> list[float]:
        return [is_right(text, right) for text, right in zip(completions, reference, strict=True)]

    trainer = load_theirs(
        start, train_dataset=data, reward_funcs=reward, shuffle_dataset=False,
        max_steps=STEPS, per_device_train_batch_size=PROMPTS * ROLLOUTS, num_generations=ROLLOUTS,
        max_completion_length=MAX_TOKENS, mask_truncated_completions=True, learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant", adam_beta2=BETA2, max_grad_norm=CLIP_NORM,
    )  # fmt: skip
    trainer.train()
    trainer.model.save_pretrained(output / "model")


def main() -> None:
    """Train one side and print its reward."""
    torch.set_num_threads(1)
    side, (prompts, held_out) = sys.argv[1], questions()
    protocol = Protocol(load_tokenizer(str(START), "START"))
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory)
        start = prepare(output / "start")
        if side == "ours":
            train_ours(start, prompts, output)
        else:
            train_theirs(start, prompts, output, protocol)
        found = {f"reward_{side}": accuracy(output / "model", held_out, protocol)}
        found |= {"reward_start": accuracy(start, held_out, protocol)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
