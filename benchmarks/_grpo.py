"""One GRPO step of katlit and of TRL on the same given rollouts; no benchmark by itself.

Both have the weights of one directory, a Qwen3 of 4 layers and 128 wide, in float32 and without gradient
checkpointing (TRL's own default is to have it); one update a batch, the token mean over the batch (TRL's
"bnpo"), two-sided clipping, no KL. TRL is handed our advantages, because its standard deviation is another.

Shapes: N rollouts, L tokens of the longest completion.
"""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from katlit.advantages import GRPO, Rollouts
from katlit.batch import RolloutBatch
from katlit.engines.base import Completion
from katlit.model.backbone import Backbone
from katlit.model.pretrained import load_tokenizer
from katlit.modules import StepSRPO
from katlit.rollout.tensors import lay_out, outcomes
from katlit.rollout.types import Rollout
from katlit.text.protocol import Protocol

TOKENIZER = "assets/student"
SHAPE: dict[str, Any] = {
    "model_type": "qwen3", "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True,
}  # fmt: skip
PROMPT = 64  # tokens
GROUP = 4  # rollouts of a prompt
ROW_TOKENS = 1024  # what `RolloutSampler` has by default
CLIP_LOW, CLIP_HIGH = 0.2, 0.28

Step = Callable[[], None]


def write_model(directory: Path, vocabulary: int) -> None:
    """Fresh weights, with the tokenizer of the demo."""
    backbone = Backbone(config=SHAPE | {"vocab_size": vocabulary}, tokenizer=TOKENIZER)
    backbone.materialize()
    backbone.export(directory)


@torch.no_grad()
def sample_rollouts(directory: Path, lengths: list[int]) -> list[Rollout]:
    """Random tokens, and the log-probabilities that a sampler of these weights would have recorded."""
    model: Any = AutoModelForCausalLM.from_pretrained(directory)
    protocol = Protocol(load_tokenizer(TOKENIZER, "TOKENIZER"))
    generator = torch.Generator().manual_seed(1)
    rollouts = []
    for index, length in enumerate(lengths):
        ids = torch.randint(model.config.vocab_size, (PROMPT + length,), generator=generator)
        log_probs = model(ids[None]).logits[0, PROMPT - 1 : -1].log_softmax(dim=-1)
        chosen = log_probs.gather(-1, ids[PROMPT:, None])[:, 0].tolist()
        prompt, sampled = ids[:PROMPT].tolist(), ids[PROMPT:].tolist()
        reward = torch.rand((), generator=generator).item()
        parsed = protocol.parse_ids([protocol.end_id], "auto")  # the loss does not look at it
        completion = Completion(sampled, chosen, "stop")
        group, number = divmod(index, GROUP)
        rollouts.append(Rollout(group, "auto", prompt, completion, number, 0, parsed, reward, False, {}))
    return rollouts


def load_ours(directory: Path) -> StepSRPO:
    """The module of stage 3."""
    stage = StepSRPO(Backbone(model=str(directory)), estimator=GRPO(), clip_low=CLIP_LOW, clip_high=CLIP_HIGH)
    stage.configure_model()
    stage.log_dict = lambda *_, **__: None  # there is no trainer to take them
    return stage


def our_batch(stage: StepSRPO, rollouts: list[Rollout]) -> RolloutBatch:
    """Packed as the rollout callback packs them."""
    batch = RolloutBatch(prompts=[], difficulties=torch.zeros(len(rollouts), dtype=torch.int64))
    tokens = lay_out(rollouts, range(len(rollouts)), ROW_TOKENS, stage.backbone.protocol)
    batch.update(outcomes(rollouts) | tokens)  # type: ignore[typeddict-item]
    return batch


def padding(batch: RolloutBatch) -> float:
    """Share of the batch that belongs to no rollout."""
    return (batch["rollout_ids"] < 0).float().mean().item()


def our_step(stage: StepSRPO, batch: RolloutBatch) -> Step:
    """Forward and backward pass."""

    def step() -> None:
        stage.zero_grad()
        stage.training_step(batch, 0).backward()  # type: ignore[no-untyped-call]

    return step


def load_theirs(directory: Path, **settings: Any) -> Any:
    """TRL's trainer over the same weights; `settings` are further ones of its configuration."""
    warnings.simplefilter("ignore")
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    data = settings.pop("train_dataset", Dataset.from_list([{"prompt": "0"}] * GROUP))
    reward = settings.pop("reward_funcs", lambda completions, **_: [0.0] * len(completions))
    output = tempfile.mkdtemp()
    common = {
        "output_dir": output, "use_cpu": True, "bf16": False, "report_to": [], "disable_tqdm": True,
        "gradient_checkpointing": False, "loss_type": "bnpo", "beta": 0.0, "epsilon": CLIP_LOW,
        "epsilon_high": CLIP_HIGH, "num_generations": GROUP, "per_device_train_batch_size": GROUP,
        "logging_strategy": "no", "save_strategy": "no",
    }  # fmt: skip
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32),
        reward_funcs=reward,
        args=GRPOConfig(**common | settings),
        train_dataset=data,
        processing_class=load_tokenizer(str(directory), "directory"),
    )
    trainer.current_gradient_accumulation_steps = 1  # set by its loop else
    trainer.model.train()
    return trainer


def their_inputs(rollouts: list[Rollout]) -> dict[str, Tensor]:
    """Padded on the right, as its generation leaves them; [N, 64], [N, L] and [N]."""
    completions = [torch.tensor(rollout.completion.token_ids) for rollout in rollouts]
    ones = [torch.ones_like(completion) for completion in completions]
    prompts = torch.tensor([rollout.prompt_ids for rollout in rollouts])
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": torch.nn.utils.rnn.pad_sequence(completions, batch_first=True),
        "completion_mask": torch.nn.utils.rnn.pad_sequence(ones, batch_first=True),
        "advantages": _advantages(rollouts),
    }


def _advantages(rollouts: list[Rollout]) -> Tensor:
    """Ours, one a rollout, [N]: the same for judge and answer."""
    return GRPO()(Rollouts(**outcomes(rollouts)))[:, 1]


def their_step(trainer: Any, inputs: dict[str, Tensor]) -> Step:
    """Forward and backward pass of its loss."""

    def step() -> None:
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, inputs).backward()

    return step
