"""A model one talks to, whatever it is reached by; what it has replied before is not asked again."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any, TypeAlias

from katlit.batch import Prompt
from katlit.datamodules.dialects.base import Ballot
from katlit.datamodules.labelling.rejections import Reason, Rejections
from katlit.datamodules.labelling.reply_cache import ReplyCache, request_key
from katlit.engines.base import RolloutEngine, SamplingParameters
from katlit.errors import UserError
from katlit.progress import Progress
from katlit.text.printable import escaped
from katlit.text.protocol import Mode, ParsedResponse, Thinking

logger = logging.getLogger(__name__)

_FIRST = 16  # prompts whose ballots are read before any other is asked for

Asked: TypeAlias = Any
"""What a model is asked, as it is sent, and as JSON can write it."""
Said: TypeAlias = Any
"""What it said, as it is kept."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply of a model."""

    parsed: ParsedResponse
    said: Said
    tokens: int  # how many the model generated
    truncated: bool


@dataclass(frozen=True, slots=True)
class Request:
    """One request, by which the reply to it is known."""

    asked: Asked
    sampling: SamplingParameters
    seed: int

    @property
    def key(self) -> str:
        """What the reply is kept by."""
        return request_key(self.asked, vars(self.sampling), self.seed)


class ChatModel(ABC):
    """A model and what it is reached by; a context manager that always closes that.

    Prompts that do not fit its context are skipped: they get no samples and no ballots, and `skipped` counts
    them. `rejections` holds what a labeller did not keep of its replies, and `unread` counts the ballots that
    are no vote. Requests that are refused are missing among the samples.

    Args:
        directory: Name of the model.
        engine: What it is reached by; two models may share one if they are used one after the other.
        sampling: Sampling settings; the stop tokens are the model's.
        ballot_tokens: Longest ballot, in tokens.
        replies: What the model has replied before. None: nothing is kept.
    """

    def __init__(
        self,
        directory: str,
        engine: RolloutEngine,
        sampling: SamplingParameters,
        ballot_tokens: int,
        replies: ReplyCache | None,
    ) -> None:
        self.directory = directory
        self.engine = engine
        self.sampling = sampling
        self.ballot_tokens = ballot_tokens
        self.partial = False  # whether another pass asks for what gets no reply in this one
        self.skipped = 0
        self.unread = 0
        self.rejections = Rejections(directory)
        self.progress = Progress()
        self._replies = replies
        self._answered: set[str] = set()  # the kinds of work of which a reply is known

    def __enter__(self) -> "ChatModel":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.engine.close()
        if self._replies is not None:
            self._replies.close()

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return all that changes what is asked, or how it is read, beside the model itself."""

    @abstractmethod
    def check(self, prompts: Iterable[Prompt]) -> None:
        """Raise UserError for prompts that the model does not take, before anything is sampled."""

    @abstractmethod
    def _ask(self, prompt: Prompt, thinking: Thinking) -> Asked: ...

    @abstractmethod
    def _ask_ballot(self, prompt: Prompt) -> Asked: ...

    @abstractmethod
    def prompt_tokens(self, asked: Asked, said: Said) -> int:
        """Return how many tokens a request had."""

    @abstractmethod
    def _stops(self, *, ballot: bool) -> list[int]:
        """Tokens that end a reply."""

    @abstractmethod
    def _fits(self, asked: Asked, max_tokens: int) -> bool:
        """Tell whether the context holds it, with so many new tokens."""

    @abstractmethod
    def _send(
        self,
        requests: Sequence[tuple[Asked, int]],
        sampling: SamplingParameters,
        keep: Callable[[int, Said], None],
        *,
        known: bool,
    ) -> None:
        """Have each request, with its seed, replied to; `keep` gets its number and the reply as it comes.

        `known` tells whether the model has replied to such requests before.
        """

    @abstractmethod
    def _reply(self, said: Said, thinking: Thinking, prompt: Prompt) -> Reply: ...

    @abstractmethod
    def _ballot(self, said: Said) -> Ballot | None: ...

    @abstractmethod
    def _is_cut(self, said: Said) -> bool: ...

    @abstractmethod
    def _text(self, said: Said) -> str: ...

    def sample(
        self, prompts: Sequence[Prompt], thinking: Thinking, seeds: Sequence[Sequence[int]]
    ) -> list[list[Reply]]:
        """Sample replies, as many for each prompt as it has seeds."""
        asked = [self._ask(prompt, thinking) for prompt in prompts]
        sampling = replace(self.sampling, stop_token_ids=self._stops(ballot=False))
        generated = self._generate(asked, sampling, seeds, f"think-{thinking}", prompts)
        return [
            [self._reply(said, thinking, prompt) for said in each]
            for prompt, each in zip(prompts, generated, strict=True)
        ]

    def phrase(self, prompt: Prompt, thinking: Thinking, sampling: SamplingParameters, seed: int) -> Request:
        """Write a single request; it is sent by whoever wants to know.

        Args:
            prompt: Conversation, and the tools that it offers.
            thinking: Whether the model is to think.
            sampling: Sampling settings; the stop tokens are the model's.
            seed: Seed of the reply.
        """
        stops = self._stops(ballot=False)
        return Request(self._ask(prompt, thinking), replace(sampling, stop_token_ids=stops), seed)

    def fits(self, request: Request) -> bool:
        """Tell whether the context holds a request and its reply."""
        return self._fits(request.asked, request.sampling.max_tokens)

    def recall(self, key: str) -> Said | None:
        """Return what was said to the request of a key before; None where nothing was."""
        return None if self._replies is None else self._replies.get(key)

    def keep(self, key: str, said: Said) -> None:
        """Keep what was said to the request of a key."""
        if self._replies is not None:
            self._replies.put(key, said)

    def read(self, said: Said, thinking: Thinking, prompt: Prompt) -> Reply:
        """Read what was said."""
        return self._reply(said, thinking, prompt)

    def reject(self, reply: Reply, reason: Reason, mode: Mode, prompt: Prompt, why: str) -> None:
        """Count a reply that is not kept.

        Args:
            reply: The reply.
            reason: Why it is not kept.
            mode: The mode that was asked for.
            prompt: What it answers.
            why: The reason in more words.
        """
        self.rejections.add(reason, mode, prompt["id"], why, self._text(reply.said))

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
        asked = [self._ask_ballot(prompt) for prompt in prompts]
        stops = self._stops(ballot=True)
        sampling = replace(self.sampling, stop_token_ids=stops, max_tokens=self.ballot_tokens)
        generated = self._generate(asked, sampling, seeds, "votes", prompts)
        read = [[self._ballot(said) for said in each] for each in generated]
        votes = [[ballot for ballot in ballots if ballot is not None] for ballots in read]
        said = [one for each in generated for one in each]
        unread = len(said) - sum(map(len, votes))
        if unread and not was_read and not any(votes):
            self._refuse_ballots(said)
        self.unread += unread
        return votes

    def _refuse_ballots(self, said: Sequence[Said]) -> None:
        """Say what the first ballots look like, none of which is a vote."""
        cut = sum(map(self._is_cut, said))
        text = escaped(self._text(said[0]))
        raise UserError(
            f"data.ballot_tokens: {self.ballot_tokens}; none of the first {len(said)} ballots of "
            f"{self.directory!r} is a vote, {cut} were cut there, and the first one is '{text:.160}'; raise "
            "it for a model that thinks first, change data.ballot_template, or name another model to vote"
        )

    def _generate(
        self,
        asked: Sequence[Asked],
        sampling: SamplingParameters,
        seeds: Sequence[Sequence[int]],
        work: str,
        prompts: Sequence[Prompt] = (),
    ) -> list[list[Said]]:
        """Have all that fits replied to as one batch; sort replies by prompt, count what `prompts` lack."""
        fitting = [index for index, one in enumerate(asked) if self._fits(one, sampling.max_tokens)]
        if skipped := len(asked) - len(fitting):
            self.skipped += skipped
            logger.warning(
                "%s: skipped %d of %d prompts, too long for a context of %d tokens with %d new ones",
                self.directory, skipped, len(asked), self.engine.max_context, sampling.max_tokens,
            )  # fmt: skip
        requests = [(index, seed) for index in fitting for seed in seeds[index]]
        said = self._look_up([(asked[index], seed) for index, seed in requests], sampling, work)
        replies: list[list[Said]] = [[] for _ in asked]
        for number, (index, _) in enumerate(requests):
            if number in said:
                replies[index].append(said[number])
        for index in fitting if prompts else ():
            self.rejections.count_replies(work, prompts[index]["id"], len(seeds[index]), len(replies[index]))
        return replies

    def _look_up(
        self, requests: Sequence[tuple[Asked, int]], sampling: SamplingParameters, work: str
    ) -> dict[int, Said]:
        """Replies by the number of the request: what is kept from before, and the rest, kept as it comes."""
        keys = [request_key(asked, asdict(sampling), seed) for asked, seed in requests]
        found = {} if self._replies is None else {n: self._replies.get(key) for n, key in enumerate(keys)}
        said = {number: value for number, value in found.items() if value is not None}
        missing = [number for number in range(len(requests)) if number not in said]
        if said:
            self._answered.add(work)
        if not missing:
            return said
        self.progress.begin(f"{self.directory}: {work}", len(requests), len(said))

        def keep(place: int, value: Said) -> None:
            number = missing[place]
            said[number] = value
            if self._replies is not None:
                self._replies.put(keys[number], value)
            self.progress.step()

        known = work in self._answered
        self._send([requests[number] for number in missing], sampling, keep, known=known)
        if said:
            self._answered.add(work)
        return said
