"""The labels of a stage: made once of its prompts, by one process or by several that share the prompts."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from katlit.batch import Prompt
from katlit.datamodules.dialects.habits import ThinkingSettings
from katlit.datamodules.jsonl import write_rows
from katlit.datamodules.labelling.base import Labeller
from katlit.datamodules.labelling.cache import cache_file, cached_records, fingerprint, hash_model, pickled
from katlit.datamodules.labelling.chat_model import ChatModel
from katlit.datamodules.labelling.endpoint_model import EndpointModel
from katlit.datamodules.labelling.engine_model import EngineModel
from katlit.datamodules.labelling.probe import settle
from katlit.datamodules.labelling.rejections import report
from katlit.datamodules.labelling.reply_cache import ReplyCache
from katlit.datamodules.labelling.summary import write_summary
from katlit.datamodules.records import Record
from katlit.datamodules.references import say_unverified, verifiable
from katlit.datamodules.sources.base import PromptSource
from katlit.engines.base import RolloutEngine, SamplingParameters
from katlit.engines.chat_endpoint import ChatEndpoint
from katlit.engines.vllm.server.engine import VLLMServer
from katlit.errors import UserError
from katlit.output import require_writable
from katlit.rewards import Reward
from katlit.teacher.by_mode import name_at_endpoint

logger = logging.getLogger(__name__)

_PROMPTS = "data.init_args.prompts"


@dataclass(frozen=True, slots=True)
class Sources:
    """What labelling needs; none of it is touched when a file of records is given."""

    prompts: PromptSource
    labeller: Labeller
    engine: RolloutEngine
    accuracy: Reward


@dataclass(frozen=True, slots=True)
class Asking:
    """How the models are asked."""

    sampling: SamplingParameters
    ballot_tokens: int
    ballot_template: str


class Labels:
    """Records that a labeller makes of the prompts, and all replies of its models, each kept as it comes.

    A model's replies are kept by what it is and what it was asked, so other settings find them too.

    Args:
        kind: Name of the files of records.
        sources: What is labelled by whom.
        asking: How the models are asked.
        thinking_of: What is known of how a model thinks.
        cache_dir: Folder of the records, of what was found out about the models, and of their replies.
    """

    def __init__(
        self,
        kind: str,
        sources: Sources,
        asking: Asking,
        thinking_of: Callable[[str], ThinkingSettings],
        cache_dir: str,
    ) -> None:
        self._kind = kind
        self._sources = sources
        self._asking = asking
        self._thinking_of = thinking_of
        self._cache_dir = cache_dir
        self._models: list[ChatModel] | None = None
        self._hashes: list[str] = []
        self._prompts: list[Prompt] | None = None
        self._path: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder of all that is kept."""
        return Path(self._cache_dir)

    def path(self) -> Path:
        """Return the file of records, which need not exist yet."""
        if self._path is None:
            inputs = self._inputs(self.models(ask=False))
            key = fingerprint(inputs, self._hashes, self.prompts())
            self._path = cache_file(self._cache_dir, self._kind, key)
        return self._path

    def models(self, *, ask: bool) -> list[ChatModel]:
        """Return the labeller's models; how they think is found out if `ask`, else known as far as it is."""
        if self._models is None:
            names = self._sources.labeller.models()
            engines = [engine or self._sources.engine for engine in self._sources.labeller.engines()]
            self._hashes = self._hashes or list(map(self._contents, names, engines))
            self._models = list(map(self._model, names, engines, self._hashes))
        for model, contents in zip(self._models, self._hashes, strict=True):
            if isinstance(model, EngineModel):
                settle(model, self._cache_dir, contents, ask=ask)
        if ask:
            self._path = None  # it depends on what they have answered
        return self._models

    def _contents(self, name: str, engine: RolloutEngine) -> str:
        """What a model is known by; one behind an endpoint by its name, wherever the endpoint is."""
        if isinstance(engine, ChatEndpoint):
            return f"endpoint {name_at_endpoint(name)}"
        if name_at_endpoint(name) != name:
            raise UserError(
                f"data.labeller: {name!r} is a model that only an endpoint has; set data.engine to "
                "katlit.engines.ChatEndpoint"
            )
        return hash_model(name)

    def _model(self, name: str, engine: RolloutEngine, contents: str) -> ChatModel:
        how = self._asking
        shared = how.sampling, how.ballot_tokens, how.ballot_template, self._thinking_of(name)
        if isinstance(engine, ChatEndpoint):
            return EndpointModel(name, engine, *shared, self._replies(contents))
        return EngineModel(name, engine, *shared, self._replies(contents))

    def _replies(self, contents: str) -> ReplyCache:
        """What a model has replied before, in any run with this `cache_dir`."""
        name = hashlib.sha256(contents.encode()).hexdigest()[:24]
        return ReplyCache(Path(self._cache_dir) / f"replies-{name}")

    def _inputs(self, models: list[ChatModel]) -> dict[str, Any]:
        """All that changes the labels beside the models and the prompts."""
        sources = self._sources
        return {
            "labeller": [type(sources.labeller).__qualname__, sources.labeller.settings()],
            "sampling": asdict(self._asking.sampling),
            "ballots": self._asking.ballot_tokens,
            "context": sources.engine.max_context,  # longer prompts are left out
            "dialects": [model.settings() for model in models],
            "accuracy": pickled(sources.accuracy).hex(),
        }

    def prompts(self) -> list[Prompt]:
        """Return what is labelled; what has a reference that no answer can be judged by is left out."""
        if self._prompts is None:
            sources = self._sources
            self._prompts = verifiable(
                sources.prompts.read(),
                lambda prompt: (
                    sources.accuracy.reference_problem(prompt) if prompt["reference"].strip() else None
                ),
                sources.prompts,
                _PROMPTS,
            )
            say_unverified(self._prompts, _PROMPTS)
        return self._prompts

    def require_one_starter(self) -> None:
        """Refuse engines that one of several processes cannot start by itself."""
        for engine in [self._sources.engine, *self._sources.labeller.engines()]:
            if engine is not None and engine.starts_together:
                raise UserError(
                    f"data.cache_dir: {self._cache_dir!r} has no records for these settings, and of several "
                    f"processes that train none can make them by {type(engine).__name__}; run the same "
                    "command with label in place of fit first, which makes them on all devices"
                )
        self._path = None  # which the process that labels may come to know better

    def make(self) -> None:
        """Write the records, unless they are there; what was replied before is not asked again."""
        try:
            models = self.models(ask=True)
            cached_records(self.path(), lambda: self._label(models))
        finally:
            self._close()

    def _label(self, models: list[ChatModel]) -> list[Record]:
        prompts, labeller = self.prompts(), self._sources.labeller
        labeller.check(prompts, models)
        labeller.survey(prompts, models, self._sources.accuracy)
        tools = {prompt["id"]: prompt.get("tools", []) for prompt in prompts}
        records = [
            record if record.tools else replace(record, tools=tools.get(record.id, []))
            for record in labeller.label(prompts, models, self._sources.accuracy)
        ]
        for name, rows in labeller.beside().items():
            write_rows(self.path().with_name(f"{name}-{self.path().name}"), rows)
        report([model.rejections for model in models], records, len(prompts), self.path())
        write_summary([model.rejections for model in models], records, len(prompts), self.path())
        return records

    def answer(self, number: int, shares: int, *, survey: bool = False) -> None:
        """Let the models reply to all that labelling a share of the prompts asks them.

        How they think must be settled. The records of the share are dropped: `make` makes those of all
        prompts of the replies, so that they are the same for any number of shares.

        Args:
            number: Share to label, from 0.
            shares: Shares that there are.
            survey: Only ask what must be known of all prompts before any is labelled.
        """
        for engine in [self._sources.engine, *self._sources.labeller.engines()]:
            if isinstance(engine, VLLMServer) and engine.url is not None:
                raise UserError(
                    f"data.engine.url: {shares} processes label, but one only can join a vLLM server; set "
                    "trainer.devices to 1, or engine to katlit.engines.ChatEndpoint"
                )
        if self.path().is_file():
            return
        require_writable(self._cache_dir, "cache_dir")
        models, prompts = self.models(ask=False), self.prompts()
        share = prompts[number::shares]
        logger.info("labels: share %d of %d, %d of %d prompts", number + 1, shares, len(share), len(prompts))
        for model in models:
            model.partial = True
        labeller, accuracy = self._sources.labeller, self._sources.accuracy
        try:
            labeller.check(prompts, models)
            labeller.survey(share if survey else prompts, models, accuracy)
            if not survey:
                labeller.label(share, models, accuracy)
        finally:
            self._models = None  # what they have counted was of this share
            self._close()

    def _close(self) -> None:
        self._sources.engine.close()
        self._sources.accuracy.close()
