"""Batch contracts: the only thing that `modules` and `datamodules` both know.

Shapes: B rows, L tokens a row, P aligned token pairs, k likeliest tokens of a cached teacher, N rollouts, D
MTP depths.

A row holds one document or several packed ones. `position_ids` restarts at 0 at each document, and the
padding at a row's end is a document of its own, so no attention mask is needed: two tokens see each other
only if they belong to the same run of `position_ids`.
"""

from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor


class StepBatch(TypedDict):
    """A micro-batch as part of an optimizer step.

    With gradient accumulation the first micro-batch of an optimizer step brings all of them, itself included,
    and the others bring an empty list. Where each batch is a step, there is no window.
    """

    window: NotRequired[list[Any]]


class TokenBatch(StepBatch):
    """Token ids with the targets a loss may count."""

    input_ids: Tensor  # [B, L] int64
    position_ids: Tensor  # [B, L] int64, 0 at the first token of each document
    loss_mask: Tensor  # [B, L] bool, True where the token itself is a target (a response token)


class TeacherTokens(TypedDict):
    """A teacher's tokens of the texts that it wrote, and which targets of the student's they correspond to.

    Pairs index *target* tokens in the flattened rows (row * L + column). The distribution of a target is
    predicted one position to its left, on each side.
    """

    teacher_input_ids: Tensor  # [B_teacher, L_teacher] int64
    teacher_position_ids: Tensor  # [B_teacher, L_teacher] int64
    student_targets: Tensor  # [P] int64
    teacher_targets: Tensor  # [P] int64
    teacher_top_ids: NotRequired[Tensor]  # [P, k] int32, from a cache: the teacher's likeliest tokens
    teacher_top_log_probs: NotRequired[Tensor]  # [P, k + 1] float32, of these, and at last of all others


class DistillBatch(TokenBatch, TeacherTokens):
    """A student's tokens, and the teacher's of the same text.

    Where think-on records have a teacher of their own, each record is in the part of the one that wrote it,
    and a teacher that wrote none has a row of padding: all processes read all teachers. Data without a
    teacher leave out all that is a teacher's.
    """

    think_on: NotRequired[TeacherTokens]


class Prompt(TypedDict):
    """One query, ready to be sampled and verified; plain Python, never collated into tensors."""

    id: str
    messages: list[dict[str, Any]]
    tools: NotRequired[list[dict[str, Any]]]  # that the model may call, in OpenAI's form; absent where none
    reference: str  # the expected answer; empty where the query cannot be verified
    verifier: str  # name of the scorer: "match", "math", "code", or a reasoning-gym data set
    domain: str  # the task family
    difficulty: int
    metadata: dict[str, Any]  # what the scorer needs beside the reference


class RolloutBatch(StepBatch):
    """Prompts as the loader yields them; the rollout callback fills the rest in place before the step.

    Prompts that are rolled out together are those of one batch, or of all batches of a `window`. N are their
    rollouts. The tokens [B, L] are those of the part of them that this micro-batch trains on; it need not be
    that of its own prompts.
    """

    prompts: list[Prompt]
    """What is rolled out, as the loader yields it."""
    later: NotRequired[list[Any]]
    """The micro-batches of later updates on the same rollouts; the module records their `old_log_probs`."""
    input_ids: NotRequired[Tensor]
    """[B, L] int64, prompt and completion."""
    position_ids: NotRequired[Tensor]
    """[B, L] int64, 0 at the first token of each document."""
    loss_mask: NotRequired[Tensor]
    """[B, L] bool, True on sampled tokens."""
    rollout_ids: NotRequired[Tensor]
    """[B, L] int64, which of the N rollouts a token belongs to, -1 on padding and probes."""
    judge_mask: NotRequired[Tensor]
    """[B, L] bool, True on sampled tokens of the judge segment."""
    rollout_log_probs: NotRequired[Tensor]
    """[B, L] float32, the sampler's log-probability of each sampled token."""
    old_log_probs: NotRequired[Tensor]
    """[B, L] float32, the trainer's as it sampled, where it has moved since."""
    group_ids: NotRequired[Tensor]
    """[N] int64, index of the prompt among those rolled out together."""
    modes: NotRequired[Tensor]
    """[N] int64, 1 think-on, 0 think-off, -1 no mode found."""
    difficulties: NotRequired[Tensor]
    """[N] int64, difficulty of the prompt."""
    rewards: NotRequired[Tensor]
    """[N] float32, outcome reward."""
    correct: NotRequired[Tensor]
    """[N] bool, whether the answer is right."""
    truncated: NotRequired[Tensor]
    """[N] bool, stopped by the length limit: excluded from the loss."""
    tokens: NotRequired[Tensor]
    """[N] int64, number of sampled tokens of the response."""
    forced: NotRequired[Tensor]
    """[N] bool, mode forced by prefill: its judge carries no loss."""
    advantages: NotRequired[Tensor]
    """[N, 2] float32, (judge, answer), written by the module for the tables."""
    probe_mask: NotRequired[Tensor]
    """[B, L] bool, where rollouts are stale or all truncated: compared for the gap, without a loss."""
    logprob_gap: NotRequired[Tensor]
    """[], mean |trainer - engine| log-probability, written by the module."""
    unjudged: NotRequired[list[dict[str, Any]]]
    """Rows of the rollouts that a reward could not judge; their `record` has the `prompt_id`."""
    samples: NotRequired[list[dict[str, Any]]]
    """The N rollouts as rows of a table, for `SampleTable`."""


def document_ids(position_ids: Tensor) -> Tensor:  # [B, L] -> [B, L]
    """Number the documents of each row from 0, by the restarts of `position_ids`."""
    return torch.cumsum((position_ids == 0).long(), dim=-1) - 1
