"""Base of the supervised stages' data: label once, read on every rank, split, batch."""

import logging
from abc import abstractmethod
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Generic, TypeVar

from lightning import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn

from katlit.batch import TokenBatch
from katlit.datamodules.contents import Contents, contents_of, require_same
from katlit.datamodules.dialects.base import Dialect
from katlit.datamodules.dialects.dialects import load_dialect
from katlit.datamodules.dialects.habits import ThinkingSettings
from katlit.datamodules.fitting import fitting
from katlit.datamodules.labelling.base import Labeller
from katlit.datamodules.labelling.cache import read_cached
from katlit.datamodules.labelling.engine_model import EngineModel
from katlit.datamodules.labelling.labels import Asking, Labels, Sources
from katlit.datamodules.labelling.summary import keep_summary
from katlit.datamodules.loader import EpochLoader, share_of
from katlit.datamodules.records import Record, read_records
from katlit.datamodules.sources.base import PromptSource
from katlit.engines.base import RolloutEngine, SamplingParameters
from katlit.errors import UserError, require
from katlit.packing import Document, plan_epoch
from katlit.rewards import AccuracyReward, Reward

logger = logging.getLogger(__name__)

BatchT = TypeVar("BatchT", bound=TokenBatch)


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class BatchSettings:
    """Settings of batches: tokens, packing and validation share.

    Attributes:
        batch_tokens: Most tokens of a batch on one rank, padding included; longer documents are dropped.
        packing: Put several documents into a row; otherwise rows of similar length share a batch.
        row_tokens: Length of a packed row.
        validation_share: Share of the queries kept for validation.
        seed: Seed of the split and of the order.
    """

    batch_tokens: int = 4096
    packing: bool = False
    row_tokens: int = 1024
    validation_share: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse batches that hold nothing, and a split that leaves nothing to train on."""
        require(self.batch_tokens >= 1, "batch_tokens", self.batch_tokens, "at least 1")
        require(self.row_tokens >= 1, "row_tokens", self.row_tokens, "at least 1")
        share = self.validation_share
        require(0 <= share < 1, "validation_share", share, "a share from 0 to below 1")

    def deciding(self) -> dict[str, Any]:
        """Return those that what is in a batch depends on."""
        return asdict(self) | {"row_tokens": self.row_tokens if self.packing else None}


class LabelledData(LightningDataModule, Generic[BatchT]):
    """Base of the supervised data: records from a file, or labelled once and cached.

    `prepare_data` (one process of all) labels, `setup` (every rank) reads; so machines must share the file
    system of `cache_dir`. Subclasses only encode.
    """

    def __init__(
        self,
        prompts: PromptSource | None,
        engine: RolloutEngine | None,
        accuracy: Reward | None,
        labeller: Labeller | None,
        sampling: SamplingParameters,
        ballot_tokens: int,
        ballot_template: str,
        thinking: ThinkingSettings,
        batches: BatchSettings,
        records_file: str | None,
        cache_dir: str,
    ) -> None:
        super().__init__()
        self.prepare_data_per_node = False  # what is sampled twice differs
        self._thinking = thinking
        self._ballot_template = ballot_template
        self._labels: Labels | None = None
        if prompts is not None and labeller is not None and engine is not None:
            engine.require_room(sampling)
            sources = Sources(prompts, labeller, engine, accuracy or AccuracyReward())
            asking = Asking(sampling, ballot_tokens, ballot_template)
            self._labels = Labels(self.kind, sources, asking, self.thinking_of, cache_dir)
        self._batches = batches
        self._records_file = records_file
        self._contents: Contents | None = None
        self._saved: Contents | None = None  # what a checkpoint was written with
        self._saved_batches: dict[str, Any] = {}  # and how it composed them
        self.dropped = 0  # documents longer than a batch
        self.lengths: list[int] = []  # tokens of each document on the student's side
        self.train_indices: list[int] = []
        self.validation_indices: list[int] = []
        if batches.validation_share > 0:
            # Lightning takes a defined `val_dataloader` as a promise, and warns where it is not kept.
            self.val_dataloader = self._validation_dataloader

    @property
    @abstractmethod
    def kind(self) -> str:
        """Name of the cache's files."""

    @abstractmethod
    def encode(self, records: list[Record]) -> list[Document]:
        """Turn records into what the student reads."""

    @abstractmethod
    def build(self, rows: list[list[int]]) -> BatchT:
        """Turn rows of document indices into a batch."""

    def records_path(self) -> Path:
        """Return the file of records: the given one, or the cache's, which need not exist yet."""
        return Path(self._records_file) if self._records_file is not None else self._require_labels().path()

    def thinking_of(self, source: str) -> ThinkingSettings:  # noqa: ARG002 (a subclass may tell models apart)
        """Return what is known of how a model thinks."""
        return self._thinking

    def dialect_of(self, source: str, key: str) -> Dialect:
        """Return how a model is spoken to: as it was for the labels, else as its template tells."""
        if self._labels is not None and self._records_file is None:
            for model in self._labels.models(ask=False):
                if isinstance(model, EngineModel) and model.directory == source:
                    return model.dialect
        return load_dialect(source, key, self._ballot_template, self.thinking_of(source))

    def _require_labels(self) -> Labels:
        if self._labels is None:
            raise UserError(
                f"{type(self).__name__}: nothing to label; give prompts, a labeller and an engine, "
                "or a records_file"
            )
        return self._labels

    def require_labels(self) -> None:
        """Refuse to train on several processes without records, where their engine has to start on all.

        Raises:
            UserError: before any of them starts to wait for the others.
        """
        if self._records_file is None and not (labels := self._require_labels()).path().is_file():
            labels.require_one_starter()

    def shared_folder(self) -> Path | None:
        """Return the folder that all processes that label must have in common; None where none labels."""
        return None if self._records_file is not None else self._require_labels().folder

    def settle_models(self) -> None:
        """Find out how the labeller's models think; in one process, before several label."""
        if self._records_file is None:
            self._require_labels().models(ask=True)

    def survey_share(self, number: int, shares: int) -> None:
        """Ask the models what must be known of all prompts before any is labelled, of a share of them.

        Args:
            number: Share to ask about, from 0.
            shares: Shares that there are.
        """
        if self._records_file is None:
            self._require_labels().answer(number, shares, survey=True)

    def label_share(self, number: int, shares: int) -> None:
        """Ask the models all that labelling a share of the prompts asks them, and keep their replies.

        `prepare_data` then makes the records of what was kept, the same for any number of shares.

        Args:
            number: Share to label, from 0.
            shares: Shares that there are.
        """
        if self._records_file is None:
            self._require_labels().answer(number, shares)

    def prepare_data(self) -> None:
        """Label the prompts, unless the records exist; the engine is closed on any way out."""
        if self._records_file is not None:
            read_records(Path(self._records_file))
            return
        labels = self._require_labels()
        waiting = self.trainer.world_size - 1 if self.trainer and self.trainer.training else 0
        if waiting and not labels.path().is_file():
            logger.warning(
                "labels: this process makes them alone, and %d others wait for it, however long; katlit "
                "label with the same settings makes them on all",
                waiting,
            )
        labels.make()
        if self.trainer is not None:
            keep_summary(self.records_path(), Path(self.trainer.default_root_dir))

    def setup(self, stage: str) -> None:  # noqa: ARG002 (Lightning's signature)
        """Read and encode the records, drop over-long documents, split off the validation share."""
        if self.train_indices:
            return
        path = self.records_path()
        if self._records_file is None and not path.is_file():
            raise UserError(f"{path}: no labels; set cache_dir to a folder that all machines share")
        records = read_records(path) if self._records_file is not None else read_cached(path)
        documents = self.encode(records)
        self.lengths = [len(document.token_ids) for document in documents]
        usable = fitting(records, self.lengths, self._batches.batch_tokens, path)
        self.dropped = len(documents) - len(usable)
        # By query, not by record: a query may have several, with the same answer.
        queries = list(dict.fromkeys(records[index].id for index in usable))
        order = Random(self._batches.seed).sample(queries, len(queries))  # noqa: S311 (a split)
        share = self._batches.validation_share
        count = min(max(round(share * len(order)), int(share > 0)), len(order) - 1)
        chosen = set(order[:count])
        self.validation_indices = [index for index in usable if records[index].id in chosen]
        self.train_indices = [index for index in usable if records[index].id not in chosen]

        self._contents = contents_of(
            array("q", one.token_ids).tobytes() + bytes(one.loss_mask) for one in documents
        )
        self._require_saved()

    def _require_saved(self) -> None:
        """Refuse documents that are not the checkpoint's, as soon as both are known."""
        if self._saved is None or self._contents is None:
            return
        if self.trainer is None or self.trainer.state.fn in (None, TrainerFn.FITTING):
            require_same([self._saved], [self._contents], f"{type(self).__name__} ({self.records_path()})")

    def state_dict(self) -> dict[str, Any]:
        """Return what the documents are, and what composes batches of them."""
        return {"documents": self._contents, "batches": self._batches.deciding()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the documents.

        Raises:
            UserError: where the checkpoint is of others.
        """
        self._saved = state_dict.get("documents")
        self._saved_batches = state_dict.get("batches", {})
        self._require_saved()

    def batch_changes(self) -> dict[str, tuple[Any, Any]]:
        """Return settings that now compose other batches: what the checkpoint has of each, and what it is."""
        now = self._batches.deciding()
        return {
            f"data.init_args.batches.{name}": (old, now[name])
            for name, old in self._saved_batches.items()
            if old != now[name]
        }

    def _plan(self, indices: Sequence[int], epoch: int) -> list[list[list[int]]]:
        plan = plan_epoch(
            [self.lengths[index] for index in indices],
            self._batches.batch_tokens,
            self._batches.row_tokens if self._batches.packing else None,
            self._batches.seed,
            epoch,
        )
        return [[[indices[index] for index in row] for row in rows] for rows in plan]

    def train_dataloader(self) -> EpochLoader[list[list[int]], BatchT]:
        """Batches in a new order each epoch."""
        return EpochLoader(
            lambda epoch: self._plan(self.train_indices, epoch), self.build, share_of(self.trainer)
        )

    def _validation_dataloader(self) -> EpochLoader[list[list[int]], BatchT]:
        """Batches in one order."""
        return EpochLoader(
            lambda _: self._plan(self.validation_indices, 0), self.build, share_of(self.trainer, steps=False)
        )
