"""The rollouts of the next optimizer step, sampled while the present one trains.

Only `RolloutEngine.generate` runs in the thread: whoever asks has encoded the prompts, and scores the
answers; the trainer's collectives, its device and its random states belong to the main thread.
"""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypedDict

import torch
from torch import Tensor

from katlit.engines.base import Completion, RolloutEngine, SamplingParameters
from katlit.rollout.requests import Request, complete
from katlit.rollout.types import Sampled
from katlit.text.protocol import Thinking

logger = logging.getLogger(__name__)


class Stale(NamedTuple):
    """Rollouts of weights that may have moved since."""

    sampled: list[Sampled]
    step: int  # optimizer steps that the weights had behind them
    hidden_seconds: float  # of sampling that nobody waited for


class AheadState(TypedDict):
    """Rollouts as a checkpoint keeps them, in types that a weights-only load accepts; N of them."""

    name: list[str]
    step: int
    groups: list[int]
    thinking: list[Thinking]
    numbers: list[int]
    seeds: list[int]
    finish_reasons: list[Literal["stop", "length"]]
    lengths: Tensor  # [N, 2] int64, of prompt and completion
    token_ids: Tensor  # [sum of lengths] int64, prompt and completion by turns
    log_probs: Tensor  # [sum of the completions' lengths] float64: as the engine gave them


@dataclass(slots=True)
class _Batch:
    """What is in flight, or waits to be trained on."""

    name: list[str]
    step: int
    answers: "Future[tuple[list[Sampled], float]]"  # and the seconds that sampling took
    waited: float = 0.0


class Ahead:
    """Holds the rollouts of one step to come, in flight or done.

    Args:
        engine: Its weights must stay as they are from `start` to `finish` or `take`, and nobody else may
            sample with it; its `close` ends what is in flight.
    """

    def __init__(self, engine: RolloutEngine) -> None:
        self._engine = engine
        self._executor: ThreadPoolExecutor | None = None
        self._batch: _Batch | None = None

    def start(
        self, name: list[str], requests: Sequence[Request], sampling: SamplingParameters, step: int
    ) -> None:
        """Begin to sample.

        Args:
            name: What tells this batch from others: the epoch and its prompts.
            requests: All of the batch.
            sampling: How.
            step: Optimizer steps that the engine's weights have behind them.
        """
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sampling-ahead")
        self._batch = _Batch(name, step, self._executor.submit(_timed, self._engine, requests, sampling))

    def finish(self) -> None:
        """Wait until nothing is in flight; a failure is kept for `take`."""
        if self._batch is not None:
            begin = time.perf_counter()
            wait([self._batch.answers])
            self._batch.waited += time.perf_counter() - begin

    def take(self, name: list[str]) -> Stale | None:
        """Wait for the rollouts and hand them out, once; None where there are none, or another batch's.

        Raises:
            UserError: why the engine could not sample them.
        """
        self.finish()
        batch, self._batch = self._batch, None
        if batch is None:
            return None
        sampled, seconds = batch.answers.result()
        if batch.name != name:
            logger.warning("the rollouts that were sampled ahead answer other prompts; the step samples anew")
            return None
        return Stale(sampled, batch.step, max(0.0, seconds - batch.waited))

    def close(self) -> None:
        """Forget the rollouts, and wait for the end of the thread; the engine is closed already."""
        if self._executor is not None:
            self._executor.shutdown()
        self._executor = self._batch = None

    def state(self) -> AheadState | None:
        """Wait for the rollouts and return them; None where there are none, or they failed."""
        self.finish()
        batch = self._batch
        if batch is None or batch.answers.exception() is not None:
            return None
        sampled, _ = batch.answers.result()
        completions = [one.completion for one in sampled]
        tokens = [ids for one in sampled for ids in (one.prompt_ids, one.completion.token_ids)]
        return {
            "name": batch.name,
            "step": batch.step,
            "groups": [one.group for one in sampled],
            "thinking": [one.thinking for one in sampled],
            "numbers": [one.number for one in sampled],
            "seeds": [one.seed for one in sampled],
            "finish_reasons": [completion.finish_reason for completion in completions],
            "lengths": torch.tensor([len(ids) for ids in tokens], dtype=torch.int64).reshape(-1, 2),
            "token_ids": torch.tensor([token for ids in tokens for token in ids], dtype=torch.int64),
            "log_probs": torch.tensor([p for c in completions for p in c.log_probs], dtype=torch.float64),
        }

    def restore(self, state: AheadState) -> None:
        """Hold the rollouts of a checkpoint."""
        answers: Future[tuple[list[Sampled], float]] = Future()
        answers.set_result((_unpacked(state), 0.0))
        self._batch = _Batch(state["name"], state["step"], answers)


def _timed(
    engine: RolloutEngine, requests: Sequence[Request], sampling: SamplingParameters
) -> tuple[list[Sampled], float]:
    begin = time.perf_counter()
    return complete(engine, requests, sampling), time.perf_counter() - begin


def _unpacked(state: AheadState) -> list[Sampled]:
    lengths = state["lengths"]
    tokens = [ids.tolist() for ids in torch.split(state["token_ids"], lengths.flatten().tolist())]
    log_probs = [values.tolist() for values in torch.split(state["log_probs"], lengths[:, 1].tolist())]
    completions = map(Completion, tokens[1::2], log_probs, state["finish_reasons"])
    names = state["numbers"], state["seeds"]
    return list(map(Sampled, state["groups"], state["thinking"], tokens[::2], completions, *names))
