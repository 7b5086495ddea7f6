"""When the prompts of an optimizer step are sampled: as it begins, or while the one before it trains."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from katlit.batch import Prompt
from katlit.engines.base import RolloutEngine, SamplingParameters
from katlit.errors import UserError
from katlit.parallel.collectives import Peers
from katlit.rollout.flat_groups import resampled
from katlit.rollout.lookahead import Ahead
from katlit.rollout.probe import probe
from katlit.rollout.record import Origin
from katlit.rollout.requests import Request, RolloutSettings, complete, requests_of
from katlit.rollout.scoring import Scoring, score
from katlit.rollout.stopwatch import Stopwatch
from katlit.rollout.types import Rollout, Sampled, in_order
from katlit.text.protocol import Protocol, Thinking


@dataclass(frozen=True, slots=True)
class Step:
    """An optimizer step that is about to train.

    Args:
        number: Optimizer steps before it.
        epoch: That it is of.
        prompts: Prompts of all its micro-batches.
        following: Prompts of the step after it; none where that is of another epoch, or will not be.
    """

    number: int
    epoch: int
    prompts: Sequence[Prompt]
    following: Sequence[Prompt]

    def share(self, peers: Peers) -> "Step":
        """The step with those of its prompts alone that this rank samples for its peers."""
        return replace(self, prompts=peers.share(self.prompts), following=peers.share(self.following))

    def origin(self, run_seed: int, rank: int, staleness: int) -> Origin:
        """What the records of its rollouts say of them all."""
        return Origin(
            run_seed=run_seed,
            rank=rank,
            epoch=self.epoch,
            step=self.number,
            policy_step=self.number - staleness,
        )


class StepRollouts(NamedTuple):
    """What a step trains on."""

    rollouts: list[Rollout]
    first_round: list[Rollout]  # as the policy gave them, before flat groups were sampled anew
    later_rounds: list[Rollout]  # all that were sampled anew, those that were flat again included
    probes: list[Sampled] | None  # None where the rollouts are of the present weights
    staleness: int  # optimizer steps between the weights that sampled and those that are trained
    hidden_seconds: float  # of sampling that nobody waited for

    def together(self, peers: Peers) -> "StepRollouts":
        """The rollouts of a step that peers shared out, put together; a collective of theirs."""
        rollouts, first_round, later_rounds = (
            in_order(peers.together(own)) for own in (self.rollouts, self.first_round, self.later_rounds)
        )
        probes = self.probes
        if probes is not None:
            probes = [one for part in peers.together(probes) for one in part]
        return StepRollouts(rollouts, first_round, later_rounds, probes, self.staleness, self.hidden_seconds)


class StepSampler:
    """Samples one optimizer step after the other; with `max_staleness` 1 the next one beside the training.

    The first step of an epoch, and of a run, is sampled when it is due.

    Args:
        engine: What samples.
        settings: Sampling settings.
        thinking: How each of a prompt's rollouts is prompted.
        max_staleness: 0 or 1, for which the engine must have processes of its own.
        extra_rounds: How often flat groups are sampled anew.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        settings: RolloutSettings,
        thinking: Sequence[Thinking],
        max_staleness: int,
        extra_rounds: int = 0,
    ) -> None:
        if max_staleness and not engine.samples_beside_training:
            raise UserError(
                f"max_staleness: {max_staleness}, but {type(engine).__name__} samples in the trainer's own "
                "process; use katlit.engines.VLLMServer (rollout/vllm_server.yaml), or 0"
            )
        if max_staleness and extra_rounds:
            raise UserError(
                f"on_flat_groups: resample, but max_staleness is {max_staleness}: the engine is then busy "
                "with the next step; use skip, or max_staleness: 0"
            )
        self.ahead = Ahead(engine)
        self.engine = engine
        self._settings = settings
        self._thinking = thinking
        self.max_staleness = max_staleness
        self._extra_rounds = extra_rounds

    def sample(
        self,
        step: Step,
        protocol: Protocol,
        sync: Callable[[], None],
        anywhere: Callable[[bool], bool],
        watch: Stopwatch,
    ) -> StepRollouts:
        """Bring the engine to the present weights; sample and score what the step trains on.

        Nothing samples while weights are sent: what is in flight is of the older ones, and is waited for.
        So a server that fails meanwhile starts again from the very weights that its requests belong to.

        Args:
            step: That is about to train.
            protocol: Protocol of the policy.
            sync: Sends the present weights to the engine; a collective.
            anywhere: Whether something is so in any process; a collective.
            watch: Takes the seconds of `sync`, and of `reward` and `sample` as far as they are waited for.
        """
        with Scoring(protocol, step.prompts, self._settings.reward) as scoring:
            sampled, probes, staleness, hidden_seconds = self._first_round(
                step, protocol, sync, watch, scoring
            )
            with watch.time("reward"):
                first_round = scoring.all_of(sampled)

        later: list[Rollout] = []

        def again(groups: Collection[int], number: int) -> list[Rollout]:
            places = sorted(groups)
            prompts = [step.prompts[place] for place in places]
            with watch.time("sample"):
                requests = self._requests(step.epoch, prompts, protocol, number)
                requests = [request._replace(group=places[request.group]) for request in requests]
                more = complete(self.engine, requests, self._sampling(protocol))
            with watch.time("reward"):
                new = score(more, protocol, step.prompts, self._settings.reward)
            later.extend(new)
            return new

        rollouts = resampled(first_round, self._extra_rounds, again, anywhere)
        self.engine.sleep()
        return StepRollouts(rollouts, first_round, later, probes, staleness, hidden_seconds)

    def _first_round(
        self, step: Step, protocol: Protocol, sync: Callable[[], None], watch: Stopwatch, scoring: Scoring
    ) -> tuple[list[Sampled], list[Sampled] | None, int, float]:
        """Samples, probes, staleness and hidden seconds, as in `StepRollouts`; starts on the next step."""
        sampling = self._sampling(protocol)
        with watch.time("sample"):
            stale = self.ahead.take(_name(step.epoch, step.prompts))
        with watch.time("sync"):
            sync()
        with watch.time("sample"):
            if stale is None:
                requests = self._requests(step.epoch, step.prompts, protocol)
                sampled, probes = complete(self.engine, requests, sampling, scoring.add), None
            else:
                sampled = stale.sampled
                probes = probe(self.engine, sampled, sampling, self._settings.seed, step.number)
            if self.max_staleness and step.following:
                requests = self._requests(step.epoch, step.following, protocol)
                self.ahead.start(_name(step.epoch, step.following), requests, sampling, step.number)
        staleness, hidden_seconds = (
            (0, 0.0) if stale is None else (step.number - stale.step, stale.hidden_seconds)
        )
        return sampled, probes, staleness, hidden_seconds

    def answer(self, prompts: Sequence[Prompt], protocol: Protocol) -> list[Sampled]:
        """One response to each validation prompt, left to decide, by the weights that the engine has."""
        requests = requests_of(self.engine, protocol, prompts, ["auto"], self._settings, "validation")
        return complete(self.engine, requests, self._sampling(protocol))

    def _requests(
        self, epoch: int, prompts: Sequence[Prompt], protocol: Protocol, extra_round: int = 0
    ) -> list[Request]:
        first = extra_round * len(self._thinking)
        return requests_of(self.engine, protocol, prompts, self._thinking, self._settings, str(epoch), first)

    def _sampling(self, protocol: Protocol) -> SamplingParameters:
        return replace(self._settings.sampling, stop_token_ids=[protocol.end_id])


def _name(epoch: int, prompts: Sequence[Prompt]) -> list[str]:
    """What tells the rollouts of a step from those of others."""
    return [str(epoch), *(prompt["id"] for prompt in prompts)]
