"""Requests of completions: what is asked of an engine for some prompts, and its answers."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from katlit.batch import Prompt
from katlit.engines.base import Completion, RolloutEngine, SamplingParameters, request_seed
from katlit.errors import UserError
from katlit.progress import Progress
from katlit.rewards import CompositeReward, Sample
from katlit.rollout.scoring import parse
from katlit.rollout.types import Sampled
from katlit.text.protocol import Protocol, Thinking

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """How prompts are rolled out."""

    reward: CompositeReward
    sampling: SamplingParameters
    seed: int  # of all sampling


class Request(NamedTuple):
    """A completion to be sampled."""

    group: int  # index of the prompt
    thinking: Thinking
    prompt_ids: list[int]
    number: int  # among the rollouts of its prompt
    seed: int


def forced_modes(samples: int, forced_share: float) -> list[Thinking]:
    """How each of a prompt's rollouts is prompted: a share of them forced, half of it into each mode.

    Any share but 0 forces at least one into each, because a mode that is never seen is never valued.
    """
    if samples < 2 or not 0 <= forced_share <= 1:
        raise UserError(
            f"samples {samples}, forced_share {forced_share}; give at least 2 samples and a share from 0 to 1"
        )
    nearest = math.floor(samples * forced_share / 2 + 0.5)
    forced = min(max(nearest, 1), samples // 2) if forced_share else 0
    if 2 * forced == samples and forced_share < 1:
        raise UserError(
            f"samples {samples}, forced_share {forced_share}; that forces {forced} into each mode and leaves "
            "none to decide freely: give more samples, a smaller share, or forced_share: 0"
        )
    modes: list[Thinking] = ["on"] * forced
    modes += ["off"] * forced
    return modes + ["auto"] * (samples - 2 * forced)


def encode(prompt: Prompt, thinking: Thinking, protocol: Protocol) -> list[int]:
    """Encode the turns of a prompt and the tools that it offers."""
    return protocol.encode_prompt(prompt["messages"], thinking, prompt.get("tools"))


def fitting(
    engine: RolloutEngine,
    protocol: Protocol,
    prompts: Sequence[Prompt],
    thinking: Sequence[Thinking],
    max_tokens: int,
) -> list[int]:
    """Indices of the prompts that fit into the engine's context, however prompted; logs the others."""
    kept = []
    for index, prompt in enumerate(prompts):
        encoded = (encode(prompt, mode, protocol) for mode in set(thinking))
        if all(engine.fits(ids, max_tokens) for ids in encoded):
            kept.append(index)
            continue
        logger.warning(
            "prompt %s skipped: too long for a context of %d tokens with %d new ones",
            prompt["id"], engine.max_context, max_tokens,
        )  # fmt: skip
    return kept


def requests_of(
    engine: RolloutEngine,
    protocol: Protocol,
    prompts: Sequence[Prompt],
    thinking: Sequence[Thinking],
    settings: RolloutSettings,
    step: str,
    first: int = 0,
) -> list[Request]:
    """The rollouts of every prompt that fits, in order of the prompts.

    Args:
        engine: Knows how long a context may be.
        protocol: Protocol of the policy.
        prompts: Those too long for the engine have no rollouts.
        thinking: How each of a prompt's rollouts is prompted.
        settings: Sampling and seed.
        step: What tells the seeds of this call from those of another one.
        first: Number of a prompt's first rollout, where it has had others in this step.
    """
    return [
        Request(
            group,
            mode,
            encode(prompts[group], mode, protocol),
            index,
            request_seed(settings.seed, step, prompts[group]["id"], index),
        )
        for group in fitting(engine, protocol, prompts, thinking, settings.sampling.max_tokens)
        for index, mode in enumerate(thinking, first)
    ]


def complete(
    engine: RolloutEngine,
    requests: Sequence[Request],
    sampling: SamplingParameters,
    finished: Callable[[int, Sampled], None] | None = None,
) -> list[Sampled]:
    """Have an engine that has the policy's weights answer.

    Without `finished` nothing else happens here, so that it may run in a thread of its own: a tokenizer, for
    one, must not.

    Args:
        engine: What samples.
        requests: All of them.
        sampling: How.
        finished: Called with the index of a request and its completion, by engines that can tell early.
    """
    if not requests:
        return []
    prompts = [request.prompt_ids for request in requests]
    seeds = [request.seed for request in requests]
    if finished is None:
        completions = engine.generate(prompts, sampling, seeds)
    else:
        tell = finished
        completions = engine.generate(
            prompts, sampling, seeds, lambda index, one: tell(index, _sampled(requests[index], one))
        )
    return list(map(_sampled, requests, completions))


def _sampled(request: Request, completion: Completion) -> Sampled:
    return Sampled(
        request.group, request.thinking, request.prompt_ids, completion, request.number, request.seed
    )


def answers(
    engine: RolloutEngine,
    protocol: Protocol,
    prompts: Sequence[Prompt],
    purposes: Mapping[Thinking, str],
    sampling: SamplingParameters,
    seed: int,
) -> list[tuple[Sampled, Sample]]:
    """One parsed response to each prompt that fits, in each way of prompting.

    Args:
        engine: What samples; it has the policy's weights.
        protocol: Protocol of the policy; its end of a turn ends a response.
        prompts: Those that do not fit into the engine's context in every way have no responses.
        purposes: The ways of prompting, and what tells the seeds of each from those of others.
        sampling: How to sample.
        seed: Seed of all sampling.

    Logs a line now and then.
    """
    kept = fitting(engine, protocol, prompts, list(purposes), sampling.max_tokens)
    sampled = []
    progress = Progress()
    progress.begin("answers", len(kept) * len(purposes), known=0)
    for thinking, purpose in purposes.items():
        requests = [
            Request(
                index,
                thinking,
                encode(prompts[index], thinking, protocol),
                0,
                request_seed(seed, purpose, prompts[index]["id"]),
            )
            for index in kept
        ]
        ending = replace(sampling, stop_token_ids=[protocol.end_id])
        sampled += complete(engine, requests, ending, lambda _, __: progress.step())
    return list(zip(sampled, parse(sampled, protocol, prompts), strict=True))
