"""A model whose MTP modules are often right, an engine that drafts with them, and what it should give."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tinymodel import QWEN
from torch import Tensor

from katlit.engines import Completion, SamplingParameters
from katlit.engines.vllm.speculation import Drafts
from katlit.model.backbone import Backbone

# vLLM's attention on the CPU wants heads of 32.
WIDE: dict[str, Any] = QWEN | {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
PERIOD = 20
PROMPTS = [[(7 * i + 3 * j) % PERIOD for j in range(2 + 5 * i)] for i in range(7)]
COUNTING = [3 * j % PERIOD for j in range(40)]
SEEDS = list(range(100, 107))
FREE = SamplingParameters(max_tokens=40)
GREEDY = SamplingParameters(temperature=0.0, max_tokens=40)


def train(backbone: Backbone, steps: int, after: int = 0) -> None:
    """Learn to count in threes, with mistakes: the modules are often right, and often wrong.

    Where `after` is given, so many tokens of any kind come first, as if they were a prompt.
    """
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=3e-3)
    positions = torch.arange(32).expand(8, -1)
    for _ in range(steps):
        ids = (torch.randint(PERIOD, (8, 1)) + 3 * torch.arange(32)) % PERIOD
        ids = torch.where(torch.rand(ids.shape) < 0.15, torch.randint(PERIOD, ids.shape), ids)
        ids[:, :after] = torch.randint(len(backbone.protocol.tokenizer), (8, after))
        hidden = backbone(ids, positions, with_mtp=True)
        losses = [
            torch.nn.functional.cross_entropy(
                backbone.logits(states[:, 1 : -k - 1]).flatten(0, 1), ids[:, k + 2 :].flatten()
            )
            for k, states in enumerate((hidden.main, *hidden.mtp))
        ]
        torch.stack(losses).sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@dataclass
class Running:
    engine: Any
    backbone: Backbone

    def sync(self) -> None:
        self.engine.sync_weights(self.backbone.named_weights(include_mtp=True))


@torch.no_grad()
def logits(backbone: Backbone, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Of the model and of its first MTP module, [L, V] each."""
    rows = torch.tensor([ids])
    hidden = backbone(rows, torch.arange(len(ids)).unsqueeze(0), with_mtp=True)
    return backbone.logits(hidden.main[0]), backbone.logits(hidden.mtp[0][0])


def log_distribution(row: Tensor, sampling: SamplingParameters) -> Tensor:
    """Log-probabilities [V] under temperature, `top_k` and then `top_p`, token by token."""
    scaled = row.double() / (sampling.temperature or 1.0)
    ranked = scaled.argsort(descending=True).tolist()[: sampling.top_k or None]
    shares = scaled[ranked].softmax(-1)
    kept = [token for i, token in enumerate(ranked) if shares[:i].sum() < sampling.top_p]
    result = torch.full_like(scaled, -torch.inf)
    result[kept] = scaled[kept].log_softmax(-1)
    return result


def gap(running: Running, completions: Sequence[Completion], sampling: SamplingParameters) -> float:
    """Largest difference between the engine's log-probabilities and the model's."""
    largest = 0.0
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        rows, _ = logits(running.backbone, prompt + completion.token_ids)
        for i, token in enumerate(completion.token_ids):
            truth = log_distribution(rows[len(prompt) + i - 1], sampling)[token].item()
            largest = max(largest, abs(truth - completion.log_probs[i]))
    return largest


def assert_greedy(
    backbone: Backbone, prompts: Sequence[list[int]], completions: Sequence[Completion]
) -> None:
    """Each token is the one that the model, as it is now, finds likeliest after those before it."""
    for prompt, completion in zip(prompts, completions, strict=True):
        rows, _ = logits(backbone, prompt + completion.token_ids)
        assert completion.token_ids == rows[len(prompt) - 1 : -1].argmax(-1).tolist()


def expected_drafts(
    backbone: Backbone, prompts: Sequence[list[int]], completions: Sequence[Completion]
) -> Drafts:
    """Walk through greedy completions as vLLM does: draft one token, check it, take one token more."""
    found = Drafts()
    for prompt, completion in zip(prompts, completions, strict=True):
        ids = prompt + completion.token_ids
        _, drafts = logits(backbone, ids)
        known = len(prompt) + 1  # the pass over the prompt gives a token and a draft
        while known < len(ids):
            right = drafts[known - 2].argmax().item() == ids[known]
            found.proposed, found.passes = found.proposed + 1, found.passes + 1
            found.accepted += right
            known += 1 + right
    return found
