"""Whether an engine has the trainer's weights, where what is trained on was sampled from older ones.

Between stale rollouts and the trainer lies an optimizer step, so their log-probabilities differ anyway. A few
short completions, sampled right after the weights were sent, ride along in the batch without a loss: the
trainer's forward pass gives their log-probabilities under the same weights (our choice).
"""

from collections.abc import Sequence
from dataclasses import replace

from katlit.engines.base import RolloutEngine, SamplingParameters, request_seed
from katlit.rollout.requests import Request, complete
from katlit.rollout.types import Sampled

_COMPLETIONS = 8  # at most
_TOKENS = 32  # at most, each


def probe(
    engine: RolloutEngine, rollouts: Sequence[Sampled], sampling: SamplingParameters, *name: object
) -> list[Sampled]:
    """Answer prompts from all over a batch once more.

    Args:
        engine: Has the weights that are about to be trained.
        rollouts: The batch.
        sampling: Sampling settings of the batch; completions are cut earlier.
        name: What the seeds come from.
    """
    every = -(-len(rollouts) // _COMPLETIONS) or 1
    requests = [
        Request(one.group, one.thinking, one.prompt_ids, index, request_seed(*name, "probe", index))
        for index, one in enumerate(rollouts[::every])
    ]
    return complete(engine, requests, replace(sampling, max_tokens=min(_TOKENS, sampling.max_tokens)))
