"""Stage 3: batches of prompts, without those that the model always solves."""

import json
import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from lightning import LightningDataModule

from katlit.batch import Prompt, RolloutBatch
from katlit.datamodules.contents import Contents, contents_of, require_same
from katlit.datamodules.history import History
from katlit.datamodules.loader import EpochLoader, Share, share_of
from katlit.datamodules.references import OnUnverifiable, verifiable
from katlit.datamodules.sources.base import PromptSource
from katlit.datamodules.sources.curriculum import Curriculum, CurriculumStage
from katlit.errors import UserError, require
from katlit.parallel.collectives import gathered
from katlit.rollout.fillers import Judges, require_one_sampler

logger = logging.getLogger(__name__)

PromptLoader = EpochLoader[list[Prompt], RolloutBatch]
Outcome = tuple[str, bool | None]  # a prompt's id, and whether a rollout was correct; None: unjudged


class PromptData(LightningDataModule):
    """Data of stage 3: prompts that the policy answers.

    The order of training prompts depends on seed and epoch alone. Whoever scores the rollouts calls
    `record_outcomes` after each step; prompts solved in an epoch are not drawn in later ones, and the
    history travels with the checkpoint.

    Args:
        train: Prompts to train on, or a `Curriculum` of several sets.
        validation: Prompts to validate on.
        test: Prompts to evaluate on, always in their own order.
        predict: Prompts to answer, always in their own order.
        batch_size: Prompts a micro-batch on one rank, in the mean: those of
            `updates * trainer.accumulate_grad_batches` micro-batches are rolled out together, and their
            rollouts divided by tokens. So for the same rollouts in smaller forward passes, lower this and
            raise `accumulate_grad_batches`. Where an epoch has fewer prompts than all ranks roll out
            together, some are there several times, with the same seeds; that is warned of.
        updates: Optimizer steps on each batch of rollouts.
        history: Drop prompts whose rollouts were all correct.
        unverifiable: What becomes of prompts to train, validate or evaluate on whose answers the reward can
            not judge, by their reference, tests or verifier: `drop` leaves them out and says so, `refuse`
            stops before anything is sampled.
        seed: Seed of the order.
    """

    def __init__(
        self,
        train: PromptSource | Curriculum | None = None,
        validation: PromptSource | None = None,
        test: PromptSource | None = None,
        predict: PromptSource | None = None,
        batch_size: int = 16,
        updates: int = 1,
        history: bool = True,
        unverifiable: OnUnverifiable = "drop",
        seed: int = 0,
    ) -> None:
        super().__init__()
        require(batch_size >= 1, "batch_size", batch_size, "at least 1")
        require(updates >= 1, "updates", updates, "at least 1")
        self._updates = updates
        self._train = Curriculum([CurriculumStage(train)]) if isinstance(train, PromptSource) else train
        self._stages: list[list[Prompt]] = []  # of the curriculum
        self._sources = {"validation": validation, "test": test, "predict": predict}
        self._loaded: dict[str, list[Prompt]] = {}
        self._batch_size = batch_size
        self._unverifiable: OnUnverifiable = unverifiable
        self._history = History() if history else None
        self._seed = seed
        self._warned = False  # of copies
        self._saved: list[Contents] | None = None  # what a checkpoint was written with
        if validation is not None:
            # Lightning takes a defined `val_dataloader` as a promise, and warns where it is not kept.
            self.val_dataloader = self._validation_dataloader

    def prepare_data(self) -> None:
        """Read and check the prompts before models are loaded, as `setup` would, which keeps them then."""
        if self.trainer is not None:
            running = self.trainer.state.fn  # none under `katlit label`, which takes the settings of fit
            self.setup("fit" if running is None else running.value)

    def setup(self, stage: str) -> None:
        """Load the prompts of a stage, on every rank alike, without those that cannot be verified.

        Raises:
            UserError: where no callback, or more than one, samples these prompts; where prompts that cannot
                be verified are refused, or all that there are.
        """
        sampler = None if self.trainer is None else require_one_sampler(self.trainer, stage)
        problem = sampler.reference_problem if isinstance(sampler, Judges) else None
        needed = {"fit": ["validation"], "validate": ["validation"]}
        for name in needed.get(stage, [stage]):
            source = self._sources[name]
            if source is not None and name not in self._loaded:
                self._loaded[name] = self._checked(source.read(), source, name, problem)
        if stage != "fit" or self._stages:
            return
        if self._train is None:
            raise UserError("PromptData: no training prompts; set data.init_args.train to a prompt source")
        self._stages = [
            self._checked(prompts, part.prompts, "train", problem)
            for prompts, part in zip(self._train.load(), self._train.stages, strict=True)
        ]
        self._require_saved()

    def _checked(
        self,
        prompts: list[Prompt],
        source: PromptSource,
        name: str,
        problem: Callable[[Prompt], str | None] | None,
    ) -> list[Prompt]:
        """The prompts of a set; all of them where nobody judges, as under `katlit predict`."""
        if problem is None:
            return prompts
        return verifiable(prompts, problem, source, f"data.init_args.{name}", self._unverifiable)

    def record_outcomes(self, batch: RolloutBatch) -> None:
        """Take note of which prompts of a scored batch were always solved; every rank must call it.

        A prompt that is there several times, or on several ranks, is noted once, with all its rollouts.

        Raises:
            KeyError: if the batch was not rolled out.
        """
        if self._history is None:
            return
        merged: dict[str, list[bool | None]] = {}
        for prompt_id, correct in (outcome for rank in gathered(_outcomes(batch)) for outcome in rank):
            merged.setdefault(prompt_id, []).append(correct)
        for prompt_id, found in merged.items():
            judged = [correct for correct in found if correct is not None]
            self._history.record(prompt_id, judged, self._epoch(), unjudged=len(found) - len(judged))

    def history_counts(self) -> dict[str, int]:
        """What `History.counts` says of the present epoch; nothing without a history."""
        if self._history is None:
            return {}
        return self._history.counts(self._candidates(self._epoch()), self._epoch())

    def _epoch(self) -> int:
        return 0 if self.trainer is None else self.trainer.current_epoch

    def _candidates(self, epoch: int) -> dict[str, Prompt]:
        """The prompts that an epoch could draw from, by their ids."""
        assert self._train is not None  # noqa: S101
        return {prompt["id"]: prompt for prompt in self._train.of_epoch(self._stages, epoch)}

    def _plan(self, epoch: int, share: Share) -> list[list[Prompt]]:
        by_id = self._candidates(epoch)
        active = list(by_id) if self._history is None else self._history.active(by_id, epoch)
        Random(f"{self._seed}/{epoch}").shuffle(active)  # noqa: S311 (an order, not a secret)
        batches = self._chunks([by_id[prompt_id] for prompt_id in active])
        # Steps of one size; a set smaller than a batch is still a batch.
        if len(batches) > 1 and len(batches[-1]) < self._batch_size:
            batches = batches[:-1]
        self._warn_of_copies(len(batches), len(active), share)
        return batches

    def _warn_of_copies(self, batches: int, prompts: int, share: Share) -> None:
        """Once, where an epoch is wrapped within what is rolled out together: equal seeds, equal rollouts."""
        each = share.world * share.window
        if self._warned or batches >= each or share.rank:
            return
        self._warned = True
        logger.warning(
            "%d prompts are left to draw, in %d batches of up to %d, but a step rolls out %d batches "
            "(devices x accumulate_grad_batches x data.init_args.updates): prompts are there up to %d times, "
            "and their copies get the same rollouts and add nothing. Lower data.init_args.batch_size to %d, "
            "or one of the three factors, or add prompts",
            prompts, batches, self._batch_size, each, -(-each // batches), max(prompts // each, 1),
        )  # fmt: skip

    def _chunks(self, prompts: Sequence[Prompt]) -> list[list[Prompt]]:
        return [
            list(prompts[start : start + self._batch_size])
            for start in range(0, len(prompts), self._batch_size)
        ]

    def train_dataloader(self) -> PromptLoader:
        """Batches of the prompts that are not solved yet."""
        share = share_of(self.trainer, updates=self._updates)
        return EpochLoader(lambda epoch: self._plan(epoch, share), _rollout_batch, share)

    def _validation_dataloader(self) -> PromptLoader:
        """Batches in fixed order."""
        return self._in_order("validation")

    def test_dataloader(self) -> PromptLoader:
        """Batches in fixed order.

        Raises:
            UserError: if there are no test prompts.
        """
        return self._in_order("test")

    def predict_dataloader(self) -> PromptLoader:
        """Batches in fixed order.

        Raises:
            UserError: if there are no prompts to answer.
        """
        return self._in_order("predict")

    def _in_order(self, name: str) -> PromptLoader:
        if name not in self._loaded:
            raise UserError(f"PromptData: no {name} prompts; set data.init_args.{name} to a prompt source")
        return EpochLoader(
            lambda _: self._chunks(self._loaded[name]), _rollout_batch, share_of(self.trainer, steps=False)
        )

    def _contents(self) -> list[Contents]:
        """What each set of the curriculum holds."""
        return [
            contents_of(json.dumps(prompt, sort_keys=True, default=str).encode() for prompt in prompts)
            for prompts in self._stages
        ]

    def _require_saved(self) -> None:
        """Refuse prompts that are not the checkpoint's, as soon as both are known."""
        if self._saved is not None and self._stages:
            require_same(self._saved, self._contents(), "data.init_args.train")

    def state_dict(self) -> dict[str, Any]:
        """Return what the prompts are, and the history."""
        history = {} if self._history is None else {"history": self._history.state_dict()}
        return {"train": self._contents()} | history

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the history.

        Raises:
            UserError: where the checkpoint is of other training prompts.
        """
        self._saved = state_dict.get("train")
        self._require_saved()
        if self._history is not None and "history" in state_dict:
            self._history.load_state_dict(state_dict["history"])


def _outcomes(batch: RolloutBatch) -> list[Outcome]:
    """Of each rollout, those included that a reward could not judge."""
    ids = [prompt["id"] for prompt in batch["prompts"]]
    pairs = zip(batch["group_ids"].tolist(), batch["correct"].tolist(), strict=True)
    judged: list[Outcome] = [(ids[group], right) for group, right in pairs]
    return judged + [(row["record"]["prompt_id"], None) for row in batch.get("unjudged", [])]


def _rollout_batch(prompts: list[Prompt]) -> RolloutBatch:
    """A fresh dictionary each time: the rollout callback fills it in place."""
    return {"prompts": list(prompts)}
