"""A model one talks to through a rollout engine, in tokens, whatever its dialect."""

from array import array
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

from typing_extensions import override

from katlit.batch import Prompt
from katlit.datamodules.dialects.base import Ballot, Dialect
from katlit.datamodules.dialects.dialects import BALLOT_TEMPLATE, choose_dialect
from katlit.datamodules.dialects.habits import ThinkingSettings
from katlit.datamodules.labelling.chat_model import ChatModel, Reply, Request, Said
from katlit.datamodules.labelling.reply_cache import ReplyCache
from katlit.engines.base import Completion, RolloutEngine, SamplingParameters, request_seed
from katlit.model.hub import local_directory
from katlit.model.pretrained import declared_ends, load_tokenizer
from katlit.text.protocol import Thinking

_THINKING = ThinkingSettings()


class EngineModel(ChatModel):
    """A model that an engine loads; what it says is kept as its tokens, and how it ended.

    Args:
        directory: Hugging Face directory of the model, or its name on the hub.
        engine: Engine to sample with.
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
        super().__init__(directory, engine, sampling, ballot_tokens, replies)
        self._tokenizer = load_tokenizer(directory, "model")
        ends = declared_ends(directory, "model")
        self.dialect: Dialect = choose_dialect(self._tokenizer, directory, ballot_template, ends, thinking)
        self._started = False

    @override
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._started = False
        super().__exit__(kind, error, traceback)

    @override
    def settings(self) -> dict[str, Any]:
        return self.dialect.settings()

    @override
    def check(self, prompts: Iterable[Prompt]) -> None:
        self.dialect.check((prompt["messages"], prompt.get("tools")) for prompt in prompts)

    def begin(self, questions: Sequence[str], thinking: Thinking, tokens: int) -> list[list[int]]:
        """Return the likeliest first tokens of a reply to each question, whatever the sampling is."""
        asked = [[{"role": "user", "content": question}] for question in questions]
        encoded = [self.dialect.encode_prompt(messages, thinking) for messages in asked]
        tokens = min(tokens, self.sampling.max_tokens)
        sampling = SamplingParameters(
            temperature=0.0, max_tokens=tokens, stop_token_ids=self.dialect.stop_ids
        )
        seeds = [[request_seed("begin", thinking, number)] for number in range(len(questions))]
        replies = self._generate(encoded, sampling, seeds, f"think-{thinking} questions")
        return [said[0] for each in replies for said in each]

    @override
    def _ask(self, prompt: Prompt, thinking: Thinking) -> list[int]:
        return self.dialect.encode_prompt(prompt["messages"], thinking, prompt.get("tools"))

    @override
    def _ask_ballot(self, prompt: Prompt) -> list[int]:
        return self.dialect.encode_ballot(prompt["messages"], prompt.get("tools"))

    @override
    def _stops(self, *, ballot: bool) -> list[int]:
        return self.dialect.ballot_stop_ids if ballot else self.dialect.stop_ids

    @override
    def prompt_tokens(self, asked: list[int], said: Said) -> int:
        return len(asked)

    @override
    def _fits(self, asked: list[int], max_tokens: int) -> bool:
        return self.engine.fits(asked, max_tokens)

    @override
    def _send(
        self,
        requests: Sequence[tuple[list[int], int]],
        sampling: SamplingParameters,
        keep: Callable[[int, Said], None],
        *,
        known: bool,
    ) -> None:
        if not self._started:
            self.engine.shares_device = False
            self.engine.start(local_directory(self.directory, "model"))
            self._started = True
        kept: set[int] = set()

        def finished(place: int, completion: Completion) -> None:
            kept.add(place)
            keep(place, [completion.token_ids, completion.finish_reason])

        prompts, seeds = zip(*requests, strict=True)
        completions = self.engine.generate(prompts, sampling, seeds, finished)
        for place, completion in enumerate(completions):
            if place not in kept:  # not every engine tells
                finished(place, completion)

    def answer(self, requests: Sequence[Request]) -> list[Said]:
        """Have requests of the same sampling settings replied to as one batch, and keep each reply."""
        said: dict[int, Said] = {}
        batch = [(request.asked, request.seed) for request in requests]
        self.progress.begin(self.directory, len(batch), 0)

        def keep(number: int, value: Said) -> None:
            said[number] = value
            self.keep(requests[number].key, value)
            self.progress.step()

        self._send(batch, requests[0].sampling, keep, known=True)
        return [said[number] for number in range(len(requests))]

    def release(self) -> None:
        """Let another model have the engine."""
        self._started = False
        self.engine.close()

    @override
    def _reply(self, said: Said, thinking: Thinking, prompt: Prompt) -> Reply:
        token_ids, reason = said
        truncated = reason == "length"
        parsed = self.dialect.read(token_ids, thinking, truncated=truncated, tools=prompt.get("tools"))
        # All are held until the end.
        return Reply(parsed, [array("i", token_ids), reason], len(token_ids), truncated)

    @override
    def _ballot(self, said: Said) -> Ballot | None:
        return self.dialect.read_ballot(said[0], truncated=self._is_cut(said))

    @override
    def _is_cut(self, said: Said) -> bool:
        return bool(said[1] == "length")

    @override
    def _text(self, said: Said) -> str:
        return str(self._tokenizer.decode(list(said[0]), skip_special_tokens=False))
