"""From prompts to scored rollouts: encode, sample, parse, reward; and what is reported of them."""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from katlit.batch import Prompt
from katlit.engines.base import Completion, RolloutEngine, SamplingParameters, request_seed
from katlit.errors import UserError
from katlit.metrics.tally import Tally, tally
from katlit.rewards import CompositeReward, Sample
from katlit.rollout.record import Origin, recorded
from katlit.rollout.types import Rollout, Sampled
from katlit.text.protocol import Mode, ParsedResponse, Protocol, Thinking

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
        encoded = (protocol.encode_prompt(prompt["messages"], mode) for mode in set(thinking))
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
        protocol: Of the policy.
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
            protocol.encode_prompt(prompts[group]["messages"], mode),
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


def score(
    sampled: Sequence[Sampled], protocol: Protocol, prompts: Sequence[Prompt], reward: CompositeReward
) -> list[Rollout]:
    """Parse and reward what was sampled."""
    return rewarded(sampled, parse(sampled, protocol), prompts, reward)


def parse(sampled: Sequence[Sampled], protocol: Protocol) -> list[ParsedResponse]:
    """The responses in their parts."""
    return [
        protocol.parse_ids(one.completion.token_ids, one.thinking, truncated=one.truncated) for one in sampled
    ]


def rewarded(
    sampled: Sequence[Sampled],
    parsed: Sequence[ParsedResponse],
    prompts: Sequence[Prompt],
    reward: CompositeReward,
) -> list[Rollout]:
    """What was sampled, with its rewards."""
    scores = reward(
        [
            Sample(prompts[one.group], response, one.truncated)
            for one, response in zip(sampled, parsed, strict=True)
        ]
    )
    return [
        Rollout(
            *one,
            response,
            scores.total[index],
            scores.correct[index],
            {name: verdicts[index] for name, verdicts in scores.components.items()},
        )
        for index, (one, response) in enumerate(zip(sampled, parsed, strict=True))
    ]


def response_text(rollout: Rollout, protocol: Protocol) -> str:
    """The response from `<judge>` on, the forced part included."""
    prefill = protocol.forced_prefill(Mode(rollout.thinking)) if rollout.forced else []
    return protocol.decode([*prefill, *rollout.completion.token_ids])


def table_row(
    rollout: Rollout, prompts: Sequence[Prompt], protocol: Protocol, origin: Origin, *, left_out: bool
) -> dict[str, object]:
    """What the table of samples shows and the log of rollouts keeps, but for the advantages."""
    mode = rollout.parsed.mode
    return {
        "prompt": prompts[rollout.group]["messages"][-1]["content"],
        "text": response_text(rollout, protocol),
        "mode": "none" if mode is None else f"{mode.value}{' (forced)' if rollout.forced else ''}",
        "correct": rollout.correct,
        "reward": rollout.reward,
        "record": origin | recorded(rollout, prompts[rollout.group]["id"], protocol, left_out=left_out),
    }


def response_tokens(rollout: Rollout, protocol: Protocol) -> int:
    """Length of the response, a forced judge counted."""
    prefill = len(protocol.forced_prefill(Mode(rollout.thinking))) if rollout.forced else 0
    return prefill + len(rollout.completion.token_ids)


def policy_row(rollout: Rollout, protocol: Protocol) -> tuple[bool, int, bool, bool, bool]:
    """What `PolicyMetrics` takes of a rollout."""
    return (
        rollout.correct and not rollout.unjudged,
        response_tokens(rollout, protocol),
        rollout.parsed.mode is Mode.THINK_ON,
        rollout.parsed.valid,
        bool(rollout.unjudged),
    )


def statistics(
    rollouts: Sequence[Rollout], protocol: Protocol, components: Iterable[str]
) -> dict[str, Tally]:
    """Means over the rollouts, rewards over those that are judged, the think rate over those not forced.

    Args:
        rollouts: Of a step, on this rank.
        protocol: Of the policy.
        components: Of the reward, each a mean of its own, unweighted, as `reward/<component>`.
    """
    judged = [rollout for rollout in rollouts if not rollout.unjudged]
    return {
        "reward": tally(rollout.reward for rollout in judged),
        "accuracy": tally(rollout.correct for rollout in judged),
        "format_valid": tally(rollout.parsed.valid for rollout in rollouts),
        "truncated": tally(rollout.truncated for rollout in rollouts),
        "think_rate": tally(
            rollout.parsed.mode is Mode.THINK_ON for rollout in rollouts if not rollout.forced
        ),
        "mean_tokens": tally(response_tokens(rollout, protocol) for rollout in rollouts),
        **{f"reward/{name}": _component_mean(rollouts, name) for name in components},
    }


def _component_mean(rollouts: Sequence[Rollout], component: str) -> Tally:
    values = (rollout.verdicts[component].value for rollout in rollouts)
    return tally(value for value in values if value is not None)


def unjudged(rollouts: Sequence[Rollout]) -> dict[str, Tally]:
    """The shares that a reward could not judge, because of an error, or of time that ran out."""
    return {
        "unjudged": tally(bool(rollout.unjudged) for rollout in rollouts),
        "unjudged_errors": tally(_has_failed(rollout, timed_out=False) for rollout in rollouts),
        "unjudged_timeouts": tally(_has_failed(rollout, timed_out=True) for rollout in rollouts),
    }


def _has_failed(rollout: Rollout, *, timed_out: bool) -> bool:
    return any(verdict.timed_out is timed_out for verdict in rollout.unjudged)
