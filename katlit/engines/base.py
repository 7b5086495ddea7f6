"""The contract of a rollout engine: token ids in, token ids and their log-probabilities out.

The log-probability of a sampled token is that of the distribution it was drawn from: log softmax of
logits / temperature over the tokens that `top_k` and `top_p` keep; at temperature 0, of the logits as they
are. Our choice, and the same for all engines. A trainer that recomputes it divides its logits by the
temperature.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor
from typing_extensions import override

from katlit.engines.fingerprint import Fingerprint
from katlit.errors import UserError
from katlit.metrics.tally import Tally
from katlit.model.generation import TokenSampling
from katlit.model.shape import Shape


@dataclass(frozen=True)  # no slots: jsonargparse merges a partial override by vars()
class SamplingParameters(TokenSampling):
    """Sampling settings of a request: the distribution of a token, and where a completion ends.

    Args:
        max_tokens: Longest completion, the stop token counted.
        stop_token_ids: End a completion; the engine knows no others.
    """

    max_tokens: int = 1024
    stop_token_ids: list[int] = field(default_factory=list)

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tokens < 1:
            raise UserError(f"max_tokens: {self.max_tokens}; give at least 1")


@dataclass(frozen=True, slots=True)
class Completion:
    """What was generated after one prompt; the stop token is included in `token_ids`."""

    token_ids: list[int]
    log_probs: list[float]  # of each token, see the head of this file; same length
    finish_reason: Literal["stop", "length"]


class RolloutEngine(ABC):
    """Samples from a model that the trainer keeps in step through `sync_weights`.

    Constructors only keep settings; `start` allocates.
    """

    # Whether `generate` may run in a thread while the trainer trains, and `close` then ends it. In the
    # trainer's own process both would share cores or the device, so nothing would be gained.
    samples_beside_training: ClassVar[bool] = False
    # Whether `start` waits for the trainer's other processes, where there are any.
    starts_together: ClassVar[bool] = False
    # Whether the device holds what a trainer needs as well; whoever starts the engine knows.
    shares_device: bool = True

    @abstractmethod
    def start(self, model_directory: Path) -> None:
        """Load the Hugging Face directory: configuration and weights (safetensors); no tokenizer is needed.

        Raises:
            UserError: where the directory holds no model, or the engine is not installed.
        """

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParameters,
        seeds: Sequence[int] | None = None,
        finished: Callable[[int, Completion], None] | None = None,
    ) -> list[Completion]:
        """Sample one completion a prompt, in order.

        The same prompt, sampling parameters, weights and seed give the same tokens, whatever else is in the
        batch (but for rounding, where two tokens are all but equally likely). Prompts must fit: see `fits`.
        Without `seeds`, each call draws new ones; a run is then reproduced only as a whole. An engine that
        can calls `finished` with the index of each completion as it finishes, once and in this thread.

        Raises:
            ValueError: where a prompt is empty or does not fit, or `seeds` has another length.
        """

    @abstractmethod
    def sync_weights(self, named_weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace the weights by full tensors under Hugging Face names, `lm_head.weight` included.

        Those of the MTP modules too, where the engine `takes_mtp`.

        Copies; the caller's tensors may change afterwards.

        Raises:
            UserError: where a name is missing, unknown, or comes with another shape. The engine's weights are
                then neither the old nor the new ones.
        """

    def fingerprints(self) -> dict[str, Fingerprint]:
        """Fingerprints of the weights that the engine samples with, of those that it can read back.

        Under Hugging Face names, without the MTP modules', which change no sample. Every rank must call it.
        """
        return {}

    def sleep(self) -> None:  # noqa: B027 (most engines need not)
        """Give memory of the trainer's device back until the next `generate` or `sync_weights`."""

    @abstractmethod
    def close(self) -> None:
        """Free all memory and processes; safe to call twice, or before `start`."""

    @property
    def takes_mtp(self) -> bool:
        """Whether the engine drafts with the MTP modules, and so wants their weights as well."""
        return False

    @property
    def gives_memory_back(self) -> bool:
        """Whether, on a GPU, `sleep` leaves the trainer all that `memory` counts."""
        return False

    def memory(self, shape: Shape, dtype: str, device_memory: int) -> int | None:  # noqa: B027 (None as it is)
        """How much the engine takes of the device that trains; `katlit plan` asks, before any `start`.

        Args:
            shape: Shape of the policy.
            dtype: Type of the policy's weights, by torch's name.
            device_memory: Bytes of the GPU; 0 on the CPU.

        Returns:
            Bytes: 0 where the engine has devices of its own, None where it does not say.
        """

    def statistics(self) -> dict[str, Tally]:
        """Parts of means over this process's completions since it was last asked; logged by these names."""
        return {}

    @property
    @abstractmethod
    def max_context(self) -> int:
        """Longest prompt plus completion, in tokens."""

    def require_room(self, sampling: SamplingParameters) -> None:
        """Refuse completions that leave no room for a prompt, so that every prompt would be skipped.

        Raises:
            UserError: naming both lengths.
        """
        if sampling.max_tokens >= self.max_context:
            raise UserError(
                f"sampling.max_tokens: {sampling.max_tokens}, but the engine's max_context is "
                f"{self.max_context}, prompt included; lower max_tokens, or raise max_context"
            )

    def fits(self, prompt: Sequence[int], max_tokens: int) -> bool:
        """Whether the prompt and `max_tokens` new tokens stay within the context."""
        return len(prompt) + max_tokens <= self.max_context

    def check_request(
        self, prompts: Sequence[Sequence[int]], max_tokens: int, seeds: Sequence[int] | None
    ) -> None:
        """Raise ValueError for what `generate` does not take; engines call it first."""
        if seeds is not None and len(seeds) != len(prompts):
            raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts")
        for index, prompt in enumerate(prompts):
            if not prompt:
                raise ValueError(f"prompt {index} is empty")
            if not self.fits(prompt, max_tokens):
                raise ValueError(
                    f"prompt {index} has {len(prompt)} tokens; with max_tokens {max_tokens} it exceeds "
                    f"max_context {self.max_context}"
                )


def request_seed(*parts: object) -> int:
    """A seed from what names a request, so that it does not depend on the requests beside it.

    Args:
        parts: Run seed, step, prompt id, number of the sample, …

    Returns:
        From 0 to 2³¹ - 1.
    """
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 2**31
