"""Ready-made micro-batches of any stage, cut differently for different numbers of ranks."""

from typing import Any

import torch
from lightning import LightningDataModule
from tinymodel import packed
from torch import Tensor

from katlit.batch import Prompt
from katlit.datamodules.loader import EpochLoader, share_of

ROWS = 16  # tokens a row
# Documents of each row of each micro-batch: unequal numbers of rows and of targets.
MICRO_BATCHES = [[[9, 7], [12]], [[4]], [[16], [5, 5, 6], [8, 3]], [[11, 5]]]
STEPS = 5
PROMPT, JUDGE = 2, 2  # tokens of each rollout


class FixedBatches(LightningDataModule):
    """Four micro-batches for each of five optimizer steps.

    Args:
        stage: What the batches are for.
        merged: Whether a step is one batch of all rows.
    """

    def __init__(self, stage: str = "sft", merged: bool = False) -> None:
        super().__init__()
        self.stage = stage
        self.merged = merged

    def train_dataloader(self) -> EpochLoader[int, Any]:
        steps = [step_batches(self.stage, step) for step in range(STEPS)]
        if self.merged:
            steps = [[merge(parts)] for parts in steps]
        batches = [batch for parts in steps for batch in parts]
        return EpochLoader(
            lambda _: range(len(batches)), lambda index: dict(batches[index]), share_of(self.trainer)
        )

    def val_dataloader(self) -> EpochLoader[int, Any]:
        """The first step's batches, one after the other, on every rank the same."""
        parts = step_batches(self.stage, 0)
        return EpochLoader(lambda _: range(len(parts)), lambda index: dict(parts[index]))


def step_batches(stage: str, step: int) -> list[dict[str, Any]]:
    torch.manual_seed(step)
    return [{"sft": tokens, "distill": pairs, "srpo": rollouts}[stage](rows) for rows in MICRO_BATCHES]


def tokens(rows: list[list[int]]) -> dict[str, Tensor]:
    """Packed rows, all padded to the same length."""
    batch = packed([*rows, [ROWS]])
    return {name: tensor[:-1] for name, tensor in batch.items()}


def pairs(rows: list[list[int]]) -> dict[str, Tensor]:
    """The teacher reads the same tokens; two of three targets are paired with themselves."""
    batch = tokens(rows)
    targets = batch["loss_mask"].flatten().nonzero()[:, 0]
    targets = targets[targets % 3 > 0]
    theirs = {f"teacher_{name}": batch[name] for name in ("input_ids", "position_ids")}
    return batch | theirs | {"student_targets": targets, "teacher_targets": targets}


def rollouts(rows: list[list[int]]) -> dict[str, Any]:
    """Each document a rollout, all of one prompt; the second is truncated, the third forced."""
    batch = tokens(rows)
    positions = batch["position_ids"]
    real = torch.arange(ROWS) < torch.tensor([[sum(row)] for row in rows])
    starts = ((positions == 0) & real).long()
    number = sum(map(len, rows))
    sampled = real & (positions >= PROMPT)
    index = torch.arange(number)
    prompts: list[Prompt] = []
    return batch | {
        "prompts": prompts,
        "loss_mask": sampled,
        "rollout_ids": (starts.flatten().cumsum(0).reshape(starts.shape) - 1).where(real, -1),
        "judge_mask": sampled & (positions < PROMPT + JUDGE),
        "rollout_log_probs": torch.full(positions.shape, -5.0).where(sampled, 0),
        "group_ids": torch.zeros(number, dtype=torch.int64),
        "modes": index % 2,
        "rewards": torch.rand(number),
        "correct": index % 3 == 0,
        "truncated": index == 1,
        "forced": index == 2,
        "tokens": torch.tensor([length - PROMPT for row in rows for length in row]),
    }


OFFSETS = {  # what the numbers in a tensor count
    "rollout_ids": "rewards",
    "group_ids": "groups",
    "student_targets": "tokens",
    "teacher_targets": "tokens",
}


def merge(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One batch of all rows; rollouts, groups and flattened positions are counted on."""
    merged: dict[str, Any] = {}
    passed = {"rewards": 0, "groups": 0, "tokens": 0}
    for part in parts:
        for name, value in part.items():
            if name in OFFSETS:
                value = torch.where(value >= 0, value + passed[OFFSETS[name]], value)
            merged.setdefault(name, []).append(value)
        passed["rewards"] += len(part.get("rewards", []))
        passed["groups"] += 1
        passed["tokens"] += part["input_ids"].numel()
    return {name: [] if name == "prompts" else torch.cat(values) for name, values in merged.items()}
