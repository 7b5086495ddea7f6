"""The reference engine: plain transformers with a KV cache, wherever torch runs.

Shapes: B rows in flight, L tokens a row, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel
from typing_extensions import override

from katlit.engines.base import Completion, RolloutEngine, SamplingParameters
from katlit.engines.fingerprint import Fingerprint, fingerprint, sampled
from katlit.engines.memory import cache_bytes, weight_bytes
from katlit.engines.positions import require_positions
from katlit.engines.weights import checked
from katlit.errors import UserError
from katlit.model.experts import unpacked
from katlit.model.shape import Shape


class HFEngine(RolloutEngine):
    """Samples with transformers: the reference for other engines, and the fallback where vLLM is missing.

    Rows of one batch are padded on the left; a finished row leaves the batch. Each sequence draws from its
    own generator, so its tokens do not depend on its neighbours.

    Args:
        batch_size: Sequences in flight.
        max_context: Longest prompt plus completion, in tokens.
        dtype: Type of the weights; log-probabilities are computed in float32 in any case.
        device: "auto" is the current CUDA device where there is one, else the CPU.
        seed: Where the seeds of calls without `seeds` come from.
    """

    def __init__(
        self,
        batch_size: int = 64,
        max_context: int = 2048,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        device: str = "auto",
        seed: int = 0,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size: {batch_size}; give at least 1")
        self.batch_size = batch_size
        self.dtype: Literal["float32", "bfloat16", "float16"] = dtype
        self.device = device
        self.seed = seed
        self._max_context = max_context
        self._model: PreTrainedModel | None = None
        self._call_seeds = torch.Generator().manual_seed(seed)

    @property
    def max_context(self) -> int:
        """Longest prompt plus completion, in tokens."""
        return self._max_context

    @override
    def memory(self, shape: Shape, dtype: str, device_memory: int) -> int:
        """Weights, and the cache of rows as long as they may be; see `RolloutEngine.memory`."""
        cached = cache_bytes(shape, self.dtype, self.batch_size * self.max_context)
        return weight_bytes(shape, self.dtype) + cached

    def start(self, model_directory: Path) -> None:
        """Load the model; see `RolloutEngine.start`."""
        self.close()
        if not (model_directory / "config.json").is_file():
            raise UserError(f"{model_directory}: no config.json; give a Hugging Face model directory")
        require_positions(model_directory, self._max_context)
        model = AutoModelForCausalLM.from_pretrained(
            model_directory, dtype=getattr(torch, self.dtype), attn_implementation="sdpa"
        )
        # The head is a weight of its own, as it is in vLLM: what is sent under its name is what is used.
        head = model.get_output_embeddings()
        head.weight = nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False
        self._model = model.to(_device(self.device)).requires_grad_(False).eval()
        self._call_seeds.manual_seed(self.seed)

    def _started(self) -> PreTrainedModel:
        if self._model is None:
            raise RuntimeError("HFEngine: not started, or closed")
        return self._model

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParameters,
        seeds: Sequence[int] | None = None,
        finished: Callable[[int, Completion], None] | None = None,
    ) -> list[Completion]:
        """Sample one completion a prompt, in order; see `RolloutEngine.generate`."""
        model = self._started()
        self.check_request(prompts, sampling.max_tokens, seeds)
        if seeds is None:
            seeds = torch.randint(2**31, (len(prompts),), generator=self._call_seeds).tolist()
        completions: dict[int, Completion] = {}
        by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))  # little padding
        for first in range(0, len(prompts), self.batch_size):
            indices = by_length[first : first + self.batch_size]
            rows = [_Row(index, prompts[index], seeds[index]) for index in indices]
            for index, completion in _sample(model, rows, sampling):
                completions[index] = completion
                if finished is not None:
                    finished(index, completion)
        return [completions[index] for index in range(len(prompts))]

    def sync_weights(self, named_weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copy the weights; see `RolloutEngine.sync_weights`."""
        own = dict(unpacked(self._started().state_dict().items()))
        for name, weight in checked(named_weights, {name: tensor.shape for name, tensor in own.items()}):
            own[name].copy_(weight.detach())

    @override
    def fingerprints(self) -> dict[str, Fingerprint]:
        """Those of all weights; see `RolloutEngine.fingerprints`."""
        own = unpacked(self._started().state_dict().items())
        return {name: fingerprint(sampled(tensor)) for name, tensor in own}

    def close(self) -> None:
        """Drop the model."""
        self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


@dataclass(slots=True)
class _Row:
    """A sequence in flight."""

    index: int  # of the prompt
    prompt: Sequence[int]
    seed: int
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)


@torch.inference_mode()
def _sample(
    model: PreTrainedModel, rows: list[_Row], sampling: SamplingParameters
) -> Iterator[tuple[int, Completion]]:
    """Sample one batch to its end, yielding each completion with the index of its prompt."""
    stops = frozenset(sampling.stop_token_ids)
    draws = torch.stack([_uniform(row.seed, sampling.max_tokens) for row in rows]).to(
        model.device
    )  # [B, max]
    input_ids, mask = _pad_left([row.prompt for row in rows], model.device)
    cache = DynamicCache(config=model.config)
    for step in range(sampling.max_tokens):
        position_ids = (mask.cumsum(dim=-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        logits = model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        log_probs = log_distribution(logits.float(), sampling)  # [B, V]
        tokens = pick(log_probs, draws[:, step], greedy=sampling.temperature == 0)  # [B]
        chosen = log_probs.gather(-1, tokens[:, None])[:, 0].tolist()
        alive = []
        for i, (row, token, log_prob) in enumerate(zip(rows, tokens.tolist(), chosen, strict=True)):
            row.token_ids.append(token)
            row.log_probs.append(log_prob)
            if token in stops or step + 1 == sampling.max_tokens:
                reason: Literal["stop", "length"] = "stop" if token in stops else "length"
                yield row.index, Completion(row.token_ids, row.log_probs, reason)
            else:
                alive.append(i)
        if not alive:
            return
        input_ids = tokens[:, None]
        if len(alive) < len(rows):
            kept = torch.tensor(alive, device=model.device)
            rows = [rows[i] for i in alive]
            input_ids, mask, draws = input_ids[kept], mask[kept], draws[kept]
            cache.batch_select_indices(kept)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=-1)


def _uniform(seed: int, count: int) -> Tensor:
    """One draw of [0, 1) a token, [count]; on the CPU, so that devices agree."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _pad_left(prompts: list[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both [B, L] int64."""
    length = max(map(len, prompts))
    ids = [[0] * (length - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def log_distribution(logits: Tensor, sampling: SamplingParameters) -> Tensor:
    """Log-probabilities [..., V] of the distribution that tokens are drawn from; -inf where filtered out.

    First `top_k`, then `top_p` over what is left, ties kept: the order of vLLM's sampler.

    Args:
        logits: [..., V] float32.
        sampling: At temperature 0 the plain log softmax is returned: greedy picks its largest entry.
    """
    if sampling.temperature == 0:
        return logits.log_softmax(dim=-1)
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        smallest = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if sampling.top_p < 1:
        ascending, order = logits.sort(dim=-1)
        tail = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - sampling.top_p
        tail[..., -1] = False  # the most likely token always stays
        logits = logits.masked_fill(tail.scatter(-1, order, tail), -torch.inf)
    return logits.log_softmax(dim=-1)


def pick(log_probs: Tensor, draws: Tensor, *, greedy: bool) -> Tensor:
    """Tokens [B] int64 by inversion of the cumulative distribution.

    Args:
        log_probs: [B, V].
        draws: [B] float64, uniform in [0, 1).
        greedy: Take the most likely token instead.
    """
    if greedy:
        return log_probs.argmax(dim=-1)
    cumulative = log_probs.double().exp().cumsum(dim=-1)
    # Strictly below the total, so the token found has a probability above 0.
    return torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)[:, 0]
