"""The contract of a labeller: it chooses a mode for each query, and a response in that mode."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from katlit.batch import Prompt
from katlit.datamodules.labelling.chat_model import ChatModel
from katlit.datamodules.records import Record
from katlit.engines.base import RolloutEngine
from katlit.rewards import Reward


class Labeller(ABC):
    """Turns queries into records; the constructor only keeps settings.

    Labels are made once. They are made anew where the contents of the models, the settings or the prompts
    differ from those of all earlier runs, so `settings` must hold all that changes a label.
    """

    @abstractmethod
    def models(self) -> list[str]:
        """Return the directories of the models to talk to; their contents are part of the cache key."""

    def engines(self) -> list[RolloutEngine | None]:
        """Return what each of `models()` is reached by; None where it is the engine of the data."""
        return [None for _ in self.models()]

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return all knobs that change the labels, without the names of the models."""

    def check(self, prompts: Sequence[Prompt], models: Sequence[ChatModel]) -> None:
        """Refuse what a model's chat template cannot write, before anything is sampled.

        A model that only votes need not be asked, for its ballots hold the last question and nothing else.

        Args:
            prompts: As for `label`.
            models: As for `label`.

        Raises:
            UserError: naming the model.
        """
        for model in models:
            model.check(prompts)

    def survey(self, prompts: Sequence[Prompt], models: Sequence[ChatModel], accuracy: Reward) -> None:  # noqa: B027
        """Find out what depends on all prompts together, such as which of them think; called before `label`.

        Where several processes share the prompts each is called with its share first, so that no reply is
        asked for twice, then with all of them.

        Args:
            prompts: All queries, or a share of them.
            models: As for `label`.
            accuracy: As for `label`.
        """

    def beside(self) -> dict[str, Iterable[dict[str, Any]]]:
        """Return what is to be written beside the records that were made last: rows by the name of a file."""
        return {}

    @abstractmethod
    def label(self, prompts: Sequence[Prompt], models: Sequence[ChatModel], accuracy: Reward) -> list[Record]:
        """Label the queries; those that get no good response are left out.

        A record that names no tools gets those of the query of its id.

        Args:
            prompts: Queries to label.
            models: One chat model for each of `models()`, in that order. All share one engine, so open them
                one after the other, each in a `with` block.
            accuracy: Gives 1 to a correct answer; only asked where there is a reference.
        """
