"""A model one talks to through a rollout engine, whatever its dialect."""

import logging
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from types import TracebackType

from katlit.batch import Prompt
from katlit.datamodules.dialects.base import Ballot, Dialect
from katlit.datamodules.dialects.dialects import BALLOT_TEMPLATE, choose_dialect
from katlit.datamodules.dialects.habits import ThinkingSettings
from katlit.datamodules.labelling.rejections import Reason, Rejections
from katlit.datamodules.labelling.reply_cache import ReplyCache, request_key
from katlit.datamodules.progress import Progress
from katlit.engines.base import Completion, RolloutEngine, SamplingParameters, request_seed
from katlit.errors import UserError
from katlit.model.hub import local_directory
from katlit.model.pretrained import declared_ends, load_tokenizer
from katlit.text.printable import escaped
from katlit.text.protocol import Mode, ParsedResponse, Thinking

logger = logging.getLogger(__name__)

_FIRST = 16  # prompts whose ballots are read before any other is asked for
_THINKING = ThinkingSettings()


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply of a model."""

    parsed: ParsedResponse
    token_ids: Sequence[int]
    truncated: bool

    @property
    def tokens(self) -> int:
        """How many tokens the model generated."""
        return len(self.token_ids)


class ChatModel:
    """A model behind an engine; a context manager that starts the engine when needed and always closes it.

    Prompts that do not fit the engine's context are skipped: they get no samples and no ballots, and
    `skipped` counts them. `rejections` holds what a labeller did not keep of its replies, and `unread` counts
    the ballots that are no vote.

    Args:
        directory: Hugging Face directory of the model, or its name on the hub.
        engine: Engine to sample with; two models may share one if they are used one after the other.
        sampling: Sampling settings; the stop tokens are the dialect's.
        ballot_tokens: Longest ballot, in tokens.
        ballot_template: Question put to a model that does not speak our protocol; holds `{question}`.
        thinking: How a model that does not speak our protocol thinks, as far as it is known.
        replies: What the model has replied before; the engine starts with the first request that is not
            there. None: nothing is kept.
    """

    def __init__(
        self,
        directory: str,
        engine: RolloutEngine,
        sampling: SamplingParameters,
        ballot_tokens: int = 64,
        ballot_template: str = BALLOT_TEMPLATE,
        thinking: ThinkingSettings = _THINKING,
        replies: ReplyCache | None = None,
    ) -> None:
        self.directory = directory
        self.engine = engine
        self.sampling = sampling
        self.ballot_tokens = ballot_tokens
        self._tokenizer = load_tokenizer(directory, "model")
        ends = declared_ends(directory, "model")
        self.dialect: Dialect = choose_dialect(self._tokenizer, directory, ballot_template, ends, thinking)
        self.skipped = 0
        self.unread = 0
        self.rejections = Rejections(directory)
        self.progress = Progress()
        self._replies = replies
        self._started = False

    def __enter__(self) -> "ChatModel":
        if self._replies is None:
            try:
                self._start()
            except BaseException:
                self.engine.close()
                raise
        return self

    def _start(self) -> None:
        """Start the engine, if it does not run."""
        if not self._started:
            self.engine.start(local_directory(self.directory, "model"))
            self._started = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._started = False
        self.engine.close()
        if self._replies is not None:
            self._replies.close()

    def check(self, prompts: Iterable[Prompt]) -> None:
        """Raise UserError for prompts that the model's template refuses, before anything is sampled."""
        self.dialect.check((prompt["messages"], prompt.get("tools")) for prompt in prompts)

    def begin(self, questions: Sequence[str], thinking: Thinking, tokens: int) -> list[list[int]]:
        """Sample the first tokens of a reply to each question."""
        asked = [[{"role": "user", "content": question}] for question in questions]
        encoded = [self.dialect.encode_prompt(messages, thinking) for messages in asked]
        tokens = min(tokens, self.sampling.max_tokens)
        sampling = replace(self.sampling, stop_token_ids=self.dialect.stop_ids, max_tokens=tokens)
        seeds = [[request_seed("begin", thinking, number)] for number in range(len(questions))]
        replies = self._generate(encoded, sampling, seeds, f"think-{thinking} questions")
        return [completion.token_ids for completions in replies for completion in completions]

    def sample(
        self, prompts: Sequence[Prompt], thinking: Thinking, seeds: Sequence[Sequence[int]]
    ) -> list[list[Reply]]:
        """Sample replies, as many for each prompt as it has seeds."""
        encoded = [self.dialect.encode_prompt(p["messages"], thinking, p.get("tools")) for p in prompts]
        sampling = replace(self.sampling, stop_token_ids=self.dialect.stop_ids)
        generated = self._generate(encoded, sampling, seeds, f"think-{thinking}")
        return [
            [self._reply(completion, thinking, prompt) for completion in completions]
            for prompt, completions in zip(prompts, generated, strict=True)
        ]

    def _reply(self, completion: Completion, thinking: Thinking, prompt: Prompt) -> Reply:
        truncated = completion.finish_reason == "length"
        tools = prompt.get("tools")
        parsed = self.dialect.read(completion.token_ids, thinking, truncated=truncated, tools=tools)
        return Reply(parsed, array("i", completion.token_ids), truncated)  # all are kept until the end

    def reject(self, reply: Reply, reason: Reason, mode: Mode, prompt: Prompt, why: str) -> None:
        """Count a reply that is not kept.

        Args:
            reply: The reply.
            reason: Why it is not kept.
            mode: The mode that was asked for.
            prompt: What it answers.
            why: The reason in more words.
        """
        self.rejections.add(reason, mode, prompt["id"], why, self._text(reply.token_ids))

    def _text(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=False))

    def ballots(self, prompts: Sequence[Prompt], seeds: Sequence[Sequence[int]]) -> list[list[Ballot]]:
        """Collect votes on "does this need multi-step reasoning?", one a seed, without unreadable ones.

        Raises:
            UserError: where none of the first ones can be read; nothing else has been asked then.
        """
        before = self.unread
        votes = self._ballots(prompts[:_FIRST], seeds[:_FIRST])
        votes += self._ballots(prompts[_FIRST:], seeds[_FIRST:], was_read=any(votes))
        if self.unread > before:
            logger.warning(
                "%s: %d ballots are no vote and do not count, %d are votes",
                self.directory, self.unread - before, sum(map(len, votes)),
            )  # fmt: skip
        return votes

    def _ballots(
        self, prompts: Sequence[Prompt], seeds: Sequence[Sequence[int]], *, was_read: bool = False
    ) -> list[list[Ballot]]:
        encoded = [self.dialect.encode_ballot(p["messages"], p.get("tools")) for p in prompts]
        sampling = replace(
            self.sampling, stop_token_ids=self.dialect.ballot_stop_ids, max_tokens=self.ballot_tokens
        )
        generated = self._generate(encoded, sampling, seeds, "votes")
        read = [[self._ballot(completion) for completion in completions] for completions in generated]
        votes = [[ballot for ballot in ballots if ballot is not None] for ballots in read]
        asked = [completion for completions in generated for completion in completions]
        unread = len(asked) - sum(map(len, votes))
        if unread and not was_read and not any(votes):
            self._refuse_ballots(asked)
        self.unread += unread
        return votes

    def _refuse_ballots(self, asked: Sequence[Completion]) -> None:
        """Say what the first ballots look like, none of which is a vote."""
        cut = sum(completion.finish_reason == "length" for completion in asked)
        text = escaped(self._text(asked[0].token_ids))
        raise UserError(
            f"data.ballot_tokens: {self.ballot_tokens}; none of the first {len(asked)} ballots of "
            f"{self.directory!r} is a vote, {cut} were cut there, and the first one is '{text:.160}'; raise "
            "it for a model that thinks first, change data.ballot_template, or name another model to vote"
        )

    def _ballot(self, completion: Completion) -> Ballot | None:
        truncated = completion.finish_reason == "length"
        return self.dialect.read_ballot(completion.token_ids, truncated=truncated)

    def _generate(
        self,
        prompts: Sequence[list[int]],
        sampling: SamplingParameters,
        seeds: Sequence[Sequence[int]],
        work: str,
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
        answered = self._answer([(prompts[index], seed) for index, seed in requests], sampling, work)
        completions: list[list[Completion]] = [[] for _ in prompts]
        for (index, _), completion in zip(requests, answered, strict=True):
            completions[index].append(completion)
        return completions

    def _answer(
        self, requests: Sequence[tuple[list[int], int]], sampling: SamplingParameters, work: str
    ) -> list[Completion]:
        """Look up what was answered before, have the rest sampled, and keep each reply as it comes."""
        keys = [request_key(prompt, asdict(sampling), seed) for prompt, seed in requests]
        known = [self._known(key) for key in keys]
        missing = [number for number, completion in enumerate(known) if completion is None]
        if not missing:
            return [completion for completion in known if completion is not None]
        self._start()
        self.progress.begin(f"{self.directory}: {work}", len(requests), len(requests) - len(missing))
        kept: set[int] = set()

        def keep(place: int, completion: Completion) -> None:
            kept.add(place)
            if self._replies is not None:
                self._replies.put(keys[missing[place]], [completion.token_ids, completion.finish_reason])
            self.progress.step()

        prompts, seeds = zip(*(requests[number] for number in missing), strict=True)
        generated = self.engine.generate(prompts, sampling, seeds, keep)
        for place, (number, completion) in enumerate(zip(missing, generated, strict=True)):
            if place not in kept:  # not every engine tells
                keep(place, completion)
            known[number] = completion
        return [completion for completion in known if completion is not None]

    def _known(self, key: str) -> Completion | None:
        """The reply to a request that was answered before; its log-probabilities are not kept."""
        value = None if self._replies is None else self._replies.get(key)
        return None if value is None else Completion(value[0], [], value[1])
