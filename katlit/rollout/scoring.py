"""Rewards of completions, worked out at once or while others are still being sampled."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from katlit.batch import Prompt
from katlit.rewards import CompositeReward, Sample
from katlit.rollout.types import Rollout, Sampled, response_ids
from katlit.text.protocol import Protocol


class Scoring:
    """Scores what an engine hands over as it finishes, and at last all that it did not hand over.

    A thread of its own asks the reward, each time for all that came since it last did, so a reward sees
    batches and one caller at a time. A verdict is of one sample alone: neither the batches nor the order
    count. Use it in a `with` statement, which ends the thread.

    Args:
        protocol: Protocol of the policy; used by the caller's thread only.
        prompts: By the samples' groups.
        reward: What scores.
    """

    def __init__(self, protocol: Protocol, prompts: Sequence[Prompt], reward: CompositeReward) -> None:
        self._protocol = protocol
        self._prompts = prompts
        self._reward = reward
        self._waiting: deque[tuple[int, Sampled, Sample]] = deque()
        self._scored: dict[int, Rollout] = {}
        self._runs: list[Future[None]] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scoring")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def add(self, index: int, sampled: Sampled) -> None:
        """Take a sample that has just finished; `index` is its place among all."""
        (sample,) = parse([sampled], self._protocol, self._prompts)
        self._waiting.append((index, sampled, sample))
        self._runs.append(self._thread.submit(self._score_waiting))

    def _score_waiting(self) -> None:
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if batch:
            indices, sampled, samples = zip(*batch, strict=True)
            self._scored |= zip(indices, rewarded(sampled, samples, self._reward), strict=True)

    def all_of(self, sampled: Sequence[Sampled]) -> list[Rollout]:
        """Wait for what was handed over, score the rest; the rollouts in the order of `sampled`.

        Raises:
            UserError: where a prompt cannot be scored, whatever the response.
        """
        for run in self._runs:
            run.result()
        rest = [index for index in range(len(sampled)) if index not in self._scored]
        late = score([sampled[index] for index in rest], self._protocol, self._prompts, self._reward)
        self._scored |= zip(rest, late, strict=True)
        return [self._scored[index] for index in range(len(sampled))]


def score(
    sampled: Sequence[Sampled], protocol: Protocol, prompts: Sequence[Prompt], reward: CompositeReward
) -> list[Rollout]:
    """Parse and reward what was sampled."""
    return rewarded(sampled, parse(sampled, protocol, prompts), reward)


def parse(sampled: Sequence[Sampled], protocol: Protocol, prompts: Sequence[Prompt]) -> list[Sample]:
    """The responses in their parts, as rewards take them."""
    return [
        Sample(
            prompts[one.group],
            protocol.parse_ids(
                one.completion.token_ids,
                one.thinking,
                truncated=one.truncated,
                tools=prompts[one.group].get("tools"),
            ),
            one.truncated,
            tokens=len(response_ids(one, protocol)),
        )
        for one in sampled
    ]


def rewarded(sampled: Sequence[Sampled], samples: Sequence[Sample], reward: CompositeReward) -> list[Rollout]:
    """What was sampled, with its rewards."""
    scores = reward(samples)
    return [
        Rollout(
            *one,
            sample.parsed,
            scores.total[index],
            scores.correct[index],
            {name: verdicts[index] for name, verdicts in scores.components.items()},
        )
        for index, (one, sample) in enumerate(zip(sampled, samples, strict=True))
    ]
