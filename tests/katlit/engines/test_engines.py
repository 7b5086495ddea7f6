"""What holds for every engine, with transformers' plain forward pass as the truth."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from katlit.engines import (
    Completion,
    HFEngine,
    RolloutEngine,
    SamplingParameters,
    ServerOptions,
    VLLMEngine,
    VLLMOptions,
    VLLMServer,
)
from katlit.errors import UserError

# The last one is longer than a block of vLLM's prefix cache (32 tokens on the CPU).
PROMPTS = [[(7 * i + j) % 75 for j in range(length)] for i, length in enumerate((2, 7, 12, 17, 22, 27, 140))]
SEEDS = list(range(100, 107))
FREE = SamplingParameters(max_tokens=24)
GREEDY = SamplingParameters(temperature=0.0, max_tokens=24)


@dataclass
class Running:
    engine: RolloutEngine
    model: PreTrainedModel  # the trainer's; a test may change it, and syncs first
    first: list[Completion]  # sampled before any sync
    first_gap: float


@pytest.fixture(
    scope="module",
    params=[
        ("hf", "qwen2", True),
        ("hf", "llama", False),
        pytest.param(("vllm", "qwen2", True), marks=pytest.mark.vllm),
        pytest.param(("vllm", "llama", False), marks=pytest.mark.vllm),
        pytest.param(("server", "qwen2", True), marks=[pytest.mark.vllm, pytest.mark.slow]),
        pytest.param(
            ("server", "llama", False), marks=[pytest.mark.vllm, pytest.mark.slow, pytest.mark.soak]
        ),
    ],
    ids=lambda p: f"{p[0]}-{p[1]}-{'tied' if p[2] else 'untied'}",
)
def running(
    request, tmp_path_factory: pytest.TempPathFactory, build_model, server_environment
) -> Iterator[Running]:
    name, kind, tied = request.param
    model = build_model(kind, tied)
    directory = tmp_path_factory.mktemp(kind)
    model.save_pretrained(directory)
    engine: RolloutEngine
    if name == "hf":
        engine = HFEngine(batch_size=3, max_context=170)
    elif name == "server":
        pytest.importorskip("vllm", exc_type=ImportError)
        options = ServerOptions(max_num_seqs=16, kv_cache_gib=0.1, environment=server_environment)
        engine = VLLMServer(max_context=170, options=options)
    else:
        pytest.importorskip("vllm", exc_type=ImportError)
        engine = VLLMEngine(max_context=170, options=VLLMOptions(max_num_seqs=16, kv_cache_gib=0.1))
    engine.start(directory)
    try:
        first = engine.generate(PROMPTS, FREE, SEEDS)
        yield Running(engine, model, first, gap(model, first, FREE))
    finally:
        engine.close()


def filtered_log_softmax(logits: Tensor, sampling: SamplingParameters) -> Tensor:
    """One position's distribution, token by token, in float64."""
    logits = logits.double() / (sampling.temperature or 1.0)
    ranked = sorted(range(len(logits)), key=lambda token: -logits[token].item())
    kept = ranked[: sampling.top_k or None]
    probabilities = logits[kept].softmax(-1).tolist()
    nucleus = [t for i, t in enumerate(kept) if i == 0 or sum(probabilities[:i]) < sampling.top_p]
    kept = nucleus if sampling.temperature else ranked
    result = torch.full_like(logits, -torch.inf)
    result[kept] = logits[kept].log_softmax(-1)
    return result


@torch.no_grad()
def gap(model: PreTrainedModel, completions: Sequence[Completion], sampling: SamplingParameters) -> float:
    """Largest difference between the engine's log-probabilities and the truth."""
    largest = 0.0
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        assert len(completion.token_ids) == len(completion.log_probs)
        logits = model(torch.tensor([prompt + completion.token_ids])).logits[0]
        for i, token in enumerate(completion.token_ids):
            truth = filtered_log_softmax(logits[len(prompt) + i - 1], sampling)[token].item()
            largest = max(largest, abs(truth - completion.log_probs[i]))
    return largest


@torch.no_grad()
def train(model: PreTrainedModel) -> None:
    """Stand in for an optimizer step, a large one."""
    for parameter in model.parameters():
        parameter.add_(0.03 * torch.randn_like(parameter))


def sync(running: Running) -> None:
    running.engine.sync_weights(running.model.state_dict().items())


def test_what_is_handed_over_early_is_what_is_returned(running: Running) -> None:
    stops = [running.first[index].token_ids[place] for index, place in enumerate((20, 9, 3))]
    stopping = SamplingParameters(max_tokens=24, stop_token_ids=stops)
    told: list[tuple[int, Completion]] = []
    completions = running.engine.generate(PROMPTS, stopping, SEEDS, lambda *one: told.append(one))
    assert [completion for _, completion in sorted(told, key=lambda one: one[0])] == completions
    lengths = [len(completion.token_ids) for _, completion in told]
    assert len(set(lengths)) > 1
    if isinstance(running.engine, VLLMEngine):  # all of them run at once
        assert lengths == sorted(lengths)


def test_log_probs_agree_after_the_start(running: Running) -> None:
    assert running.first_gap < 1e-5


def test_log_probs_agree_after_each_of_three_syncs(running: Running) -> None:
    for _ in range(3):
        train(running.model)
        sync(running)
        assert gap(running.model, running.engine.generate(PROMPTS, FREE, SEEDS), FREE) < 1e-5


def test_a_sync_left_out_shows(running: Running) -> None:
    train(running.model)
    assert gap(running.model, running.engine.generate(PROMPTS, FREE, SEEDS), FREE) > 1e-2
    sync(running)


def test_a_stale_output_head_shows(running: Running) -> None:
    stale = running.model.state_dict()["lm_head.weight"].clone()
    train(running.model)
    running.engine.sync_weights((running.model.state_dict() | {"lm_head.weight": stale}).items())
    completions = running.engine.generate(PROMPTS, FREE, SEEDS)
    assert gap(running.model, completions, FREE) > 1e-2
    untied = deepcopy(running.model)
    untied.lm_head.weight = torch.nn.Parameter(stale)
    assert gap(untied, completions, FREE) < 1e-5  # what is sent under a name is what is used
    sync(running)


def test_a_sync_copies(running: Running) -> None:
    sync(running)
    before = running.engine.generate(PROMPTS, FREE, SEEDS)
    train(running.model)
    assert running.engine.generate(PROMPTS, FREE, SEEDS) == before
    sync(running)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParameters(temperature=0.6, max_tokens=24),
        SamplingParameters(temperature=1.5, top_k=5, max_tokens=24),
        SamplingParameters(top_p=0.7, max_tokens=24),
        SamplingParameters(temperature=0.8, top_k=10, top_p=0.9, max_tokens=24),
        GREEDY,
    ],
)
def test_log_probs_are_those_of_the_distribution_sampled_from(
    running: Running, sampling: SamplingParameters
) -> None:
    sync(running)
    assert gap(running.model, running.engine.generate(PROMPTS, sampling, SEEDS), sampling) < 1e-5


@torch.no_grad()
def test_greedy_takes_the_most_likely_token(running: Running) -> None:
    sync(running)
    for prompt, completion in zip(PROMPTS, running.engine.generate(PROMPTS, GREEDY), strict=True):
        logits = running.model(torch.tensor([prompt + completion.token_ids])).logits[0]
        assert completion.token_ids == logits[len(prompt) - 1 : -1].argmax(-1).tolist()


def test_a_seed_gives_the_same_tokens_in_any_batch(running: Running) -> None:
    sync(running)
    together = running.engine.generate(PROMPTS, FREE, SEEDS)
    backwards = running.engine.generate(PROMPTS[::-1], FREE, SEEDS[::-1])
    alone = [running.engine.generate([p], FREE, [s])[0] for p, s in zip(PROMPTS, SEEDS, strict=True)]
    tokens = [c.token_ids for c in together]
    assert tokens == [c.token_ids for c in backwards[::-1]] == [c.token_ids for c in alone]
    group = running.engine.generate([PROMPTS[0]] * 4, FREE, [1, 2, 3, 1])
    assert len({tuple(c.token_ids) for c in group}) == 3


def test_without_seeds_calls_differ_and_the_trainers_random_state_stays(running: Running) -> None:
    state = torch.get_rng_state()
    calls = [running.engine.generate(PROMPTS, FREE) for _ in range(2)]
    assert calls[0] != calls[1]
    assert torch.equal(torch.get_rng_state(), state)


def test_completions_end_at_a_stop_token_or_at_the_limit(running: Running) -> None:
    sync(running)
    free = running.engine.generate(PROMPTS, FREE, SEEDS)
    assert {(c.finish_reason, len(c.token_ids)) for c in free} == {("length", 24)}
    stops = [free[0].token_ids[4], free[1].token_ids[9]]
    stopping = SamplingParameters(max_tokens=24, stop_token_ids=stops)
    for whole, completion in zip(free, running.engine.generate(PROMPTS, stopping, SEEDS), strict=True):
        ends = [i for i, token in enumerate(whole.token_ids) if token in stops]
        length, reason = (ends[0] + 1, "stop") if ends else (24, "length")
        assert (completion.token_ids, completion.finish_reason) == (whole.token_ids[:length], reason)


def test_other_weights_than_expected_are_an_error(running: Running) -> None:
    weights = list(running.model.state_dict().items())
    with pytest.raises(UserError, match=r"missing, first 'lm_head\.weight'"):
        running.engine.sync_weights([w for w in weights if w[0] != "lm_head.weight"])
    with pytest.raises(UserError, match=r"'model\.mtp_layers\.0\.weight' is unknown"):
        running.engine.sync_weights([*weights, ("model.mtp_layers.0.weight", torch.zeros(1))])
    with pytest.raises(UserError, match="sent twice"):
        running.engine.sync_weights([*weights, weights[0]])
    with pytest.raises(UserError, match=r"has shape \[2, 64\], the engine's \[75, 64\]"):
        running.engine.sync_weights([(name, weight[:2]) for name, weight in weights])
    sync(running)
    assert gap(running.model, running.engine.generate(PROMPTS, FREE, SEEDS), FREE) < 1e-5


def test_requests_that_cannot_be_served_are_refused(running: Running) -> None:
    assert running.engine.generate([], FREE) == []
    with pytest.raises(ValueError, match=r"prompt 1 has 147 tokens; .* exceeds max_context 170"):
        running.engine.generate([[1], [1] * 147], FREE)
    with pytest.raises(ValueError, match="prompt 0 is empty"):
        running.engine.generate([[]], FREE)
    with pytest.raises(ValueError, match="1 seeds for 2 prompts"):
        running.engine.generate([[1], [2]], FREE, [0])
    assert len(running.engine.generate([[1] * 146], FREE)[0].token_ids) == 24


def test_an_engine_that_does_not_run_says_so() -> None:
    for engine in (HFEngine(), VLLMEngine(), VLLMServer()):
        engine.close()
        with pytest.raises(RuntimeError, match="not started"):
            engine.generate([[1]], FREE)
        with pytest.raises(RuntimeError, match="not started"):
            engine.sync_weights([])


@pytest.mark.parametrize(
    "settings",
    [{"temperature": -1.0}, {"temperature": 0.001}, {"top_p": 0.0}, {"top_k": -1}, {"max_tokens": 0}],
)
def test_sampling_settings_are_checked(settings: dict) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        SamplingParameters(**settings)
