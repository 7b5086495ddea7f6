"""A recorded rollout sampled once more, alone."""

from dataclasses import replace
from pathlib import Path

from katlit.engines.base import Completion, RolloutEngine, SamplingParameters
from katlit.rollout.record import RolloutRecord
from katlit.text.protocol import Protocol


def first_difference(recorded: list[int], sampled: list[int]) -> int | None:
    """Place of the first token that differs, or that only one of them has; None where all are the same."""
    if recorded == sampled:
        return None
    pairs = zip(recorded, sampled, strict=False)
    shorter = min(len(recorded), len(sampled))
    return next((place for place, (one, other) in enumerate(pairs) if one != other), shorter)


def sample_again(
    record: RolloutRecord,
    directory: Path,
    engine: RolloutEngine,
    sampling: SamplingParameters,
    protocol: Protocol,
) -> Completion:
    """Start the engine, have it answer the one request with its own seed, close it.

    Args:
        record: What to sample.
        directory: With the weights that sampled it.
        engine: Engine of the run.
        sampling: Sampling settings of the run.
        protocol: Protocol of the policy.
    """
    try:
        engine.start(directory)
        (completion,) = engine.generate(
            [record["prompt_ids"]], replace(sampling, stop_token_ids=[protocol.end_id]), [record["seed"]]
        )
    finally:
        engine.close()
    return completion
