"""A model one talks to through a rollout engine, whatever its dialect."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

from katlit.batch import Prompt
from katlit.datamodules.dialects.base import Ballot, Dialect
from katlit.datamodules.dialects.dialects import BALLOT_TEMPLATE, load_dialect
from katlit.datamodules.dialects.habits import Messages, ThinkingSettings
from katlit.engines.base import Completion, RolloutEngine, SamplingParameters, request_seed
from katlit.model.hub import local_directory
from katlit.text.protocol import ParsedResponse, Thinking

logger = logging.getLogger(__name__)

_THINKING = ThinkingSettings()


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply of a model; `tokens` counts all that it generated."""

    parsed: ParsedResponse
    tokens: int
    truncated: bool


class ChatModel:
    """A model behind an engine; a context manager that starts the engine and always closes it.

    Prompts that do not fit the engine's context are skipped: they get no samples and no ballots, and
    `skipped` counts them.

    Args:
        directory: Hugging Face directory of the model, or its name on the hub.
        engine: Engine to sample with; two models may share one if they are used one after the other.
        sampling: Sampling settings; the stop tokens are the dialect's.
        ballot_tokens: Longest ballot, in tokens.
        ballot_template: Question put to a model that does not speak our protocol; holds `{question}`.
        thinking: How a model that does not speak our protocol thinks, as far as it is known.
    """

    def __init__(
        self,
        directory: str,
        engine: RolloutEngine,
        sampling: SamplingParameters,
        ballot_tokens: int = 64,
        ballot_template: str = BALLOT_TEMPLATE,
        thinking: ThinkingSettings = _THINKING,
    ) -> None:
        self.directory = directory
        self.engine = engine
        self.sampling = sampling
        self.ballot_tokens = ballot_tokens
        self.dialect: Dialect = load_dialect(directory, "model", ballot_template, thinking)
        self.skipped = 0

    def __enter__(self) -> "ChatModel":
        try:
            self.engine.start(local_directory(self.directory, "model"))
        except BaseException:
            self.engine.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.engine.close()

    def check(self, prompts: Iterable[Prompt]) -> None:
        """Raise UserError for prompts that the model's template refuses, before anything is sampled."""
        self.dialect.check(prompt["messages"] for prompt in prompts)

    def begin(self, questions: Sequence[str], thinking: Thinking, tokens: int) -> list[list[int]]:
        """Sample the first tokens of a reply to each question."""
        asked = [[{"role": "user", "content": question}] for question in questions]
        encoded = [self.dialect.encode_prompt(messages, thinking) for messages in asked]
        tokens = min(tokens, self.sampling.max_tokens)
        sampling = replace(self.sampling, stop_token_ids=self.dialect.stop_ids, max_tokens=tokens)
        seeds = [[request_seed("begin", thinking, number)] for number in range(len(questions))]
        replies = self._generate(encoded, sampling, seeds)
        return [completion.token_ids for completions in replies for completion in completions]

    def sample(
        self, prompts: Sequence[Messages], thinking: Thinking, seeds: Sequence[Sequence[int]]
    ) -> list[list[Reply]]:
        """Sample replies, as many for each prompt as it has seeds."""
        encoded = [self.dialect.encode_prompt(messages, thinking) for messages in prompts]
        sampling = replace(self.sampling, stop_token_ids=self.dialect.stop_ids)
        return [
            [self._reply(completion, thinking) for completion in completions]
            for completions in self._generate(encoded, sampling, seeds)
        ]

    def _reply(self, completion: Completion, thinking: Thinking) -> Reply:
        truncated = completion.finish_reason == "length"
        parsed = self.dialect.read(completion.token_ids, thinking, truncated=truncated)
        return Reply(parsed, len(completion.token_ids), truncated)

    def ballots(self, prompts: Sequence[Messages], seeds: Sequence[Sequence[int]]) -> list[list[Ballot]]:
        """Collect votes on "does this need multi-step reasoning?", one a seed, without unreadable ones."""
        encoded = [self.dialect.encode_ballot(messages) for messages in prompts]
        sampling = replace(
            self.sampling, stop_token_ids=self.dialect.ballot_stop_ids, max_tokens=self.ballot_tokens
        )
        return [
            [ballot for completion in completions if (ballot := self._ballot(completion)) is not None]
            for completions in self._generate(encoded, sampling, seeds)
        ]

    def _ballot(self, completion: Completion) -> Ballot | None:
        truncated = completion.finish_reason == "length"
        return self.dialect.read_ballot(completion.token_ids, truncated=truncated)

    def _generate(
        self, prompts: Sequence[list[int]], sampling: SamplingParameters, seeds: Sequence[Sequence[int]]
    ) -> list[list[Completion]]:
        """Send all requests that fit as one batch, and sort the completions by prompt."""
        fitting = {
            index for index, prompt in enumerate(prompts) if self.engine.fits(prompt, sampling.max_tokens)
        }
        skipped = len(prompts) - len(fitting)
        if skipped:
            self.skipped += skipped
            logger.warning(
                "%s: skipped %d of %d prompts, too long for a context of %d tokens with %d new ones",
                self.directory, skipped, len(prompts), self.engine.max_context, sampling.max_tokens,
            )  # fmt: skip
        requests = [(index, seed) for index in sorted(fitting) for seed in seeds[index]]
        completions: list[list[Completion]] = [[] for _ in prompts]
        if requests:
            batch = [prompts[index] for index, _ in requests]
            generated = self.engine.generate(batch, sampling, [seed for _, seed in requests])
            for (index, _), completion in zip(requests, generated, strict=True):
                completions[index].append(completion)
        return completions
