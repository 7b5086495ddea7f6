"""Another source's queries, a share of which ask for their answer as a JSON object."""

from random import Random

from katlit.batch import Prompt
from katlit.datamodules.json_requests import asking_for_json
from katlit.datamodules.sources.base import PromptSource, SourceAround
from katlit.errors import require

_NO_OBJECTS = ("code", "tool_calls")  # verifiers that read no answer out of an object


class JSONPrompts(SourceAround):
    """Another source's queries, a share of which ask for a JSON object with the key "answer" (our choice).

    Rewards read the answer out of the object. Stage 3 needs some where stage 2 has some (`json_share`), or
    what it learns it learns for free text alone. Queries whose answer is code or a call of a tool, or an
    object already, stay as they are.

    Args:
        source: The queries.
        share: Share of them that ask.
        seed: Seed of which these are, and of how they ask.
    """

    def __init__(self, source: PromptSource, share: float = 0.25, seed: str | int = 0) -> None:
        require(0 <= share <= 1, "JSONPrompts.share", share, "a share from 0 to 1")
        super().__init__(source)
        self.share = share
        self.seed = seed

    def load(self) -> list[Prompt]:
        """Load the queries, and let some ask.

        Raises:
            UserError: as the source does.
        """
        return [self._drawn(prompt) for prompt in self.source.read()]

    def _drawn(self, prompt: Prompt) -> Prompt:
        random = Random(f"{self.seed}/JSON/{prompt['id']}")  # noqa: S311 (reproducible data)
        other = prompt["verifier"] in _NO_OBJECTS or prompt["reference"].lstrip().startswith("{")
        if other or prompt.get("tools") or random.random() >= self.share:
            return prompt
        return {**prompt, "messages": asking_for_json(prompt["messages"], random)}
