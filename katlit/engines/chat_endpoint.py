"""A model behind an OpenAI-compatible interface, which is all that is known of it: turns in, text out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import override

from katlit.engines.base import Completion, RolloutEngine, SamplingParameters
from katlit.engines.chat_client import ChatClient, ChatRequest
from katlit.engines.chat_line import ChatLine
from katlit.engines.chat_reply import Reply
from katlit.engines.chat_tally import Tally
from katlit.errors import UserError, require

_LONGEST = 2**31


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class EndpointLimits:
    """How much is asked of a server, and for how long.

    Args:
        concurrency: Requests in flight.
        requests_per_minute: Most of them that start in a minute; null: no limit.
        tokens_per_minute: Most tokens, of prompts and replies; null: no limit.
        timeout: Seconds for one reply.
        retries: Attempts after the first one, where the server is busy (429), fails (5xx), says nothing, or
            something else than a reply.
        longest_wait: Most seconds between two attempts; a `Retry-After` of the server's may be longer.
    """

    concurrency: int = 64
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout: float = 600.0
    retries: int = 8
    longest_wait: float = 60.0

    def __post_init__(self) -> None:
        """Refuse what would ask nothing."""
        require(self.concurrency >= 1, "limits.concurrency", self.concurrency, "at least 1")
        require(self.retries >= 0, "limits.retries", self.retries, "0 or more")
        for key in ("requests_per_minute", "tokens_per_minute", "timeout", "longest_wait"):
            value = getattr(self, key)
            require(value is None or value > 0, f"limits.{key}", value, "a number above 0")


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class TokenPrices:
    """What a million tokens cost, in whatever currency.

    Args:
        prompt: Price of those of prompts.
        reply: Price of those of replies, thoughts among them.
    """

    prompt: float = 0.0
    reply: float = 0.0


_LIMITS = EndpointLimits()


class ChatEndpoint(RolloutEngine):
    """Labels by a model behind an OpenAI-compatible server, of which not even a tokenizer is needed.

    Conversations go to `/chat/completions`; thought comes back as `reasoning`, `reasoning_content` or within
    `<think>`. The model is the labeller's: its name as the server has it, or `endpoint:NAME` where nothing
    but the endpoint has that model. It cannot sample rollouts, since training needs tokens.

    Args:
        url: Address of the server, with the version: `https://api.example.com/v1`.
        key_variable: Environment variable that holds the key; null: the server wants none.
        think_on: What the body of a request has more where thought is wanted, for instance
            `{reasoning_effort: high}` or `{chat_template_kwargs: {enable_thinking: true}}`.
        think_off: The same for direct answers and votes. Where both are empty, thought is asked for in words.
        body: What the body of every request has more, or in place of what it has; null leaves a key out, as
            in `{max_tokens: null, max_completion_tokens: 8192}`.
        limits: Requests in flight and a minute, attempts, waits.
        prices: Prices of a million tokens, to log the cost.
    """

    def __init__(
        self,
        url: str,
        key_variable: str | None = "OPENAI_API_KEY",
        think_on: dict[str, Any] | None = None,
        think_off: dict[str, Any] | None = None,
        body: dict[str, Any] | None = None,
        limits: EndpointLimits = _LIMITS,
        prices: TokenPrices | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"engine.url: {url!r}; give http://host:port/v1, or https://…")
        self.url = url.rstrip("/")
        self.key_variable = key_variable
        self.think_on = think_on or {}
        self.think_off = think_off or {}
        self.body = body or {}
        self.limits = limits
        self.prices = prices

    def chat(
        self,
        requests: Sequence[ChatRequest],
        model: str,
        keep: Callable[[int, Reply], None],
        tally: Tally,
        *,
        known: bool = False,
    ) -> None:
        """Send all requests, many at a time.

        Args:
            requests: What is asked.
            model: Name of the model.
            keep: Receives the number of a request and its reply, as they come, once each. What has got no
                reply in all attempts is missing.
            tally: Counts what becomes of them, also where it ends with an error.
            known: Whether the server has answered such requests before, so that it may refuse any number.

        Raises:
            UserError: where the server refuses the key, or answers nothing that is a reply.
        """
        self._client().chat(requests, model, self.body, self.limits.concurrency, keep, known, tally)

    def open_line(self) -> ChatLine:
        """Return a line on which single requests are asked; open it with `async with`."""
        return ChatLine(self._client(), self.body, self.limits.concurrency)

    def _client(self) -> ChatClient:
        limits = self.limits
        return ChatClient(
            self.url, self.key_variable, limits.timeout, limits.retries, limits.longest_wait,
            limits.requests_per_minute, limits.tokens_per_minute,
        )  # fmt: skip

    def cost(self, prompt_tokens: int, reply_tokens: int) -> float | None:
        """What so many tokens cost; None where no prices are given."""
        if self.prices is None:
            return None
        return (prompt_tokens * self.prices.prompt + reply_tokens * self.prices.reply) / 1e6

    def start(self, model_directory: Path) -> None:  # noqa: ARG002 (the contract's, here and below)
        """Refuse: there is no model to load."""
        raise _no_rollouts()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],  # noqa: ARG002
        sampling: SamplingParameters,  # noqa: ARG002
        seeds: Sequence[int] | None = None,  # noqa: ARG002
        finished: Callable[[int, Completion], None] | None = None,  # noqa: ARG002
    ) -> list[Completion]:
        """Refuse: it takes no tokens."""
        raise _no_rollouts()

    def sync_weights(self, named_weights: Iterable[tuple[str, Tensor]]) -> None:  # noqa: ARG002
        """Refuse: nobody can change the weights."""
        raise _no_rollouts()

    def close(self) -> None:
        """Nothing: the server goes on."""

    @property
    @override
    def max_context(self) -> int:
        """Whatever the server takes."""
        return _LONGEST


def _no_rollouts() -> UserError:
    return UserError(
        "engine: katlit.engines.ChatEndpoint knows text only, so it serves labelling; choose "
        "katlit.engines.VLLMEngine or another engine that samples tokens"
    )
